// Adapters of the rows of a batch, and the perspectives of sessions that have one.
#include <cstddef>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/around/adapter.h"
#include "engine/around/perspectives.h"
#include "engine/decode/cpu_decoder.h"
#include "engine/decode/router.h"
#include "tests/testing/adapters.h"
#include "tests/testing/random_model.h"

namespace omni {
namespace {

using ::testing::HasSubstr;
using testing::kAllAdapterParts;
using testing::RandomAdapter;
using testing::RandomModel;
using testing::RandomTokens;

class AdapterRows : public ::testing::TestWithParam<ModelConfig> {};

INSTANTIATE_TEST_SUITE_P(Models, AdapterRows,
                         ::testing::Values(testing::TinyConfig(), testing::OddConfig(),
                                           testing::FlaglessConfig(), testing::AddressConfig()));

// Sessions of one batch with adapters of their own, and some with none.
TEST_P(AdapterRows, EachRowOfABatchHasItsOwn) {
  RandomModel model(GetParam(), 3);
  std::vector<std::unique_ptr<ReadyAdapter>> adapters;
  AdapterParts parts = kAllAdapterParts;
  for (uint64_t i = 0; i < 3; ++i) {
    parts.bias = i != 1;
    parts.layers = i == 2 ? AdaptLayers::kLora : AdaptLayers::kCores;
    parts.positions = i != 1;
    adapters.push_back(
        std::make_unique<ReadyAdapter>(GetParam(), RandomAdapter(GetParam(), "", 0.2f, i + 1, parts)));
  }
  const std::vector<TokenId> tokens = RandomTokens(30, model.config().vocab, 2);
  constexpr size_t kSessions = 8;  // two of each adapter, and two of none
  struct Answer {
    std::vector<float> logits, hidden;
    std::string state;
  };
  // Of the sessions together, or of one alone.
  const auto run = [&](size_t first, size_t last, int threads) {
    WorkerPool pool(threads);
    CpuDecoder decoder(model.weights(), pool);
    std::vector<SessionState> states;
    for (size_t s = first; s < last; ++s) states.emplace_back(model.config());
    std::vector<Answer> answers(last - first);
    const auto d = static_cast<size_t>(model.config().d), vocab = static_cast<size_t>(model.config().vocab);
    for (size_t begin = 0; begin < tokens.size(); begin += 5) {
      std::vector<BatchRow> rows;
      for (size_t s = first; s < last; ++s) {
        for (size_t i = begin; i < begin + 5; ++i) {
          BatchRow row{&states[s - first], tokens[(i + s) % tokens.size()], i % 2 == 0};
          row.want_hidden = true;
          if (s % 4 < 3) {
            row.adapter = &adapters[s % 4]->rows();
            row.policy = adapters[s % 4]->policy();
          }
          rows.push_back(row);
        }
      }
      const absl::StatusOr<std::span<const float>> logits =
          RunBatch(decoder, model.config(), model, pool, rows);
      EXPECT_TRUE(logits.ok()) << logits.status();
      int64_t next = 0;
      for (const bool with_logits : {true, false}) {
        for (size_t r = 0; r < rows.size(); ++r) {
          if (rows[r].want_logits != with_logits) continue;
          Answer& answer = answers[r / 5];
          const std::span<const float> y = decoder.hidden(next);
          answer.hidden.insert(answer.hidden.end(), y.begin(), y.begin() + static_cast<std::ptrdiff_t>(d));
          if (with_logits) {
            const auto l = logits->subspan(static_cast<size_t>(next) * vocab, vocab);
            answer.logits.insert(answer.logits.end(), l.begin(), l.end());
          }
          ++next;
        }
      }
    }
    for (size_t i = 0; i < states.size(); ++i) answers[i].state = states[i].Save();
    return answers;
  };
  for (const int threads : {1, 2, 4}) {
    const std::vector<Answer> together = run(0, kSessions, threads);
    for (size_t s = 0; s < kSessions; ++s) {
      const Answer alone = run(s, s + 1, 1)[0];
      EXPECT_EQ(together[s].logits, alone.logits) << s;
      EXPECT_EQ(together[s].hidden, alone.hidden) << s;
      EXPECT_EQ(together[s].state, alone.state) << s;
      EXPECT_NE(together[s].logits, together[(s + 1) % kSessions].logits) << s;
    }
  }
}

TEST_P(AdapterRows, ASessionHasNoTwoInABatch) {
  RandomModel model(GetParam(), 3);
  const ReadyAdapter zero(GetParam(), Adapter(GetParam(), kAllAdapterParts, ""));
  WorkerPool pool(1);
  CpuDecoder decoder(model.weights(), pool);
  SessionState state(model.config());
  BatchRow rows[] = {{&state, TokenId(1), true}, {&state, TokenId(2), true}};
  rows[1].adapter = &zero.rows();
  const absl::Status begun = decoder.Begin(rows);
  EXPECT_EQ(begun.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(begun.message(), HasSubstr("batch row 1: another adapter"));
  rows[0].adapter = &zero.rows();
  EXPECT_TRUE(decoder.Begin(rows).ok());
}

// As if the model's experts were where the adapter has them.
TEST_P(AdapterRows, PerspectivesAreChosenAmongTheMovedPositions) {
  const ModelConfig& c = GetParam();
  RandomModel model(c, 3);
  const ReadyAdapter ready(c, RandomAdapter(c, "", 0.4f, 6));
  const std::span<const float> moves = ready.adapter().values(AdapterBlock::kPositions);
  testing::Random random(7);
  int differ = 0;
  size_t layers = 0;
  for (int32_t l = 0; l < c.layers; ++l) {
    if (c.IsAttention(l)) continue;
    const LayerWeights& weights = model.weights().layers[static_cast<size_t>(l)];
    std::vector<float> positions;
    for (int64_t i = 0; i < 3 * c.num_experts(); ++i)
      positions.push_back(Frac(weights.positions[i] + moves[layers * 3 * c.num_experts() + i]));
    ++layers;
    for (int trial = 0; trial < 50; ++trial) {
      RouteChoice choice{LayerId(l),         trial, {}, {}, weights.positions, c.num_experts(),
                         weights.route_bias, &c};
      for (float& x : choice.point) x = random.Uniform(0, 1);
      const auto nearest = [&](const float* at) {
        const ExpertId e = NearestExpert(choice.point, at, weights.route_bias, c.num_experts());
        return c.route_from == RouteFrom::kAddress ? c.ExpertOf(c.RegionOf(e), 0) : e;
      };
      choice.nearest = nearest(weights.positions);
      RouteChoice moved = choice;
      moved.positions = positions.data();
      moved.nearest = nearest(positions.data());
      EXPECT_EQ(ready.policy()->Choose(choice), moved.nearest);
      for (const PerspectiveKind kind : {PerspectiveKind::kNear, PerspectiveKind::kFar}) {
        for (PerspectiveRoute& route : PerspectiveRoutes(kind, 5)) {
          const ExpertId want = route.Choose(moved);
          EXPECT_EQ(AmongMoved(ready.policy(), route).Choose(choice), want);
          EXPECT_EQ(AmongMoved(nullptr, route).Choose(choice), route.Choose(choice));
          differ += want != route.Choose(choice);
        }
      }
    }
  }
  EXPECT_GT(differ, 20);
}

}  // namespace
}  // namespace omni
