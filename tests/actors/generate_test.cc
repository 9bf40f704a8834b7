// What a request may ask to be told beside the text, and embeddings: through a swarm, against a plain loop.
#include "actors/generate.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <map>
#include <memory>
#include <numeric>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "actors/swarm.h"
#include "tests/actors/actors_environment.h"
#include "tests/actors/testing.h"
#include "tests/testing/faulty_link.h"

namespace omni {
namespace {

using omni::testing::ActorsEnvironment;
using omni::testing::FaultyLinks;
using omni::testing::LinkFault;
using omni::testing::MakeRequest;
using omni::testing::TinyModel;

struct Told {
  std::vector<GenerateEvent> tokens;
  GenerateResult result;
};

class GenerateTest : public ::testing::Test {
 protected:
  std::unique_ptr<Swarm> Start(SwarmOptions options = {}) {
    if (options.threads == 0) options.threads = 1;
    auto swarm = Swarm::Start(ActorsEnvironment::Actors(), tiny_.model.weights(), tiny_.model,
                              tiny_.tokenizer, options);
    EXPECT_TRUE(swarm.ok()) << swarm.status();
    return *std::move(swarm);
  }
  static Told Ask(Swarm& swarm, const GenerateRequest& request, SnapshotPtr from = nullptr) {
    Told told;
    auto result = swarm.Generate(
        request,
        [&](const GenerateEvent& event) {
          if (event.is_token) told.tokens.push_back(event);
          return true;
        },
        std::move(from));
    EXPECT_TRUE(result.ok()) << result.status();
    if (result.ok()) told.result = *std::move(result);
    return told;
  }
  GenerateRequest Request(int64_t prompt, int64_t tokens, uint64_t seed) {
    GenerateRequest request = MakeRequest(tiny_, prompt, tokens, seed);
    request.alternatives = 7;
    request.routes = true;
    return request;
  }

  struct Row {
    std::vector<ExpertId> routes;  // by expert layer
    std::vector<float> logits, hidden;
  };
  // One token a pass, one session, no actor.
  std::vector<Row> PlainRows(std::span<const TokenId> tokens) {
    class Recorder : public RoutePolicy {
     public:
      ExpertId Choose(const RouteChoice& choice) override {
        routes.push_back(choice.nearest);
        return choice.nearest;
      }
      std::vector<ExpertId> routes;
    };
    WorkerPool pool(1);
    CpuDecoder decoder(tiny_.model.weights(), pool);
    SessionState state(tiny_.model.config());
    std::vector<Row> rows;
    for (TokenId token : tokens) {
      Recorder recorder;
      const BatchRow row{&state, token, true, &recorder};
      auto logits = RunBatch(decoder, tiny_.model.config(), tiny_.model, pool, {&row, 1});
      EXPECT_TRUE(logits.ok()) << logits.status();
      const std::span<const float> hidden = decoder.hidden(0);
      rows.push_back({recorder.routes, {logits->begin(), logits->end()}, {hidden.begin(), hidden.end()}});
    }
    return rows;
  }

  // Every token tells what the plain loop says of the row before it.
  void ExpectTold(const Told& told, std::vector<TokenId> before) {
    const std::vector<TokenId> answer = told.result.tokens;
    ASSERT_EQ(told.tokens.size(), answer.size());
    const size_t first = before.size() - 1;
    before.insert(before.end(), answer.begin(), answer.end());
    const std::vector<Row> rows = PlainRows(before);
    for (size_t i = 0; i < answer.size(); ++i) {
      const Row& row = rows[first + i];
      EXPECT_EQ(told.tokens[i].token, answer[i]);
      EXPECT_EQ(told.tokens[i].routes, row.routes) << i;
      ExpectLikeliest(told.tokens[i], row.logits);
    }
  }
  static void ExpectLikeliest(const GenerateEvent& event, const std::vector<float>& logits) {
    double sum = 0;
    for (float l : logits) sum += std::exp(static_cast<double>(l));
    std::vector<size_t> order(logits.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return logits[a] > logits[b]; });
    ASSERT_EQ(event.alternatives.size(), 7u);
    for (size_t i = 0; i < event.alternatives.size(); ++i) {
      const Sampled& told = event.alternatives[i];
      EXPECT_EQ(told.token.index(), order[i]);
      EXPECT_NEAR(told.probability, std::exp(static_cast<double>(logits[order[i]])) / sum, 1e-5);
      if (told.token == event.token) {
        EXPECT_EQ(told.probability, event.probability);
      }
    }
  }

  std::vector<float> MeanByHand(const std::vector<TokenId>& prompt) {
    std::vector<double> sum(static_cast<size_t>(tiny_.model.config().d));
    for (const Row& row : PlainRows(prompt)) {
      for (size_t i = 0; i < sum.size(); ++i) sum[i] += static_cast<double>(row.hidden[i]);
    }
    std::vector<float> mean;
    for (double s : sum) mean.push_back(static_cast<float>(s / static_cast<double>(prompt.size())));
    return mean;
  }

  GenerateRequest Embedding(int64_t prompt, uint64_t seed) {
    GenerateRequest request = MakeRequest(tiny_, prompt, 1, seed);
    request.embed = true;
    return request;
  }

  TinyModel tiny_;
};

TEST_F(GenerateTest, AlternativesAndRoutesAreThoseOfTheRowBeforeTheToken) {
  auto swarm = Start();
  for (int64_t prompt : {1, 9, 150}) {
    GenerateRequest request = Request(prompt, 12, static_cast<uint64_t>(prompt));
    ExpectTold(Ask(*swarm, request), request.prompt);
    request.sampler.temperature = 0;
    request.sampler.repetition_penalty = 1.5f;  // of which the told probabilities know nothing
    ExpectTold(Ask(*swarm, request), request.prompt);
  }
}

TEST_F(GenerateTest, WhatWasNotAskedForIsNotToldAndChangesNoToken) {
  auto swarm = Start();
  const GenerateRequest told = Request(9, 20, 3), plain = MakeRequest(tiny_, 9, 20, 3);
  const Told without = Ask(*swarm, plain);
  EXPECT_EQ(without.result.tokens, Ask(*swarm, told).result.tokens);
  for (const GenerateEvent& event : without.tokens) {
    EXPECT_TRUE(event.alternatives.empty());
    EXPECT_TRUE(event.routes.empty());
  }
  EXPECT_TRUE(without.result.embedding.empty());
}

TEST_F(GenerateTest, SessionsBesideEachOtherAreToldOfTheirOwnRows) {
  SwarmOptions options;
  options.threads = 2;
  options.coordinator.max_active = 4;
  options.coordinator.max_rows = 8;
  options.coordinator.prefill_rows_beside_decode = 3;
  auto swarm = Start(options);
  std::map<uint64_t, Told> told;
  std::map<uint64_t, std::vector<float>> embedded;
  for (uint64_t i = 0; i < 6; ++i) told[i], embedded[i];
  {
    std::vector<std::jthread> callers;
    for (uint64_t i = 0; i < 6; ++i) {
      callers.emplace_back([&, i] {
        told[i] = Ask(*swarm, Request(2 + 7 * static_cast<int64_t>(i), 12, i));
        embedded[i] = Ask(*swarm, Embedding(1 + 9 * static_cast<int64_t>(i), i)).result.embedding;
      });
    }
  }
  for (uint64_t i = 0; i < 6; ++i) {
    ExpectTold(told[i], Request(2 + 7 * static_cast<int64_t>(i), 12, i).prompt);
    EXPECT_EQ(embedded[i], MeanByHand(Embedding(1 + 9 * static_cast<int64_t>(i), i).prompt)) << i;
  }
}

TEST_F(GenerateTest, AnEmbeddingIsTheMeanOfThePromptsHiddenRowsHoweverItIsCut) {
  const GenerateRequest request = Embedding(50, 4);
  const std::vector<float> mean = MeanByHand(request.prompt);
  for (int rows : {1, 7, 64}) {
    SwarmOptions options;
    options.coordinator.max_active = 1;
    options.coordinator.max_rows = rows;
    auto swarm = Start(options);
    const Told told = Ask(*swarm, request);
    EXPECT_EQ(told.result.embedding, mean) << rows << " rows a step";
    EXPECT_TRUE(told.tokens.empty());
    EXPECT_TRUE(told.result.tokens.empty());
    EXPECT_EQ(told.result.text, "");
    EXPECT_EQ(told.result.reason, StopReason::kLength);
    EXPECT_EQ(told.result.timings.prompt_tokens, 50);
    EXPECT_GT(told.result.timings.prefill.count(), 0);
  }
}

TEST_F(GenerateTest, ALostRegionChangesNothingOfIt) {
  SwarmOptions options;
  std::atomic<int> jobs{0};
  options.make_link = FaultyLinks([&](const RegionRequest& request) {
    return request.attempt == 1 && ++jobs % 5 == 0 ? LinkFault::kBreak : LinkFault::kNone;
  });
  auto swarm = Start(options);
  const GenerateRequest request = Request(20, 12, 5);
  ExpectTold(Ask(*swarm, request), request.prompt);
  const GenerateRequest embedding = Embedding(30, 6);
  EXPECT_EQ(Ask(*swarm, embedding).result.embedding, MeanByHand(embedding.prompt));
  EXPECT_GT(swarm->Stats().restarts, 3);
}

TEST_F(GenerateTest, ASessionThatGoesOnFromItsBytesTellsTheSameAsBefore) {
  constexpr char kHash[] = "0123456789abcdef0123456789abcdef";
  auto swarm = Start();
  GenerateRequest request = Request(7, 6, 8);
  request.keep = true;
  request.caller = "somebody";
  const Told first = Ask(*swarm, request);
  ASSERT_NE(first.result.snapshot, nullptr);
  auto restored = SessionSnapshot::Restore(tiny_.model.config(), kHash, first.result.snapshot->Save(kHash));
  ASSERT_TRUE(restored.ok()) << restored.status();
  EXPECT_EQ(restored->request.caller, "");  // whoever goes on with it is its caller
  GenerateRequest rest = restored->request;
  rest.max_tokens = 15;
  const std::vector<TokenId> before = restored->tokens;
  const Told second = Ask(*swarm, rest, std::make_shared<const SessionSnapshot>(*std::move(restored)));
  ASSERT_EQ(second.tokens.size(), 9u);
  ExpectTold(second, before);
}

TEST_F(GenerateTest, AnEmbeddingUnderWayHasNoSnapshot) {
  SwarmOptions options;
  options.coordinator.max_active = 1;
  options.coordinator.max_rows = 1;
  auto swarm = Start(options);
  auto handle = swarm->Submit(Embedding(100'000, 1));
  ASSERT_TRUE(handle.ok()) << handle.status();
  (*handle)->Wait();  // progress: it has begun
  EXPECT_EQ(swarm->Snapshot((*handle)->id()).status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(GenerateTest, RequestsThatCannotBeAreRefusedByName) {
  const auto message = [&](const GenerateRequest& request, const SessionSnapshot* from = nullptr) {
    const absl::Status status = CheckRequest(request, tiny_.model.config().vocab, 100, from);
    EXPECT_TRUE(status.ok() || status.code() == absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  GenerateRequest request = Request(3, 5, 1);
  request.alternatives = kMostAlternatives;
  EXPECT_EQ(message(request), "");
  for (int32_t bad : {-1, kMostAlternatives + 1}) {
    request.alternatives = bad;
    EXPECT_EQ(message(request), "alternatives is " + std::to_string(bad) + ", but must be 0 to 20");
  }
  EXPECT_EQ(message(Embedding(100, 1)), "");  // no token follows: the context may be full
  EXPECT_NE(message(Embedding(101, 1)), "");
  const std::pair<const char*, void (*)(GenerateRequest&)> cases[] = {
      {"keeping the session", [](GenerateRequest& r) { r.keep = true; }},
      {"alternatives", [](GenerateRequest& r) { r.alternatives = 1; }},
      {"routes", [](GenerateRequest& r) { r.routes = true; }},
      {"known already",
       [](GenerateRequest& r) {
         r.generated = {TokenId(1)};
         r.max_tokens = 5;
       }},
  };
  for (const auto& [name, change] : cases) {
    GenerateRequest bad = Embedding(3, 1);
    change(bad);
    EXPECT_THAT(message(bad), ::testing::HasSubstr(name));
  }
  SessionSnapshot snapshot{{}, {TokenId(1), TokenId(2)}, 0, SessionState(tiny_.model.config())};
  EXPECT_THAT(message(Embedding(3, 1), &snapshot), ::testing::HasSubstr("going on from a snapshot"));
}

}  // namespace
}  // namespace omni
