#include "engine/around/context_eval.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "engine/decode/cpu_decoder.h"

namespace omni {
namespace {

using Clock = std::chrono::steady_clock;
constexpr size_t kRowsPerBatch = 64;

double Nats(std::span<const float> p, TokenId token) {
  return -std::log(std::max(1e-30, static_cast<double>(p[token.index()])));
}

}  // namespace

absl::StatusOr<ContextWorth> MeasureContexts(const ModelWeights& weights, ExpertSource& source,
                                             const Tokenizer& tokenizer, WorkerPool& pool,
                                             std::string_view text, int64_t most_tokens,
                                             std::shared_ptr<const ContextCode> code) {
  ContextWorth worth;
  std::vector<TokenId> tokens = tokenizer.Encode(text);
  if (std::ssize(tokens) > most_tokens) tokens.resize(static_cast<size_t>(most_tokens));
  tokens.insert(tokens.begin(), Tokenizer::kEndOfText);
  const auto vocab = static_cast<size_t>(weights.config.vocab);
  const kernels::Ops& ops = kernels::ActiveOps();
  CpuDecoder decoder(weights, pool);
  SessionState state(weights.config);
  ContextMemory memory(std::move(code));
  NgramCache ngrams;
  GuessMixer with_memory, with_ngrams;
  std::vector<BatchRow> rows;
  std::vector<float> p(vocab), mixed(vocab);
  for (size_t begin = 0; begin + 1 < tokens.size(); begin += kRowsPerBatch) {
    rows.clear();
    for (size_t i = begin; i < std::min(tokens.size() - 1, begin + kRowsPerBatch); ++i)
      rows.push_back({&state, tokens[i], true});
    absl::StatusOr<std::span<const float>> logits = RunBatch(decoder, weights.config, source, pool, rows);
    if (!logits.ok()) return logits.status();
    for (size_t i = 0; i < rows.size(); ++i) {
      const TokenId came = tokens[begin + i + 1];
      const std::span<const TokenId> history = std::span(tokens).first(begin + i + 1);
      float largest;
      const float sum =
          ops.exp_sum(logits->data() + i * vocab, static_cast<int64_t>(vocab), p.data(), &largest);
      for (float& x : p) x /= sum;
      const auto start = Clock::now();
      mixed = p;
      with_memory.Mix(memory.Ask(history, decoder.hidden(static_cast<int64_t>(i))), mixed);
      const double nats_memory = Nats(mixed, came);
      with_memory.Learn(came);
      memory.Learn(came);
      const auto between = Clock::now();
      mixed = p;
      with_ngrams.Mix(ngrams.Ask(history), mixed);
      const double nats_ngrams = Nats(mixed, came);
      with_ngrams.Learn(came);
      ngrams.Learn(came);
      worth.memory_seconds += std::chrono::duration<double>(between - start).count();
      worth.ngram_seconds += std::chrono::duration<double>(Clock::now() - between).count();
      ++worth.read;
      if (begin + i < tokens.size() / 2) continue;
      ++worth.tokens;
      worth.bytes += std::ssize(tokenizer.Bytes(came));
      worth.nats += Nats(p, came);
      worth.nats_memory += nats_memory;
      worth.nats_ngrams += nats_ngrams;
    }
  }
  return worth;
}

}  // namespace omni
