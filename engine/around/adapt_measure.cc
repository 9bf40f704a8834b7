#include "engine/around/adapt_measure.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>

#include "engine/around/adapt_texts.h"
#include "engine/around/context_memory.h"
#include "engine/decode/cpu_decoder.h"
#include "engine/decode/eval.h"

namespace omni {
namespace {

constexpr size_t kRowsPerBatch = 64, kReadPerBatch = 256;

// Calls visit(i, logits after tokens[i]) for the tokens from `first` on but the last.
absl::Status ReadOn(CpuDecoder& decoder, const ModelConfig& config, ExpertSource& source, WorkerPool& pool,
                    std::span<const TokenId> tokens, size_t first, const Adapter* adapter,
                    const std::function<void(size_t, std::span<const float>)>& visit) {
  SessionState state(config);
  RowAdapter view;
  const auto policy = adapter == nullptr ? nullptr : PolicyOf(config, *adapter);
  if (adapter != nullptr) view = adapter->View();
  std::vector<BatchRow> rows;
  const auto vocab = static_cast<size_t>(config.vocab);
  for (size_t begin = 0; begin + 1 < tokens.size();) {
    const bool wanted = begin >= first;
    const size_t end =
        wanted ? std::min(tokens.size() - 1, begin + kRowsPerBatch) : std::min(first, begin + kReadPerBatch);
    rows.clear();
    for (size_t i = begin; i < end; ++i) {
      rows.push_back({&state, tokens[i], wanted, policy.get()});
      if (adapter != nullptr) rows.back().adapter = &view;
    }
    const absl::StatusOr<std::span<const float>> logits = RunBatch(decoder, config, source, pool, rows);
    if (!logits.ok()) return logits.status();
    for (size_t i = begin; wanted && i < end; ++i) visit(i, logits->subspan((i - begin) * vocab, vocab));
    begin = end;
  }
  return absl::OkStatus();
}

// Counts of n-grams and how they are mixed in.
class Counts {
 public:
  // Nats of what came after `history`; learned from if `learn`.
  double Read(std::span<const TokenId> history, TokenId came, std::vector<float>& probabilities, bool learn) {
    mixer_.Mix(ngrams_.Ask(history), probabilities);
    const double nats = -std::log(std::max(1e-30, static_cast<double>(probabilities[came.index()])));
    if (learn) {
      mixer_.Learn(came);
      ngrams_.Learn(came);
    }
    return nats;
  }

 private:
  NgramCache ngrams_;
  GuessMixer mixer_;
};

}  // namespace

absl::StatusOr<AdaptWorth> MeasureAdapter(const ModelWeights& weights, ExpertSource& source,
                                          const Tokenizer& tokenizer, WorkerPool& pool,
                                          std::string_view document, int64_t first_bytes, int64_t most_tokens,
                                          const AdaptSettings& settings, Adapter& adapter) {
  AdaptWorth worth;
  const std::string_view beginning = document.substr(0, static_cast<size_t>(first_bytes));
  absl::StatusOr<AdaptReport> learned =
      LearnAdapter(weights, source, tokenizer, pool, beginning, settings, adapter);
  if (!learned.ok()) return learned.status();
  worth.learned = *std::move(learned);

  std::vector<TokenId> tokens = {Tokenizer::kEndOfText};
  for (TokenId token : tokenizer.Encode(beginning)) tokens.push_back(token);
  const size_t first = tokens.size() - 1;
  std::vector<TokenId> rest = tokenizer.Encode(document.substr(beginning.size()));
  if (std::ssize(rest) > most_tokens) rest.resize(static_cast<size_t>(most_tokens));
  tokens.insert(tokens.end(), rest.begin(), rest.end());
  worth.tokens = std::ssize(rest);
  for (TokenId token : rest) worth.bytes += std::ssize(tokenizer.Bytes(token));

  CpuDecoder decoder(weights, pool);
  const kernels::Ops& ops = kernels::ActiveOps();
  const auto vocab = static_cast<size_t>(weights.config.vocab);
  Counts frozen, reading;
  std::vector<float> p(vocab), mixed(vocab);
  absl::Status status = ReadOn(decoder, weights.config, source, pool, tokens, 0, nullptr,
                               [&](size_t i, std::span<const float> logits) {
                                 const TokenId came = tokens[i + 1];
                                 const auto history = std::span<const TokenId>(tokens).first(i + 1);
                                 float largest;
                                 const float sum =
                                     ops.exp_sum(logits.data(), std::ssize(logits), p.data(), &largest);
                                 for (float& x : p) x /= sum;
                                 mixed = p;
                                 const double with_frozen = frozen.Read(history, came, mixed, i < first);
                                 mixed = p;
                                 const double with_reading = reading.Read(history, came, mixed, true);
                                 if (i < first) return;
                                 worth.nats += NegativeLogLikelihood(logits.data(), std::ssize(logits), came);
                                 worth.nats_ngrams += with_frozen;
                                 worth.nats_ngrams_reading += with_reading;
                               });
  if (!status.ok()) return status;
  const auto nats_with = [&](const Adapter& with, double& nats) {
    nats = 0;
    return ReadOn(decoder, weights.config, source, pool, tokens, first, &with,
                  [&](size_t i, std::span<const float> logits) {
                    nats += NegativeLogLikelihood(logits.data(), std::ssize(logits), tokens[i + 1]);
                  });
  };
  status = nats_with(adapter, worth.nats_adapted);
  if (!status.ok()) return status;
  for (AdaptShare share : worth.learned.shares) {
    Adapter without = adapter;
    without.Clear(share.block);
    if (status = nats_with(without, share.nats_without); !status.ok()) return status;
    worth.shares.push_back(share);
  }
  return worth;
}

}  // namespace omni
