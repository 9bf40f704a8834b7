#include "engine/around/adapt_texts.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "engine/base/splitmix.h"
#include "engine/decode/eval.h"
#include "engine/text/tokenizer.h"

namespace omni {
namespace {

constexpr size_t kReadBatch = 256;  // rows of a pass without logits

double Divergence(std::span<const float> plain, std::span<const float> adapted) {
  const double most_p = *std::ranges::max_element(plain), most_q = *std::ranges::max_element(adapted);
  double sum_p = 0, sum_q = 0, mean = 0;
  for (size_t v = 0; v < plain.size(); ++v) {
    const double p = static_cast<double>(plain[v]) - most_p, q = static_cast<double>(adapted[v]) - most_q;
    sum_p += std::exp(p);
    sum_q += std::exp(q);
    mean += std::exp(p) * (p - q);
  }
  return mean / sum_p - std::log(sum_p) + std::log(sum_q);
}

// Drawn from softmax(logits) with a number in [0, 1).
TokenId Draw(std::span<const float> logits, double chance) {
  const double largest = *std::ranges::max_element(logits);
  double sum = 0;
  for (float l : logits) sum += std::exp(static_cast<double>(l) - largest);
  double left = sum * chance;
  size_t token = 0;
  for (; token + 1 < logits.size(); ++token) {
    left -= std::exp(static_cast<double>(logits[token]) - largest);
    if (left < 0) break;
  }
  return TokenId(static_cast<int32_t>(token));
}

}  // namespace

std::unique_ptr<AdaptedPositions> PolicyOf(const ModelConfig& config, const Adapter& adapter) {
  return adapter.parts().positions ? std::make_unique<AdaptedPositions>(config, adapter) : nullptr;
}

AdaptTexts::AdaptTexts(const ModelWeights& weights, ExpertSource& source, WorkerPool& pool,
                       std::vector<TokenId> tokens, size_t learned)
    : config_(weights.config),
      source_(source),
      pool_(pool),
      tokens_(std::move(tokens)),
      learned_(learned),
      decoder_(weights, pool),
      state_(config_),
      own_state_(config_),
      plain_state_(config_) {}

absl::StatusOr<std::span<const float>> AdaptTexts::Read(const RowAdapter* adapter) {
  if (absl::Status s = BeforeBatch(); !s.ok()) return s;
  for (BatchRow& row : rows_) row.adapter = adapter;
  return RunBatch(decoder_, config_, source_, pool_, rows_);
}

absl::Status AdaptTexts::WriteOwn(size_t texts, uint64_t seed, const std::function<bool()>& go_on) {
  for (size_t i = 0; i < texts + (texts + 1) / 2; ++i) {
    // Of three texts one is measured with.
    std::vector<std::vector<TokenId>>& list = i % 3 == 1 ? measured_ : own_;
    std::vector<TokenId> text = {Tokenizer::kEndOfText};
    plain_state_.Reset();
    while (text.size() <= kOwnLength) {
      rows_ = {{&plain_state_, text.back(), true}};
      const absl::StatusOr<std::span<const float>> logits = Read(nullptr);
      if (!logits.ok()) return logits.status();
      text.push_back(Draw(*logits, CounterUniform(seed, i * kOwnLength + text.size())));
    }
    list.push_back(std::move(text));
    if (!own_.empty() && !measured_.empty() && !go_on()) break;
  }
  return absl::OkStatus();
}

int64_t AdaptTexts::own_tokens() const {
  return static_cast<int64_t>((own_.size() + measured_.size()) * kOwnLength);
}

absl::StatusOr<double> AdaptTexts::Loss(SessionState& state, std::span<const TokenId> window,
                                        const RowAdapter& adapter, RoutePolicy* policy) {
  double nats = 0;
  for (size_t begin = 0; begin + 1 < window.size(); begin += 2 * kAdaptBatch) {
    const size_t count = std::min(2 * kAdaptBatch, window.size() - 1 - begin);
    rows_.clear();
    for (size_t i = begin; i < begin + count; ++i) rows_.push_back({&state, window[i], true, policy});
    const absl::StatusOr<std::span<const float>> logits = Read(&adapter);
    if (!logits.ok()) return logits.status();
    for (size_t i = 0; i < count; ++i) {
      nats += NegativeLogLikelihood(logits->data() + static_cast<int64_t>(i) * config_.vocab, config_.vocab,
                                    window[begin + i + 1]);
    }
  }
  return nats / static_cast<double>(window.size() - 1);
}

absl::StatusOr<double> AdaptTexts::HeldOut(const Adapter& adapter) {
  const RowAdapter view = adapter.View();
  const auto policy = PolicyOf(config_, adapter);
  state_.Reset();
  for (size_t begin = 0; begin < learned_; begin += kReadBatch) {
    rows_.clear();
    for (size_t i = begin; i < std::min(learned_, begin + kReadBatch); ++i)
      rows_.push_back({&state_, tokens_[i], false, policy.get()});
    if (absl::StatusOr<std::span<const float>> none = Read(&view); !none.ok()) return none.status();
  }
  return Loss(state_, tokens().subspan(learned_), view, policy.get());
}

absl::StatusOr<double> AdaptTexts::Drift(const Adapter& adapter) {
  const RowAdapter view = adapter.View();
  const auto policy = PolicyOf(config_, adapter);
  const auto vocab = static_cast<size_t>(config_.vocab);
  double nats = 0;
  for (const std::vector<TokenId>& text : measured_) {
    own_state_.Reset();
    plain_state_.Reset();
    for (size_t begin = 0; begin < kOwnLength; begin += kAdaptBatch) {
      rows_.clear();
      for (size_t i = begin; i < begin + kAdaptBatch; ++i) rows_.push_back({&plain_state_, text[i], true});
      const absl::StatusOr<std::span<const float>> plain = Read(nullptr);
      if (!plain.ok()) return plain.status();
      plain_logits_.assign(plain->begin(), plain->end());
      for (BatchRow& row : rows_) {
        row.state = &own_state_;
        row.policy = policy.get();
      }
      const absl::StatusOr<std::span<const float>> adapted = Read(&view);
      if (!adapted.ok()) return adapted.status();
      for (size_t i = 0; i < kAdaptBatch; ++i) {
        nats += Divergence(std::span(plain_logits_).subspan(i * vocab, vocab),
                           adapted->subspan(i * vocab, vocab));
      }
    }
  }
  return nats / static_cast<double>(measured_.size() * kOwnLength);
}

absl::Status AdaptTexts::Hidden(SessionState& state, std::span<const TokenId> tokens,
                                const RowAdapter* adapter, RoutePolicy* policy, std::vector<float>& y) {
  rows_.clear();
  for (TokenId token : tokens) rows_.push_back({&state, token, false, policy, true});
  if (absl::StatusOr<std::span<const float>> none = Read(adapter); !none.ok()) return none.status();
  y.clear();
  for (size_t i = 0; i < tokens.size(); ++i) {
    const std::span<const float> row = decoder_.hidden(static_cast<int64_t>(i));
    y.insert(y.end(), row.begin(), row.end());
  }
  return absl::OkStatus();
}

std::span<const TokenId> AdaptTexts::NextOwn(bool& begins) {
  begins = own_next_ == 0;
  const auto rows = std::span<const TokenId>(own_[own_text_]).subspan(own_next_, kAdaptBatch);
  own_next_ = (own_next_ + kAdaptBatch) % kOwnLength;
  if (own_next_ == 0) own_text_ = (own_text_ + 1) % own_.size();
  return rows;
}

}  // namespace omni
