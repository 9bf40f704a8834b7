// Sessions with a memory of texts: it decides where perspectives cannot, and nowhere else; and where they go
// on they go on with the memory that they began with.
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "actors/memory.h"
#include "engine/around/recall.h"
#include "engine/around/recall_stage.h"
#include "tests/actors/swarm_fixture.h"
#include "tests/testing/temp_dir.h"

namespace omni {
namespace {

using omni::testing::ActorsEnvironment;
using omni::testing::SwarmFixture;
using omni::testing::TempDir;
using omni::testing::Told;
using ::testing::HasSubstr;

constexpr char kHash[] = "0123456789abcdef0123456789abcdef";

class SwarmRecallTest : public SwarmFixture {
 protected:
  SwarmRecallTest() {
    SwarmOptions options;
    options.memories = memory_.get();
    Start(options);
  }

  // Four routings of a random model often name four tokens then.
  GenerateRequest Request(bool memory, uint64_t seed = 1, int64_t tokens = 60) {
    GenerateRequest request = HotRequest(30, tokens, seed);
    request.perspectives = *ParsePerspectives("far,use=majority,every=1,examine=0,tau=0");
    if (memory) request.memory.scope = "s";
    return request;
  }
  void Remember(const std::string& key, const std::string& value) {
    ASSERT_TRUE(memory_->Add("s", {{key, value}}).ok());
  }
  // Stored under the text's end before the `which`th token of those that nobody could decide, so that the
  // memory decides it.
  void RememberWhatIsUncertain(const GenerateRequest& request, int which, const std::string& value) {
    if (!TryToRemember(request, which, value)) FAIL() << "not enough tokens are uncertain";
  }
  bool TryToRemember(const GenerateRequest& request, int which, const std::string& value) {
    const std::vector<Told> told = Say(request);
    std::vector<TokenId> tokens = request.prompt;
    for (const Told& t : told) {
      if (t.confidence->looked->uncertain && which-- == 0) {
        const std::string text = RecallText(tiny_.tokenizer, tokens);
        std::vector<TextWord> words = TextWords(text);
        if (words.size() < 4) {
          which = 0;  // of the next one
        } else {
          Remember(text.substr(words[words.size() - 4].begin), value);
          return true;
        }
      }
      tokens.push_back(t.token);
    }
    return false;
  }
  static std::pair<int, int> AskedAndFound(const std::vector<Told>& told) {
    int asked = 0, found = 0;
    for (const Told& t : told) {
      asked += t.notes.recall.has_value();
      found += t.notes.recall.has_value() && t.notes.recall->found;
    }
    return {asked, found};
  }

  TempDir dir_;
  std::unique_ptr<Memory> memory_ = Memory::At(dir_ / "memory");
};

TEST_F(SwarmRecallTest, IsAskedWherePerspectivesCannotDecideAndNowhereElse) {
  const std::vector<Told> without = Say(Request(false));
  for (const Told& t : without) EXPECT_FALSE(t.notes.recall.has_value());
  Remember("something that nobody asks about", "x");
  const std::vector<Told> with = Say(Request(true));
  EXPECT_EQ(Tokens(with), Tokens(without)) << "it has nothing, and the base token stands";
  int uncertain = 0;
  for (const Told& t : with) {
    EXPECT_EQ(t.notes.recall.has_value(), t.confidence->looked->uncertain);
    uncertain += t.confidence->looked->uncertain;
  }
  EXPECT_GT(uncertain, 3);
  EXPECT_EQ(AskedAndFound(with), std::pair(uncertain, 0));
  const SwarmStats stats = swarm_->Stats();
  EXPECT_EQ(stats.memory_asked, uncertain);
  EXPECT_EQ(stats.memory_recalled, 0);
}

TEST_F(SwarmRecallTest, WhatItRecallsIsTheNextToken) {
  RememberWhatIsUncertain(Request(false), 2, "the end of the day");
  const std::vector<Told> told = Say(Request(true));
  ASSERT_GE(AskedAndFound(told).second, 1);
  std::vector<TokenId> tokens = Request(true).prompt;
  int checked = 0;
  const auto held = memory_->Hold("", {"s", ""});
  for (const Told& t : told) {
    if (t.notes.recall.has_value() && t.notes.recall->found) {
      const auto got = Recall(*held->memory, RecallText(tiny_.tokenizer, tokens));
      ASSERT_TRUE(got.has_value());
      EXPECT_EQ(t.token, tiny_.tokenizer.Encode(got->rest).front());
      EXPECT_EQ(t.notes.recall->words, got->words);
      EXPECT_TRUE(t.confidence->looked->uncertain);
      ++checked;
    }
    tokens.push_back(t.token);
  }
  EXPECT_EQ(swarm_->Stats().memory_recalled, checked);
}

TEST_F(SwarmRecallTest, BesideOthersAndWithAMemoryOfContextsItSaysTheSame) {
  std::vector<GenerateRequest> requests;
  for (uint64_t seed = 1; requests.size() < 4 && seed < 40; ++seed) {
    if (!TryToRemember(Request(false, seed, 100), 0, "the cat")) continue;
    requests.push_back(Request(true, seed, 100));
    requests.back().context_memory = requests.size() == 2;
  }
  ASSERT_EQ(requests.size(), 4u);
  std::vector<std::vector<Told>> want;
  for (const GenerateRequest& request : requests) want.push_back(Say(request));
  const std::vector<std::vector<Told>> got = SayBesideEachOther(requests);
  for (size_t i = 0; i < requests.size(); ++i) ExpectSame(got[i], want[i]);
}

TEST_F(SwarmRecallTest, WhereverItIsBrokenOffItGoesOnWithWhatItBeganWith) {
  const GenerateRequest whole = Request(true);
  RememberWhatIsUncertain(Request(false), 3, "the end of the day");
  const std::vector<Told> want = Say(whole);
  ASSERT_GE(AskedAndFound(want).second, 1);
  GenerateRequest part = whole;
  part.max_tokens = 5;
  part.keep = true;
  const std::vector<Told> first = Say(part);
  const SnapshotPtr kept = result_->snapshot;
  ASSERT_NE(kept, nullptr);
  const std::string version = kept->request.memory.version;
  EXPECT_EQ(version, memory_->Hold("", {"s", ""})->version);
  // What is added meanwhile changes nothing for it.
  RememberWhatIsUncertain(Request(false), 2, "another");
  Remember("the", "other");
  GenerateRequest rest = kept->request;
  rest.max_tokens = whole.max_tokens;
  ExpectSame(Join(first, Say(rest, kept)), want);
  auto restored = SessionSnapshot::Restore(tiny_.model.config(), kHash, kept->Save(kHash));
  ASSERT_TRUE(restored.ok()) << restored.status();
  EXPECT_EQ(restored->request.memory, kept->request.memory);
  GenerateRequest again = restored->request;
  again.max_tokens = whole.max_tokens;
  ExpectSame(Join(first, Say(again, std::make_shared<const SessionSnapshot>(*std::move(restored)))), want);
  // Another coordinator knows the tokens and the version alone.
  GenerateRequest taken_up = whole;
  taken_up.memory.version = version;
  taken_up.generated = Tokens(first);
  ExpectSame(Join(first, Say(taken_up)), want);
  // With what there is now it would have been another answer.
  EXPECT_NE(Tokens(Say(whole)), Tokens(want));
  // A memory that does not begin with it is not gone on with.
  ASSERT_TRUE(memory_->Forget("s", std::nullopt).ok());
  Remember("something else", "x");
  const auto refused = swarm_->Submit(taken_up);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("goes on with the memory of version"));
}

TEST_F(SwarmRecallTest, WhatCannotBeAskedIsRefused) {
  Remember("a key", "x");
  GenerateRequest request = Request(true);
  const auto refused = [&](const std::string& why) {
    const auto handle = swarm_->Submit(request);
    EXPECT_EQ(handle.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(handle.status().message()), HasSubstr(why));
  };
  request.memory.scope = "t";
  refused("memory scope 't': nothing is remembered in it");
  request.memory.scope = "no/scope";
  refused("must have 1 to 64 letters");
  request = Request(true);
  request.caller = "Anna";
  refused("nothing is remembered in it");
  request = Request(true);
  request.perspectives->use = PerspectiveUse::kAverage;
  refused("ask with perspectives of use=majority");
  request.perspectives.reset();
  refused("ask with perspectives of use=majority");
  request.embed = true;
  refused("together with a memory");
  SwarmOptions options;
  options.threads = 1;
  auto swarm =
      Swarm::Start(ActorsEnvironment::Actors(), tiny_.model.weights(), tiny_.model, tiny_.tokenizer, options);
  ASSERT_TRUE(swarm.ok());
  EXPECT_THAT(std::string((*swarm)->Submit(Request(true)).status().message()),
              HasSubstr("started without a memory"));
}

}  // namespace
}  // namespace omni
