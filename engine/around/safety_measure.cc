#include "engine/around/safety_measure.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <span>

#include "engine/decode/cpu_decoder.h"
#include "engine/decode/eval.h"
#include "engine/text/sampler.h"

namespace omni {
namespace {

constexpr int64_t kRowsPerBatch = 64;

size_t LikeliestOf(std::span<const float> logits) {
  return static_cast<size_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

double MassOf(std::span<const float> logits, const std::vector<TokenId>& asked) {
  if (asked.empty()) return 0;
  double mass = 0;
  for (TokenId token : asked)
    mass += std::exp(-NegativeLogLikelihood(logits.data(), std::ssize(logits), token));
  return mass;
}

// A pass whose logits are made twice: from the hidden rows as they are, and as they are projected.
class TwoWays {
 public:
  TwoWays(const ModelWeights& weights, ExpertSource& source, WorkerPool& pool)
      : config_(weights.config), source_(source), pool_(pool), decoder_(weights, pool) {}

  // Of the rows that want logits.
  absl::Status Run(std::span<const BatchRow> rows, const Projector& projector) {
    absl::StatusOr<std::span<const float>> plain = RunBatch(decoder_, config_, source_, pool_, rows);
    if (!plain.ok()) return plain.status();
    before_.assign(plain->begin(), plain->end());
    const int64_t wanted = std::ssize(before_) / config_.vocab;
    hidden_.clear();
    projections_.clear();
    for (int64_t i = 0; i < wanted; ++i) {
      const std::span<float> y = decoder_.hidden(i);
      hidden_.insert(hidden_.end(), y.begin(), y.end());
      absl::StatusOr<Projection> projection = projector.Project(y);
      if (!projection.ok()) return projection.status();
      projections_.push_back(*std::move(projection));
    }
    decoder_.StartLogits();
    absl::StatusOr<std::span<const float>> projected = decoder_.logits();
    if (!projected.ok()) return projected.status();
    after_ = *projected;
    return absl::OkStatus();
  }

  std::span<const float> before(int64_t i) const { return Row(before_, i, config_.vocab); }
  std::span<const float> after(int64_t i) const { return Row(after_, i, config_.vocab); }
  std::span<const float> hidden(int64_t i) const { return Row(hidden_, i, config_.d); }  // as it was
  const Projection& projection(int64_t i) const { return projections_[static_cast<size_t>(i)]; }

 private:
  static std::span<const float> Row(std::span<const float> rows, int64_t i, int64_t width) {
    return rows.subspan(static_cast<size_t>(i * width), static_cast<size_t>(width));
  }

  const ModelConfig& config_;
  ExpertSource& source_;
  WorkerPool& pool_;
  CpuDecoder decoder_;
  std::vector<float> before_, hidden_;
  std::span<const float> after_;
  std::vector<Projection> projections_;
};

}  // namespace

absl::StatusOr<SafetyEffect> MeasureSafety(const ModelWeights& weights, ExpertSource& source,
                                           const Tokenizer& tokenizer, WorkerPool& pool,
                                           const std::vector<std::string_view>& texts,
                                           const Projector& projector, const std::vector<TokenId>& asked,
                                           int64_t most_tokens) {
  SafetyEffect effect;
  TwoWays ways(weights, source, pool);
  const int64_t vocab = weights.config.vocab;
  std::vector<BatchRow> rows;
  for (std::string_view text : texts) {
    std::vector<TokenId> tokens = tokenizer.Encode(text);
    if (std::ssize(tokens) > most_tokens) tokens.resize(static_cast<size_t>(most_tokens));
    if (tokens.empty()) continue;
    ++effect.texts;
    for (TokenId token : tokens) effect.bytes += std::ssize(tokenizer.Bytes(token));
    tokens.insert(tokens.begin(), Tokenizer::kEndOfText);
    SessionState state(weights.config);
    for (size_t begin = 0; begin + 1 < tokens.size(); begin += kRowsPerBatch) {
      rows.clear();
      for (size_t i = begin; i < std::min(tokens.size() - 1, begin + kRowsPerBatch); ++i)
        rows.push_back({&state, tokens[i], true});
      if (absl::Status s = ways.Run(rows, projector); !s.ok()) return s;
      for (int64_t i = 0; i < std::ssize(rows); ++i) {
        const TokenId target = tokens[begin + static_cast<size_t>(i) + 1];
        const std::span<const float> before = ways.before(i), after = ways.after(i);
        const Projection& projection = ways.projection(i);
        ++effect.tokens;
        effect.nats += NegativeLogLikelihood(before.data(), vocab, target);
        effect.nats_projected += NegativeLogLikelihood(after.data(), vocab, target);
        effect.projected += !projection.inside;
        effect.distance += projection.distance;
        effect.largest_distance = std::max(effect.largest_distance, projection.distance);
        const size_t likeliest = LikeliestOf(before), likeliest_after = LikeliestOf(after);
        effect.other_likeliest += likeliest != likeliest_after;
        effect.mass += MassOf(before, asked);
        effect.mass_projected += MassOf(after, asked);
        for (TokenId token : asked) {
          effect.likeliest += token.index() == likeliest;
          effect.likeliest_projected += token.index() == likeliest_after;
        }
      }
    }
  }
  return effect;
}

absl::StatusOr<std::vector<ExplainedToken>> ExplainSafety(const ModelWeights& weights, ExpertSource& source,
                                                          WorkerPool& pool, std::vector<TokenId> prompt,
                                                          const Projector& projector, int64_t tokens) {
  std::vector<ExplainedToken> explained;
  TwoWays ways(weights, source, pool);
  SessionState state(weights.config);
  std::vector<BatchRow> rows;
  while (std::ssize(explained) < tokens) {
    rows.clear();
    const size_t take = std::min<size_t>(prompt.size(), kRowsPerBatch);
    for (size_t i = 0; i < take; ++i) rows.push_back({&state, prompt[i], i + 1 == prompt.size()});
    if (rows.empty()) return explained;
    if (absl::Status s = ways.Run(rows, projector); !s.ok()) return s;
    prompt.erase(prompt.begin(), prompt.begin() + static_cast<int64_t>(take));
    if (!prompt.empty()) continue;
    ExplainedToken next;
    const std::span<const float> before = ways.before(0), after = ways.after(0);
    next.token = TokenId(static_cast<int32_t>(LikeliestOf(after)));
    next.without = TokenId(static_cast<int32_t>(LikeliestOf(before)));
    const int64_t vocab = weights.config.vocab;
    next.probability = static_cast<float>(std::exp(-NegativeLogLikelihood(after.data(), vocab, next.token)));
    next.probability_without =
        static_cast<float>(std::exp(-NegativeLogLikelihood(before.data(), vocab, next.token)));
    next.projection = ways.projection(0);
    if (!next.projection.inside) {
      const std::vector<double> s = projector.Violations(ways.hidden(0));
      for (size_t j = 0; j < s.size(); ++j) {
        if (s[j] > 0) next.violated.push_back(static_cast<int32_t>(j));
      }
      std::stable_sort(next.violated.begin(), next.violated.end(), [&](int32_t a, int32_t b) {
        return s[static_cast<size_t>(a)] > s[static_cast<size_t>(b)];
      });
      if (next.violated.size() > 5) next.violated.resize(5);
    }
    explained.push_back(std::move(next));
    if (explained.back().token == Tokenizer::kEndOfText) return explained;
    prompt = {explained.back().token};
  }
  return explained;
}

}  // namespace omni
