#include "engine/decode/cpu_decoder.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/testing/random_model.h"
#include "tests/testing/reference_model.h"

namespace omni {
namespace {

using testing::RandomModel;
using testing::RandomTokens;
using testing::ReferenceModel;

const kernels::Ops& Scalar() { return *kernels::OpsFor(kernels::Isa::kScalar); }

// One sequence through blocks of the given lengths (the last one repeats); the logits of every token.
std::vector<float> RunBlocks(RandomModel& model, Decoder& decoder, WorkerPool& pool, SessionState& state,
                             std::span<const TokenId> tokens, std::vector<size_t> blocks) {
  std::vector<float> all;
  for (size_t at = 0, block = 0; at < tokens.size(); ++block) {
    const size_t n = std::min(blocks[std::min(block, blocks.size() - 1)], tokens.size() - at);
    std::vector<BatchRow> rows;
    for (size_t i = 0; i < n; ++i) rows.push_back({&state, tokens[at + i], true});
    const auto logits = RunBatch(decoder, model.config(), model, pool, rows);
    EXPECT_TRUE(logits.ok()) << logits.status();
    if (!logits.ok()) return all;
    all.insert(all.end(), logits->begin(), logits->end());
    at += n;
  }
  return all;
}

std::vector<float> RunFresh(RandomModel& model, std::span<const TokenId> tokens, std::vector<size_t> blocks,
                            int threads = 1, const kernels::Ops& ops = kernels::ActiveOps()) {
  WorkerPool pool(threads);
  CpuDecoder decoder(model.weights(), pool, ops);
  SessionState state(model.config());
  return RunBlocks(model, decoder, pool, state, tokens, std::move(blocks));
}

::testing::AssertionResult SameBytes(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size())
    return ::testing::AssertionFailure() << a.size() << " and " << b.size() << " values";
  for (size_t i = 0; i < a.size(); ++i) {
    if (std::memcmp(&a[i], &b[i], sizeof(float)) != 0) {
      return ::testing::AssertionFailure() << "value " << i << ": " << a[i] << " and " << b[i];
    }
  }
  return ::testing::AssertionSuccess();
}

struct Case {
  const char* name;
  std::function<ModelConfig()> config;
};

class DecoderTest : public ::testing::TestWithParam<Case> {
 protected:
  RandomModel model_{GetParam().config(), 7};
};

INSTANTIATE_TEST_SUITE_P(Shapes, DecoderTest,
                         ::testing::Values(Case{"Tiny", testing::TinyConfig}, Case{"Odd", testing::OddConfig},
                                           Case{"Flagless", testing::FlaglessConfig},
                                           Case{"Ahead", testing::AheadConfig},
                                           Case{"Address", testing::AddressConfig}),
                         [](const auto& info) { return std::string(info.param.name); });

// Float keeps 24 bits and no sum here is longer than a few hundred terms, so a token without a flipped code
// differs by some 1e-6 of the logits' size. Where a value lies that near to a code's edge the engine and the
// reference may choose neighbours, 1/127 of one of the inputs apart: rare (one code in 1e5), and 1e-2 bounds
// what it does downstream. A wrong formula moves every logit by the order of the logits themselves.
TEST_P(DecoderTest, AgreesWithTheReferenceBeyondTheWindow) {
  WorkerPool pool(1);
  CpuDecoder decoder(model_.weights(), pool);
  SessionState state(model_.config());
  ReferenceModel reference(model_);
  const auto tokens = RandomTokens(3 * model_.config().window, model_.config().vocab, 11);
  std::vector<double> errors;
  for (size_t t = 0; t < tokens.size(); ++t) {
    const BatchRow row{&state, tokens[t], true};
    ASSERT_TRUE(decoder.Begin({&row, 1}).ok());
    std::vector<ExpertId> routes, want_routes;
    std::vector<float> out(static_cast<size_t>(model_.config().d));
    for (int32_t layer = 0; layer < model_.config().layers; ++layer) {
      const auto jobs = decoder.RunLayer(LayerId(layer)).value();
      ASSERT_EQ(jobs.size(), model_.config().IsAttention(layer) ? 0u : 1u);
      if (jobs.empty()) continue;
      ASSERT_EQ(decoder.routes()[0], jobs[0].expert);
      routes.push_back(jobs[0].expert);
      ASSERT_TRUE(RunExpert(model_.config(), *model_.Acquire(LayerId(layer), jobs[0].expert), jobs[0], pool,
                            out.data())
                      .ok());
      decoder.AddExpertOutput(jobs[0], out.data());
    }
    const auto logits = decoder.Finish().value();
    const std::vector<double> want = reference.Step(tokens[t], &want_routes);
    ASSERT_EQ(logits.size(), want.size());
    EXPECT_EQ(routes, want_routes) << "token " << t;
    double size = 0, error = 0;
    for (size_t i = 0; i < want.size(); ++i) {
      size += want[i] * want[i];
      error += (logits[i] - want[i]) * (logits[i] - want[i]);
    }
    errors.push_back(std::sqrt(error / size));
    EXPECT_LT(errors.back(), 1e-2) << "token " << t;
  }
  EXPECT_EQ(state.position(), static_cast<int64_t>(tokens.size()));
  std::nth_element(errors.begin(), errors.begin() + static_cast<std::ptrdiff_t>(errors.size() / 2),
                   errors.end());
  EXPECT_LT(errors[errors.size() / 2], 1e-4);
}

TEST_P(DecoderTest, PrefillGivesTheBytesOfSteppingWhereverItIsCut) {
  const auto tokens = RandomTokens(4 * model_.config().window + 3, model_.config().vocab, 3);
  const std::vector<float> stepped = RunFresh(model_, tokens, {1});
  for (const std::vector<size_t>& blocks : std::vector<std::vector<size_t>>{
           {tokens.size()}, {2}, {3, 1, 7}, {5}, {1, 16, 2, 31}, {tokens.size() - 1, 1}, {64}}) {
    EXPECT_TRUE(SameBytes(stepped, RunFresh(model_, tokens, blocks))) << "first block " << blocks[0];
  }
}

TEST_P(DecoderTest, SessionsInOneBatchGetTheBytesTheyGetAlone) {
  WorkerPool pool(2);
  CpuDecoder decoder(model_.weights(), pool);
  constexpr size_t kSessions =
      11;  // in the end rows enough for each thread to take some through a layer alone
  std::vector<SessionState> states;
  for (size_t i = 0; i < kSessions; ++i) states.emplace_back(model_.config());
  std::vector<std::vector<TokenId>> tokens;
  std::vector<std::vector<float>> together(kSessions);
  for (size_t s = 0; s < kSessions; ++s) tokens.push_back(RandomTokens(40, model_.config().vocab, 100 + s));
  std::vector<size_t> next(kSessions);
  // Session s gives s mod 5 + 1 rows a pass, and joins at pass s.
  for (size_t pass = 0;; ++pass) {
    std::vector<BatchRow> rows;
    std::vector<size_t> owner;
    for (size_t s = 0; s < kSessions; ++s) {
      for (size_t i = 0; pass >= s && i <= s % 5 && next[s] < tokens[s].size(); ++i) {
        const bool want = next[s] % 3 != 1;
        rows.push_back({&states[s], tokens[s][next[s]++], want});
        if (want) owner.push_back(s);
      }
    }
    if (rows.empty()) break;
    const auto logits = RunBatch(decoder, model_.config(), model_, pool, rows);
    ASSERT_TRUE(logits.ok());
    const size_t vocab = static_cast<size_t>(model_.config().vocab);
    ASSERT_EQ(logits->size(), owner.size() * vocab);
    for (size_t i = 0; i < owner.size(); ++i) {
      together[owner[i]].insert(together[owner[i]].end(),
                                logits->begin() + static_cast<std::ptrdiff_t>(i * vocab),
                                logits->begin() + static_cast<std::ptrdiff_t>((i + 1) * vocab));
    }
  }
  const size_t vocab = static_cast<size_t>(model_.config().vocab);
  for (size_t s = 0; s < kSessions; ++s) {
    const std::vector<float> alone = RunFresh(model_, tokens[s], {1});
    std::vector<float> wanted;
    for (size_t t = 0; t < tokens[s].size(); ++t) {
      if (t % 3 != 1) wanted.insert(wanted.end(), &alone[t * vocab], &alone[t * vocab] + vocab);
    }
    EXPECT_TRUE(SameBytes(wanted, together[s])) << "session " << s;
  }
}

TEST_P(DecoderTest, ThreadsChangeNothing) {
  const auto tokens = RandomTokens(600, model_.config().vocab, 5);  // large enough for the pool to be used
  const std::vector<float> one = RunFresh(model_, tokens, {300});
  for (int threads : {2, 3}) EXPECT_TRUE(SameBytes(one, RunFresh(model_, tokens, {300}, threads))) << threads;
}

TEST_P(DecoderTest, EveryInstructionSetGivesTheSameBytes) {
  const auto tokens = RandomTokens(50, model_.config().vocab, 9);
  const std::vector<float> scalar = RunFresh(model_, tokens, {17}, 1, Scalar());
  for (kernels::Isa isa : kernels::kAllIsas) {
    const kernels::Ops* ops = kernels::OpsFor(isa);
    if (ops == nullptr) {
      GTEST_LOG_(WARNING) << "this CPU has no " << kernels::IsaName(isa) << ": not compared";
      continue;
    }
    EXPECT_TRUE(SameBytes(scalar, RunFresh(model_, tokens, {17}, 1, *ops))) << kernels::IsaName(isa);
  }
}

TEST_P(DecoderTest, ASavedStateGoesOnBitIdentically) {
  const auto tokens = RandomTokens(61, model_.config().vocab, 13);
  const std::vector<float> whole = RunFresh(model_, tokens, {4});
  WorkerPool pool(1);
  const std::span<const TokenId> all(tokens);
  for (size_t cut : {1u, 6u, 33u, 60u}) {
    CpuDecoder before(model_.weights(), pool), after(model_.weights(), pool);
    SessionState state(model_.config());
    std::vector<float> logits = RunBlocks(model_, before, pool, state, all.first(cut), {5});
    auto restored = SessionState::Restore(model_.config(), state.Save());
    ASSERT_TRUE(restored.ok()) << restored.status();
    EXPECT_EQ(restored->position(), static_cast<int64_t>(cut));
    const std::vector<float> rest = RunBlocks(model_, after, pool, *restored, all.subspan(cut), {3});
    logits.insert(logits.end(), rest.begin(), rest.end());
    EXPECT_TRUE(SameBytes(whole, logits)) << "cut at " << cut;
  }
}

TEST_P(DecoderTest, AResetStateIsAFreshOne) {
  const auto tokens = RandomTokens(20, model_.config().vocab, 17);
  WorkerPool pool(1);
  CpuDecoder decoder(model_.weights(), pool);
  SessionState state(model_.config());
  const std::vector<float> first = RunBlocks(model_, decoder, pool, state, tokens, {6});
  EXPECT_FALSE(SameBytes(first, RunBlocks(model_, decoder, pool, state, tokens, {6})));
  state.Reset();
  EXPECT_TRUE(SameBytes(first, RunBlocks(model_, decoder, pool, state, tokens, {6})));
}

TEST(DecoderStateNormTest, ScalesTheStateDownAfterThePeriodsToken) {
  ModelConfig with = testing::OddConfig(), without = with;
  with.state_norm_period = 5;
  without.state_norm_period = 1000000;
  // The same token again and again under slow decay: S grows along one direction beyond sqrt(d r).
  const std::vector<TokenId> tokens(10, TokenId(42));
  const auto norm = [](SessionState& state, const ModelConfig& c) {
    double sum = 0;
    for (int64_t i = 0; i < c.d * c.r; ++i) sum += std::pow(state.pdr(LayerId(0))[i], 2);
    return std::sqrt(sum);
  };
  RandomModel limited(with, 21), free(without, 21);
  // Ten times the first PDR layer's keys, and no decay to speak of, in both.
  for (RandomModel* model : {&limited, &free}) {
    auto& plain = const_cast<testing::PlainLayer&>(model->plain(0));
    for (float& scale : plain.wk.scale) scale *= 30;
    for (float& b : plain.bp) b += 20;
  }
  const double limit = std::sqrt(static_cast<double>(with.d * with.r));
  WorkerPool pool(1);
  SessionState a(with), b(without);
  CpuDecoder limited_decoder(limited.weights(), pool), free_decoder(free.weights(), pool);
  const std::span<const TokenId> all(tokens);
  const auto first = RunBlocks(limited, limited_decoder, pool, a, all.first(4), {4});
  EXPECT_TRUE(SameBytes(first, RunBlocks(free, free_decoder, pool, b, all.first(4), {4})));
  EXPECT_EQ(norm(a, with), norm(b, without));
  // The fifth token's readout comes before the scaling; the sixth sees it.
  EXPECT_TRUE(SameBytes(RunBlocks(limited, limited_decoder, pool, a, all.subspan(4, 1), {1}),
                        RunBlocks(free, free_decoder, pool, b, all.subspan(4, 1), {1})));
  ASSERT_GT(norm(b, without), 1.1 * limit);
  EXPECT_NEAR(norm(a, with), limit, 1e-4 * limit);
  EXPECT_FALSE(SameBytes(RunBlocks(limited, limited_decoder, pool, a, all.subspan(5, 1), {1}),
                         RunBlocks(free, free_decoder, pool, b, all.subspan(5, 1), {1})));
}

TEST(DecoderStateNormTest, NeverScalesUp) {
  ModelConfig with = testing::OddConfig(), without = with;
  with.state_norm_period = 3;
  RandomModel limited(with, 22), free(without, 22);
  const auto tokens = RandomTokens(12, with.vocab, 1);  // unit inputs stay far below the limit
  EXPECT_TRUE(SameBytes(RunFresh(limited, tokens, {1}), RunFresh(free, tokens, {1})));
}

TEST(DecoderLongRunTest, TenThousandTokensStayFinite) {
  ModelConfig config = testing::TinyConfig();
  config.lattice = {2, 2, 1}, config.region = {1, 1, 1};
  RandomModel model(config, 31);
  const auto tokens = RandomTokens(10000, config.vocab, 2);
  WorkerPool pool(1);
  CpuDecoder decoder(model.weights(), pool);
  SessionState state(config);
  for (size_t at = 0; at < tokens.size(); at += 100) {
    std::vector<BatchRow> rows;
    for (size_t i = 0; i < 100; ++i) rows.push_back({&state, tokens[at + i], i == 99});
    const auto logits = RunBatch(decoder, config, model, pool, rows);
    ASSERT_TRUE(logits.ok());
    ASSERT_TRUE(std::all_of(logits->begin(), logits->end(), [](float x) { return std::isfinite(x); })) << at;
  }
  EXPECT_EQ(state.position(), 10000);
}

TEST(DecoderBeginTest, RejectsBadBatchesAndLeavesStatesAlone) {
  RandomModel model(testing::TinyConfig(), 1);
  WorkerPool pool(1);
  CpuDecoder decoder(model.weights(), pool);
  SessionState a(model.config()), b(model.config()), other(testing::OddConfig());
  const int32_t vocab = static_cast<int32_t>(model.config().vocab);
  const auto status = [&](std::vector<BatchRow> rows) { return decoder.Begin(rows); };
  EXPECT_THAT(status({}).message(), ::testing::HasSubstr("no rows"));
  EXPECT_THAT(status({{nullptr, TokenId(1)}}).message(), ::testing::HasSubstr("no state"));
  EXPECT_THAT(status({{&a, TokenId(1)}, {&a, TokenId(vocab)}}).message(),
              ::testing::HasSubstr("row 1: token 300"));
  EXPECT_THAT(status({{&a, TokenId(-1)}}).message(), ::testing::HasSubstr("token -1"));
  EXPECT_THAT(status({{&other, TokenId(1)}}).message(), ::testing::HasSubstr("another configuration"));
  EXPECT_THAT(status({{&a, TokenId(1)}, {&b, TokenId(1)}, {&a, TokenId(1)}}).message(),
              ::testing::HasSubstr("not adjacent"));
  EXPECT_EQ(a.position(), 0);
  EXPECT_TRUE(status({{&a, TokenId(1)}, {&b, TokenId(1)}}).ok());
}

TEST(RunBatchTest, PassesOnTheSourcesErrorWhateverTheThreads) {
  class Missing : public ExpertSource {
   public:
    explicit Missing(RandomModel& model) : model_(model) {}
    absl::StatusOr<ExpertTiles> Acquire(LayerId layer, ExpertId expert) override {
      if (layer == LayerId(1)) return absl::UnavailableError("the disk is gone");
      return model_.Acquire(layer, expert);
    }

   private:
    RandomModel& model_;
  };
  RandomModel model(testing::TinyConfig(), 1);
  Missing missing(model);
  for (int threads : {1, 2}) {
    for (int64_t n : {1, 100}) {
      WorkerPool pool(threads);
      CpuDecoder decoder(model.weights(), pool);
      SessionState state(model.config());
      std::vector<BatchRow> rows;
      for (TokenId token : RandomTokens(n, model.config().vocab, 8)) rows.push_back({&state, token, true});
      const auto logits = RunBatch(decoder, model.config(), missing, pool, rows);
      EXPECT_EQ(logits.status(), absl::UnavailableError("the disk is gone"));
      state.Reset();
      EXPECT_TRUE(RunBatch(decoder, model.config(), model, pool, rows).ok());
    }
  }
}

TEST(DecoderFinishTest, GivesNoLogitsWhereNoneAreWantedAndStillAdvances) {
  RandomModel model(testing::TinyConfig(), 1);
  WorkerPool pool(1);
  CpuDecoder decoder(model.weights(), pool);
  SessionState state(model.config());
  const std::vector<BatchRow> rows = {{&state, TokenId(1)}, {&state, TokenId(2)}};
  const auto logits = RunBatch(decoder, model.config(), model, pool, rows);
  ASSERT_TRUE(logits.ok());
  EXPECT_TRUE(logits->empty());
  EXPECT_EQ(state.position(), 2);
}

TEST(DecoderFinishTest, HiddenRowsWithoutLogitsComeAfterThoseWithLogits) {
  RandomModel model(testing::TinyConfig(), 1);
  WorkerPool pool(1);
  CpuDecoder decoder(model.weights(), pool);
  const auto run = [&](std::vector<BatchRow> rows, std::vector<std::vector<float>>* hidden) {
    SessionState a(model.config()), b(model.config());
    for (BatchRow& row : rows) row.state = row.token.value < 10 ? &a : &b;
    const auto logits = RunBatch(decoder, model.config(), model, pool, rows);
    EXPECT_TRUE(logits.ok());
    for (int64_t i = 0; i < 3; ++i) hidden->push_back({decoder.hidden(i).begin(), decoder.hidden(i).end()});
    return std::vector<float>(logits->begin(), logits->end());
  };
  std::vector<std::vector<float>> all, some;
  const std::vector<float> all_logits =
      run({{nullptr, TokenId(1), true}, {nullptr, TokenId(2), true}, {nullptr, TokenId(11), true}}, &all);
  const std::vector<float> logits = run({{nullptr, TokenId(1), false, nullptr, true},
                                         {nullptr, TokenId(2), false, nullptr, true},
                                         {nullptr, TokenId(11), true}},
                                        &some);
  const size_t vocab = static_cast<size_t>(model.config().vocab);
  ASSERT_EQ(logits.size(), vocab);
  EXPECT_TRUE(SameBytes(logits, {all_logits.end() - static_cast<std::ptrdiff_t>(vocab), all_logits.end()}));
  EXPECT_TRUE(SameBytes(some[0], all[2]));
  EXPECT_TRUE(SameBytes(some[1], all[0]));
  EXPECT_TRUE(SameBytes(some[2], all[1]));
}

TEST(DecoderJobsTest, GroupsRowsByAscendingExpert) {
  RandomModel model(testing::TinyConfig(), 1);
  WorkerPool pool(1);
  CpuDecoder decoder(model.weights(), pool);
  SessionState state(model.config());
  std::vector<BatchRow> rows;
  for (TokenId token : RandomTokens(50, model.config().vocab, 8)) rows.push_back({&state, token, false});
  ASSERT_TRUE(decoder.Begin(rows).ok());
  const auto jobs = decoder.RunLayer(LayerId(0)).value();
  ASSERT_GT(jobs.size(), 3u);
  std::vector<int32_t> covered;
  for (size_t j = 0; j < jobs.size(); ++j) {
    EXPECT_EQ(jobs[j].layer, LayerId(0));
    if (j > 0) {
      EXPECT_LT(jobs[j - 1].expert, jobs[j].expert);
    }
    EXPECT_TRUE(std::is_sorted(jobs[j].rows.begin(), jobs[j].rows.end()));
    for (int32_t row : jobs[j].rows) {
      EXPECT_EQ(decoder.routes()[static_cast<size_t>(row)], jobs[j].expert);
      covered.push_back(row);
    }
  }
  std::sort(covered.begin(), covered.end());
  ASSERT_EQ(covered.size(), rows.size());
  EXPECT_EQ(std::unique(covered.begin(), covered.end()), covered.end());
}

// Every layer's routes of a token, as they were known before it started and as they were taken.
TEST(DecoderKnownRoutesTest, AreTheRoutesOfTheNextTokenInEveryLayer) {
  for (const ModelConfig& config : {testing::AheadConfig(), testing::AddressConfig()}) {
    RandomModel model(config, 5);
    WorkerPool pool(2);
    CpuDecoder decoder(model.weights(), pool);
    SessionState first(config), second(config);
    const std::vector<TokenId> tokens = RandomTokens(40, config.vocab, 3);
    std::set<ExpertId> taken;
    for (size_t t = 0; t + 2 < tokens.size(); t += 2) {
      // Of the second session two rows: only its first is known.
      const std::vector<BatchRow> rows = {
          {&first, tokens[t], true}, {&second, tokens[t + 1], true}, {&second, tokens[t + 2], true}};
      ASSERT_TRUE(decoder.Begin(rows).ok());
      std::vector<std::vector<ExpertId>> known;
      for (int32_t l = 0; l < config.layers; ++l) {
        if (config.IsAttention(l)) continue;
        const auto routes = decoder.KnownRoutes(LayerId(l));
        known.emplace_back(routes.begin(), routes.end());
        ASSERT_EQ(known.back().size(), 2u);
      }
      size_t at = 0;
      std::vector<float> out;
      for (int32_t l = 0; l < config.layers; ++l) {
        const std::vector<ExpertJob> jobs = decoder.RunLayer(LayerId(l)).value();
        for (const ExpertJob& job : jobs) {
          out.resize(job.rows.size() * static_cast<size_t>(config.d));
          ASSERT_TRUE(RunExpert(config, *model.Acquire(job.layer, job.expert), job, pool, out.data()).ok());
          decoder.AddExpertOutput(job, out.data());
        }
        if (config.IsAttention(l)) continue;
        EXPECT_EQ(decoder.routes()[0], known[at][0]) << "layer " << l;
        EXPECT_EQ(decoder.routes()[1], known[at][1]) << "layer " << l;
        taken.insert(known[at].begin(), known[at].end());
        ++at;
      }
      ASSERT_TRUE(decoder.Finish().ok());
    }
    EXPECT_GT(taken.size(), 2u);  // not one expert for all
  }
}

TEST(DecoderKnownRoutesTest, AreNoneWhereThePresentTokenIsRouted) {
  RandomModel model(testing::TinyConfig(), 5);
  WorkerPool pool(1);
  CpuDecoder decoder(model.weights(), pool);
  SessionState state(model.config());
  const BatchRow row{&state, TokenId(7), true};
  ASSERT_TRUE(decoder.Begin({&row, 1}).ok());
  EXPECT_TRUE(decoder.KnownRoutes(LayerId(0)).empty());
}

TEST(DecoderPredictTest, AGuessWithTheStateOfTheLayerItselfIsItsRoute) {
  RandomModel model(testing::OddConfig(), 5);
  const ModelConfig& config = model.config();
  WorkerPool pool(2);
  CpuDecoder decoder(model.weights(), pool);
  SessionState state(config);
  const std::vector<TokenId> tokens = RandomTokens(12, config.vocab, 3);
  std::vector<BatchRow> rows;
  for (TokenId token : tokens) rows.push_back({&state, token, true});
  ASSERT_TRUE(decoder.Begin(rows).ok());
  std::vector<float> out;
  for (int32_t l = 0; l < config.layers; ++l) {
    const std::vector<ExpertJob> jobs = decoder.RunLayer(LayerId(l)).value();
    if (config.IsAttention(l)) continue;
    const std::vector<ExpertId> routes(decoder.routes().begin(), decoder.routes().end());
    const std::span<const ExpertId> guess = decoder.PredictRoutes(LayerId(l));
    EXPECT_TRUE(std::equal(routes.begin(), routes.end(), guess.begin(), guess.end())) << "layer " << l;
    for (const ExpertJob& job : jobs) {
      out.resize(job.rows.size() * static_cast<size_t>(config.d));
      ASSERT_TRUE(RunExpert(config, *model.Acquire(job.layer, job.expert), job, pool, out.data()).ok());
      decoder.AddExpertOutput(job, out.data());
    }
  }
  // Guessing changes nothing.
  const std::span<const float> logits = decoder.Finish().value();
  const std::vector<float> got(logits.begin(), logits.end());
  EXPECT_TRUE(SameBytes(got, RunFresh(model, tokens, {12})));
}

}  // namespace
}  // namespace omni
