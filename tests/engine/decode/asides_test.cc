// Rows aside: what the token would make of a state is dropped, and seen by nobody.
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/decode/cpu_decoder.h"
#include "tests/testing/random_model.h"

namespace omni {
namespace {

using ::testing::HasSubstr;
using testing::RandomModel;
using testing::RandomTokens;

constexpr size_t kAsides = 3;

// Another expert than the router's.
class Shifted : public RoutePolicy {
 public:
  explicit Shifted(size_t by) : by_(static_cast<int32_t>(by)) {}
  ExpertId Choose(const RouteChoice& choice) override {
    return ExpertId(static_cast<int32_t>((choice.nearest.value + by_) % choice.experts));
  }

 private:
  int32_t by_;
};

struct Case {
  const char* name;
  ModelConfig (*config)();
  int threads;
};

class AsidesTest : public ::testing::TestWithParam<Case> {
 protected:
  AsidesTest() {
    for (size_t i = 0; i < kSessions; ++i) {
      states_.push_back(std::make_unique<SessionState>(model_.config()));
      tokens_.push_back(
          RandomTokens(2 * model_.config().window + 3, model_.config().vocab, static_cast<uint64_t>(i)));
    }
  }

  std::vector<float> Run(std::span<const BatchRow> rows, WorkerPool& pool, CpuDecoder& decoder) {
    const auto logits = RunBatch(decoder, model_.config(), model_, pool, rows);
    EXPECT_TRUE(logits.ok()) << logits.status();
    return logits.ok() ? std::vector<float>(logits->begin(), logits->end()) : std::vector<float>();
  }
  // One row, one thread.
  std::vector<float> RunAlone(SessionState& state, TokenId token, RoutePolicy* policy) {
    const BatchRow row{&state, token, true, policy};
    return Run({&row, 1}, alone_, decoder_alone_);
  }
  BatchRow Aside(SessionState& state, TokenId token, size_t k) {
    return {.state = &state, .token = token, .want_logits = true, .policy = &policies_[k], .aside = true};
  }
  ::testing::AssertionResult Are(std::span<const float> all, size_t row, const std::vector<float>& want) {
    const std::span<const float> got = all.subspan(row * want.size(), want.size());
    if (std::memcmp(got.data(), want.data(), want.size() * sizeof(float)) == 0)
      return ::testing::AssertionSuccess();
    return ::testing::AssertionFailure() << "row " << row << " begins with " << got[0] << ", not " << want[0];
  }

  static constexpr size_t kSessions = 7;
  RandomModel model_{GetParam().config(), 7};
  WorkerPool pool_{GetParam().threads}, alone_{1};
  CpuDecoder decoder_{model_.weights(), pool_}, decoder_alone_{model_.weights(), alone_};
  Shifted policies_[kAsides] = {Shifted(1), Shifted(2), Shifted(4)};
  std::vector<std::unique_ptr<SessionState>> states_;
  std::vector<std::vector<TokenId>> tokens_;
};

INSTANTIATE_TEST_SUITE_P(
    Shapes, AsidesTest,
    ::testing::Values(Case{"Tiny", testing::TinyConfig, 1}, Case{"TinyOnThree", testing::TinyConfig, 3},
                      Case{"Odd", testing::OddConfig, 2}, Case{"Flagless", testing::FlaglessConfig, 1},
                      Case{"Ahead", testing::AheadConfig, 2}, Case{"Address", testing::AddressConfig, 2}),
    [](const auto& info) { return std::string(info.param.name); });

// Beyond the window and beyond normalisations, beside sessions that have no rows aside.
TEST_P(AsidesTest, InTheSessionsPassGiveTheBytesOfCopiesAndChangeNothing) {
  std::vector<std::unique_ptr<SessionState>> plain;
  for (size_t s = 0; s < kSessions; ++s) plain.push_back(std::make_unique<SessionState>(model_.config()));
  for (size_t t = 0; t < tokens_[0].size(); ++t) {
    const auto looked = [&](size_t s) { return (s + t) % 3 != 0; };
    std::vector<BatchRow> rows;
    std::vector<std::vector<float>> want;
    for (size_t s = 0; s < kSessions; ++s) {
      const TokenId token = tokens_[s][t];
      for (size_t k = 0; k < kAsides && looked(s); ++k) {
        rows.push_back(Aside(*states_[s], token, k));
        SessionState copy = plain[s]->Clone();
        want.push_back(RunAlone(copy, token, &policies_[k]));
      }
      rows.push_back({states_[s].get(), token, true});
      want.push_back(RunAlone(*plain[s], token, nullptr));
    }
    const std::vector<float> got = Run(rows, pool_, decoder_);
    for (size_t i = 0; i < want.size(); ++i) ASSERT_TRUE(Are(got, i, want[i])) << "token " << t;
    for (size_t s = 0; s < kSessions; ++s)
      ASSERT_EQ(states_[s]->Save(), plain[s]->Save()) << "token " << t << ", session " << s;
  }
}

TEST_P(AsidesTest, AfterTheSessionsPassTheyNeedItsRecurrentStateAlone) {
  SessionState& state = *states_[0];
  SessionState before = state.Recurrent();
  EXPECT_LT(before.bytes(), state.bytes());
  for (const TokenId token : tokens_[0]) {
    const SessionState copied = state.Clone();
    before.CopyRecurrent(state);
    RunAlone(state, token, nullptr);
    const std::string after = state.Save();
    std::vector<BatchRow> rows;
    for (size_t k = 0; k < kAsides; ++k) rows.push_back(Aside(before, token, k));
    const std::vector<float> got = Run(rows, pool_, decoder_);
    for (size_t k = 0; k < kAsides; ++k) {
      SessionState copy = copied.Clone();
      ASSERT_TRUE(Are(got, k, RunAlone(copy, token, &policies_[k]))) << "position " << copied.position();
    }
    ASSERT_EQ(state.Save(), after) << "position " << copied.position();
    ASSERT_EQ(before.position(), copied.position());
  }
}

// A block of a prompt after rows aside, which see what is before the whole block.
TEST_P(AsidesTest, StandBeforeABlockOfTheirSession) {
  SessionState& state = *states_[0];
  SessionState plain(model_.config());
  const auto block = std::span(tokens_[0]).first(5);
  std::vector<BatchRow> rows = {Aside(state, block[0], 0), Aside(state, block[0], 1)};
  for (const TokenId token : block) rows.push_back({&state, token, true});
  const std::vector<float> got = Run(rows, pool_, decoder_);
  for (size_t k = 0; k < 2; ++k) {
    SessionState copy = plain.Clone();
    EXPECT_TRUE(Are(got, k, RunAlone(copy, block[0], &policies_[k])));
  }
  for (size_t i = 0; i < block.size(); ++i) EXPECT_TRUE(Are(got, 2 + i, RunAlone(plain, block[i], nullptr)));
  EXPECT_EQ(state.Save(), plain.Save());
}

TEST_P(AsidesTest, AreRefusedAfterARowOfTheirSession) {
  SessionState& state = *states_[0];
  const BatchRow rows[] = {{&state, TokenId(1), true}, Aside(state, TokenId(1), 0)};
  EXPECT_THAT(decoder_.Begin(rows).message(), HasSubstr("batch row 1: it is aside and comes after a row"));
  EXPECT_EQ(state.position(), 0);
}

}  // namespace
}  // namespace omni
