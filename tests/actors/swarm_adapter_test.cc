// Sessions with adapters, and with everything that acts around a token together: what they say is what a
// plain loop of one row at a time says, beside others, and wherever they are broken off and gone on with.
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "actors/swarm.h"
#include "engine/around/context_stage.h"
#include "tests/actors/actors_environment.h"
#include "tests/actors/on_device.h"
#include "tests/actors/testing.h"
#include "tests/testing/adapters.h"
#include "tests/testing/polytopes.h"

namespace omni {
namespace {

using omni::testing::ActorsEnvironment;
using omni::testing::FixedAdapters;
using omni::testing::FixedPolytopes;
using omni::testing::MakeRequest;
using omni::testing::OnDevice;
using omni::testing::PlainLoop;
using omni::testing::PolytopeBytes;
using omni::testing::RandomAdapter;
using omni::testing::RandomPolytope;
using omni::testing::TinyModel;
using ::testing::HasSubstr;

constexpr char kHash[] = "0123456789abcdef0123456789abcdef";

// What a token tells of itself, as bytes.
std::string Told(TokenId token, const TokenNotes& notes, const std::optional<TokenConfidence>& confidence) {
  std::string told;
  const auto add = [&told](auto value) { told.append(reinterpret_cast<const char*>(&value), sizeof value); };
  add(token.value);
  if (notes.safety.has_value()) {
    add(notes.safety->distance);
    add(notes.safety->half_spaces);
  }
  if (notes.contexts.has_value()) {
    add(notes.contexts->weight);
    add(notes.contexts->order);
  }
  if (confidence.has_value()) {
    add(confidence->confidence);
    if (confidence->looked.has_value()) {
      const PerspectiveVerdict& v = *confidence->looked;
      add(v.disagreement);
      add(v.votes);
      add(static_cast<int>(v.disagree) + 2 * static_cast<int>(v.uncertain) + 4 * static_cast<int>(v.changed));
      add(v.token.value);
      add(v.probability);
    }
  }
  return told;
}

struct Said {
  std::vector<TokenId> tokens;
  std::vector<std::string> told;
  int moved = 0, recalled = 0, changed = 0;

  void Add(TokenId token, const TokenNotes& notes, const std::optional<TokenConfidence>& confidence) {
    tokens.push_back(token);
    told.push_back(Told(token, notes, confidence));
    moved += notes.safety.has_value() && notes.safety->distance > 0;
    recalled += notes.contexts.has_value() && notes.contexts->order > 0;
    changed += confidence.has_value() && confidence->looked.has_value() && confidence->looked->changed;
  }
};

class SwarmAdapterTest : public ::testing::TestWithParam<ModelConfig (*)()> {
 protected:
  SwarmAdapterTest() {
    adapters_.Put("one", Config(), RandomAdapter(Config(), kHash, 0.15f, 1));
    adapters_.Put("two", Config(), RandomAdapter(Config(), kHash, 0.15f, 2));
    SwarmOptions options;
    options.threads = 2;
    options.polytopes = &polytopes_;
    options.adapters = &adapters_;
    options.coordinator.max_rows = 24;
    auto swarm = Swarm::Start(ActorsEnvironment::Actors(), tiny_.model.weights(), tiny_.model,
                              tiny_.tokenizer, OnDevice(options));
    EXPECT_TRUE(swarm.ok()) << swarm.status();
    swarm_ = *std::move(swarm);
  }
  const ModelConfig& Config() const { return tiny_.model.config(); }

  GenerateRequest Request(const std::string& adapter, uint64_t seed = 1, int64_t prompt = 30,
                          int64_t tokens = 30) {
    GenerateRequest request = MakeRequest(tiny_, prompt, tokens, seed);
    // A text that says things again.
    for (size_t i = 8; i < request.prompt.size(); ++i) request.prompt[i] = request.prompt[i % 8];
    // So hot that what little a part changes is seen in the tokens.
    request.sampler.temperature = 2;
    request.sampler.top_k = 0;
    request.sampler.top_p = 1;
    request.adapter.name = adapter;
    return request;
  }
  GenerateRequest All(const std::string& adapter, const std::string& perspectives, uint64_t seed = 1,
                      int64_t prompt = 30, int64_t tokens = 30) {
    GenerateRequest request = Request(adapter, seed, prompt, tokens);
    request.perspectives = *ParsePerspectives(perspectives);
    request.safety.polytope = "tight";
    request.context_memory = true;
    return request;
  }

  Said Say(const GenerateRequest& request, SnapshotPtr from = nullptr) {
    Said said;
    result_ = swarm_->Generate(
        request,
        [&](const GenerateEvent& event) {
          if (event.is_token) said.Add(event.token, event.notes, event.confidence);
          return true;
        },
        std::move(from));
    EXPECT_TRUE(result_.ok()) << result_.status();
    return said;
  }

  // One row a pass, one session, no stage, no actor.
  Said Plain(const GenerateRequest& request) {
    WorkerPool pool(1);
    CpuDecoder decoder(tiny_.model.weights(), pool);
    const kernels::Ops& ops = decoder.ops();
    std::shared_ptr<const ReadyAdapter> adapter;
    if (!request.adapter.name.empty()) adapter = *adapters_.Take(request.adapter);
    AdaptedPositions* const positions = adapter == nullptr ? nullptr : adapter->policy();
    std::optional<HeldPolytope> polytope;
    if (!request.safety.polytope.empty()) polytope = *polytopes_.Take(request.safety);
    std::optional<SessionContexts> contexts;
    if (request.context_memory)
      contexts.emplace(std::make_shared<const ContextCode>(Config().d, Config().vocab), "");

    SessionState state(Config());
    std::vector<TokenId> tokens = request.prompt;
    std::vector<float> hidden, mixed;
    TokenNotes notes;
    const auto run = [&](SessionState& with, TokenId token, RoutePolicy* policy) {
      BatchRow row{&with, token, true, policy};
      if (adapter != nullptr) row.adapter = &adapter->rows();
      auto logits = RunBatch(decoder, Config(), tiny_.model, pool, {&row, 1});
      EXPECT_TRUE(logits.ok()) << logits.status();
      if (polytope.has_value()) {
        const auto projection = polytope->projector->Project(decoder.hidden(0));
        EXPECT_TRUE(projection.ok()) << projection.status();
        notes.safety = SafetyNote{static_cast<float>(projection->distance),
                                  static_cast<int32_t>(projection->active.size())};
        EXPECT_TRUE(decoder.StartLogits());
        logits = decoder.logits();
      }
      hidden.assign(decoder.hidden(0).begin(), decoder.hidden(0).end());
      return std::vector<float>(logits->begin(), logits->end());
    };
    Said said;
    for (size_t i = 0; std::ssize(said.tokens) < request.max_tokens; ++i) {
      const SessionState before = state.Clone();
      std::vector<std::vector<float>> logits = {run(state, tokens[i], positions)};
      TokenRow own;
      own.notes = notes;
      const std::vector<float> own_hidden = hidden;
      const auto position = static_cast<int64_t>(i + 1);
      const bool known = i + 1 < tokens.size();
      std::optional<TokenConfidence> confidence;
      std::optional<Judgement> judgement;
      std::span<const float> from = logits[0];
      if (request.perspectives.has_value() && !known) {
        const PerspectiveSettings& settings = *request.perspectives;
        if (DueAt(settings, position) ||
            (ExaminedAt(settings, position) && Uncertain(settings, ops, logits[0]))) {
          auto routes = PerspectiveRoutes(settings.kind, request.sampler.seed);
          for (PerspectiveRoute& route : routes) {
            SessionState copy = before.Clone();
            AmongMoved among(positions, route);
            logits.push_back(run(copy, tokens[i], &among));
          }
          const std::vector<std::span<const float>> spans(logits.begin(), logits.end());
          const float tau = TauOf(settings, nullptr);
          judgement = Judge(settings, ops, spans, tokens, request.sampler, tau);
          const PerspectiveVerdict& verdict = judgement->verdict;
          confidence = TokenConfidence{
              PerspectiveConfidence(nullptr, settings.kind, ops, spans, verdict.disagreement, tau), verdict};
          if (!judgement->average.empty()) {
            from = judgement->average;
          } else if (verdict.changed) {
            own.choice = Sampled{verdict.token, verdict.probability};
          }
        }
      }
      own.history = std::span<const TokenId>(tokens).first(i + 1);
      std::vector<float> y = own_hidden;
      own.hidden = y;
      own.model_logits = logits[0];
      own.logits = from;
      own.known = known;
      if (contexts.has_value() && contexts->Read(own, ops, mixed)) own.logits = mixed;
      if (known) continue;
      if (request.perspectives.has_value() && !confidence.has_value())
        confidence = TokenConfidence{OwnConfidence(nullptr, ops, own.logits), std::nullopt};
      if (!own.choice.has_value()) own.choice = Sample(own.logits, tokens, tokens.size(), request.sampler);
      said.Add(own.choice->token, own.notes, confidence);
      tokens.push_back(own.choice->token);
    }
    return said;
  }

  static std::vector<std::string> Join(std::vector<std::string> a, const std::vector<std::string>& b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
  }

  TinyModel tiny_{GetParam()()};
  FixedAdapters adapters_;
  FixedPolytopes polytopes_{PolytopeBytes({RandomPolytope("tight", Config().d, 40, 0.5f, 5)})};
  std::unique_ptr<Swarm> swarm_;
  absl::StatusOr<GenerateResult> result_ = absl::UnknownError("none yet");
};

INSTANTIATE_TEST_SUITE_P(Models, SwarmAdapterTest,
                         ::testing::Values(&testing::TinyConfig, &testing::AddressConfig),
                         [](const auto& info) { return info.index == 0 ? "Token" : "Address"; });

constexpr const char* kPerspectiveKinds[] = {"far,use=average,every=3,examine=2",
                                             "near,use=majority,every=2,examine=3,tau=0"};

TEST_P(SwarmAdapterTest, ASessionSaysWhatAPlainLoopSays) {
  const GenerateRequest request = Request("one");
  const Said want = Plain(request);
  EXPECT_EQ(Say(request).told, want.told);
  EXPECT_NE(want.tokens, PlainLoop(tiny_, request));  // it does something
  EXPECT_NE(Say(Request("two")).tokens, want.tokens);
  // And nothing for who does not ask.
  const GenerateRequest off = Request("");
  EXPECT_EQ(Say(off).tokens, PlainLoop(tiny_, off));
  EXPECT_EQ(swarm_->Stats().adapter_tokens, 60);
}

TEST_P(SwarmAdapterTest, AllPartsTogetherSayWhatAPlainLoopSays) {
  for (const char* perspectives : kPerspectiveKinds) {
    SCOPED_TRACE(perspectives);
    const GenerateRequest request = All("one", perspectives, 3);
    const Said want = Plain(request);
    EXPECT_EQ(Say(request).told, want.told);
    EXPECT_GT(want.moved, 5);
    EXPECT_GT(want.recalled, 5);
    EXPECT_GT(want.changed, 0);
    EXPECT_NE(Plain(All("", perspectives, 3)).tokens, want.tokens);
    EXPECT_NE(Plain(All("two", perspectives, 3)).tokens, want.tokens);
  }
}

TEST_P(SwarmAdapterTest, SessionsOfAllKindsBesideEachOtherSayWhatEachSaysAlone) {
  std::vector<GenerateRequest> requests;
  for (const char* adapter : {"one", "", "two", "one"}) {
    const auto seed = static_cast<uint64_t>(requests.size() + 1);
    requests.push_back(Request(adapter, seed, 15 + static_cast<int64_t>(seed) * 5, 20));
    requests.push_back(All(adapter, kPerspectiveKinds[seed % 2], seed, 20, 20));
  }
  std::vector<std::vector<std::string>> got(requests.size());
  std::vector<std::thread> threads;
  for (size_t i = 0; i < requests.size(); ++i) {
    threads.emplace_back([&, i] {
      const auto result = swarm_->Generate(requests[i], [&, i](const GenerateEvent& event) {
        if (event.is_token) got[i].push_back(Told(event.token, event.notes, event.confidence));
        return true;
      });
      EXPECT_TRUE(result.ok()) << result.status();
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (size_t i = 0; i < requests.size(); ++i) EXPECT_EQ(got[i], Plain(requests[i]).told) << i;
}

TEST_P(SwarmAdapterTest, WhereverItIsBrokenOffItGoesOnAsItWouldHave) {
  for (const char* perspectives : kPerspectiveKinds) {
    SCOPED_TRACE(perspectives);
    const GenerateRequest whole = All("one", perspectives, 4);
    const std::vector<std::string> want = Say(whole).told;
    GenerateRequest part = whole;
    part.max_tokens = 11;
    part.keep = true;
    const Said first = Say(part);
    const SnapshotPtr kept = result_->snapshot;
    ASSERT_NE(kept, nullptr);
    EXPECT_EQ(kept->request.adapter.hash, (*adapters_.Take({"one", ""}))->hash());
    GenerateRequest rest = kept->request;
    rest.max_tokens = whole.max_tokens;
    EXPECT_EQ(Join(first.told, Say(rest, kept).told), want);
    EXPECT_EQ(result_->timings.prompt_tokens, 1);
    auto restored = SessionSnapshot::Restore(Config(), kHash, kept->Save(kHash));
    ASSERT_TRUE(restored.ok()) << restored.status();
    EXPECT_EQ(restored->request.adapter, kept->request.adapter);
    GenerateRequest again = restored->request;
    again.max_tokens = whole.max_tokens;
    EXPECT_EQ(
        Join(first.told, Say(again, std::make_shared<const SessionSnapshot>(*std::move(restored))).told),
        want);
    // Another coordinator knows the tokens alone.
    GenerateRequest taken_up = whole;
    taken_up.generated = first.tokens;
    EXPECT_EQ(Join(first.told, Say(taken_up).told), want);
  }
}

TEST_P(SwarmAdapterTest, AStateOfAnotherAdapterIsNotGoneOnWith) {
  for (const char* begun : {"", "one"}) {
    GenerateRequest first = Request(begun, 4, 20, 10);
    first.keep = true;
    const Said said = Say(first);
    const SnapshotPtr kept = result_->snapshot;
    for (const char* next : {"", "one", "two"}) {
      const GenerateRequest request = Request(next, 5, 6, 15);
      GenerateRequest all = request;
      all.prompt = first.prompt;
      all.prompt.insert(all.prompt.end(), said.tokens.begin(), said.tokens.end());
      all.prompt.insert(all.prompt.end(), request.prompt.begin(), request.prompt.end());
      EXPECT_EQ(Say(request, kept).told, Plain(all).told) << begun << ", " << next;
      EXPECT_EQ(result_->timings.prompt_tokens == 1 + 6, std::string(begun) == next);
    }
  }
}

TEST_P(SwarmAdapterTest, WhoHasBegunKeepsItsAdapterWhenAnotherTakesItsName) {
  const GenerateRequest request = Request("one", 6);
  const Said want = Say(request);
  GenerateRequest part = request;
  part.max_tokens = 10;
  part.keep = true;
  const Said first = Say(part);
  const SnapshotPtr kept = result_->snapshot;
  bool replaced = false;
  Said under_way;
  const auto result = swarm_->Generate(request, [&](const GenerateEvent& event) {
    if (event.is_token) under_way.Add(event.token, event.notes, event.confidence);
    if (!std::exchange(replaced, true))
      adapters_.Put("one", Config(), RandomAdapter(Config(), kHash, 0.15f, 3));
    return true;
  });
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(under_way.told, want.told);
  EXPECT_NE(Say(request).tokens, want.tokens);
  // What is kept of the old one is not gone on with by the new one.
  GenerateRequest rest = kept->request;
  rest.max_tokens = request.max_tokens;
  const auto refused = swarm_->Generate(rest, nullptr, kept);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("goes on with the adapter 'one' of hash"));
  adapters_.Put("one", Config(), RandomAdapter(Config(), kHash, 0.15f, 1));
  EXPECT_EQ(Join(first.told, Say(rest, kept).told), want.told);
}

TEST_P(SwarmAdapterTest, WhatIsNotThereIsRefused) {
  GenerateRequest request = Request("three");
  EXPECT_EQ(swarm_->Submit(request).status().code(), absl::StatusCode::kInvalidArgument);
  request.adapter = {"three", std::string(32, '0')};
  EXPECT_EQ(swarm_->Submit(request).status().code(), absl::StatusCode::kFailedPrecondition);
  request = Request("one");
  request.embed = true;
  EXPECT_THAT(std::string(swarm_->Submit(request).status().message()), HasSubstr("together with an adapter"));
}

}  // namespace
}  // namespace omni
