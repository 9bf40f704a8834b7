#include "engine/around/context_memory.h"

#include <algorithm>
#include <bit>
#include <utility>

#include <absl/container/flat_hash_map.h>

#include "engine/base/splitmix.h"

namespace omni {
namespace {

constexpr uint64_t kTokenSeed = 0x746f6b, kOrderSeed = 0x6f726465, kSignSeed = 0x7369676e;
// A token is recalled, and not noise, from so many deviations on.
constexpr double kLeastClear = 2.5;
constexpr double kClear[] = {3.5, 5, 7, 10, 14};

constexpr int64_t kBytesOfCounters = 2 * kHyperWords * 64;  // of a bundle
constexpr int64_t kBytesOfPointer = static_cast<int64_t>(sizeof(void*));

uint64_t HashOf(int order, std::span<const TokenId> history) {
  uint64_t hash = SplitMix64(kOrderSeed + static_cast<uint64_t>(order));
  for (TokenId token : history.last(static_cast<size_t>(order)))
    hash = SplitMix64(hash ^ static_cast<uint64_t>(token.value));
  return hash;
}

}  // namespace

// --- Projection

SignProjection::SignProjection(int64_t d)
    : d_(d), padded_(static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(std::max<int64_t>(d, 64))))) {
  const int64_t rounds = (kHyperBits + padded_ - 1) / padded_;
  for (int64_t i = 0; i < rounds * padded_ / 64; ++i)
    signs_.push_back(CounterRandom(kSignSeed, static_cast<uint64_t>(i)));
}

HyperVector SignProjection::operator()(std::span<const float> hidden) const {
  HyperVector bits;
  std::vector<float> x(static_cast<size_t>(padded_));
  int64_t at = 0;
  for (size_t round = 0; at < kHyperBits; ++round) {
    const uint64_t* signs = signs_.data() + round * static_cast<size_t>(padded_ / 64);
    for (int64_t i = 0; i < d_; ++i) {
      const float h = hidden[static_cast<size_t>(i)];
      x[static_cast<size_t>(i)] = signs[i / 64] >> (i % 64) & 1 ? -h : h;
    }
    std::fill(x.begin() + d_, x.end(), 0.0f);
    for (int64_t half = 1; half < padded_; half *= 2) {
      for (int64_t begin = 0; begin < padded_; begin += 2 * half) {
        float *a = x.data() + begin, *b = a + half;
        for (int64_t i = 0; i < half; ++i) {
          const float sum = a[i] + b[i], difference = a[i] - b[i];
          a[i] = sum;
          b[i] = difference;
        }
      }
    }
    for (int64_t i = 0; i < padded_ && at < kHyperBits; ++i, ++at) {
      if (x[static_cast<size_t>(i)] > 0) bits.words[static_cast<size_t>(at / 64)] |= uint64_t{1} << (at % 64);
    }
  }
  return bits;
}

ContextCode::ContextCode(int64_t d, int64_t vocab) : project(d) {
  for (int64_t i = 0; i < vocab; ++i) tokens.push_back(Codeword(kTokenSeed, static_cast<uint64_t>(i)));
}

// --- Mixing

MixtureWeights::MixtureWeights()
    : weights_(static_cast<size_t>((kContextOrders + 1) * kClarities * kCertainties)) {}

int MixtureWeights::Kind(int order, int clarity, float largest) {
  int certainty = 0;
  for (float edge : {0.15f, 0.35f, 0.6f, 0.85f}) certainty += largest > edge;
  return (order * kClarities + std::clamp(clarity, 0, kClarities - 1)) * kCertainties + certainty;
}

void MixtureWeights::Learn(int kind, double before, double source) {
  Weight& w = weights_[static_cast<size_t>(kind)];
  const double had = static_cast<double>(w.value) * source;
  const double share = had / (had + (1 - static_cast<double>(w.value)) * before + 1e-30);
  // The mean of the shares so far, and once there are many an average that forgets.
  const double rate = std::max(1.0 / (20 + w.seen++), 0.002);
  w.value =
      std::clamp(static_cast<float>(static_cast<double>(w.value) * (1 - rate) + rate * share), 0.001f, 0.95f);
}

MixedGuesses GuessMixer::Mix(std::span<const ContextGuess> guesses, std::span<float> probabilities) {
  MixedGuesses mixed;
  sources_.clear();
  float kept = 1;
  for (const ContextGuess& guess : guesses) {
    const float largest = *std::max_element(probabilities.begin(), probabilities.end());
    Source source{MixtureWeights::Kind(guess.order, guess.clarity, largest), guess.tokens, {}, 0};
    source.weight = weights_.weight(source.kind);
    for (const auto& [token, probability] : guess.tokens)
      source.before.push_back(probabilities[token.index()]);
    for (float& p : probabilities) p *= 1 - source.weight;
    for (const auto& [token, probability] : guess.tokens)
      probabilities[token.index()] += source.weight * probability;
    kept *= 1 - source.weight;
    mixed.order = guess.order;
    sources_.push_back(std::move(source));
  }
  mixed.weight = 1 - kept;
  return mixed;
}

void GuessMixer::Learn(TokenId came) {
  for (const Source& source : sources_) {
    double before = -1, in_source = 0;
    for (size_t i = 0; i < source.tokens.size(); ++i) {
      if (!(source.tokens[i].first == came)) continue;
      before = static_cast<double>(source.before[i]);
      in_source = static_cast<double>(source.tokens[i].second);
    }
    // A token that the source does not have takes nothing from it, whatever its probability was.
    weights_.Learn(source.kind, before < 0 ? 1 : before, in_source);
  }
  sources_.clear();
}

// --- Bundles

ContextMemory::ContextMemory(std::shared_ptr<const ContextCode> code) : code_(std::move(code)) {
  for (auto& banks : banks_) banks.resize(kBanks);
}

ContextMemory::ContextMemory(const ContextMemory& other) : code_(other.code_), asked_(other.asked_) {
  for (size_t order = 0; order < banks_.size(); ++order) {
    banks_[order].resize(kBanks);
    for (size_t i = 0; i < banks_[order].size(); ++i) {
      if (const auto& bank = other.banks_[order][i]) banks_[order][i] = std::make_unique<Bank>(*bank);
    }
  }
}

int64_t ContextMemory::bytes() const {
  int64_t bytes = static_cast<int64_t>(sizeof(*this)) + kContextOrders * kBanks * kBytesOfPointer;
  for (const auto& banks : banks_) {
    for (const auto& bank : banks) {
      if (bank == nullptr) continue;
      bytes += static_cast<int64_t>(sizeof(Bank)) + kBytesOfCounters +
               static_cast<int64_t>(bank->values.capacity() * sizeof(TokenId));
    }
  }
  return bytes;
}

int64_t ContextMemory::MostBytes(int64_t tokens) {
  const int64_t banks = kContextOrders * std::min(tokens, kBanks);
  // A token is at most one value of each order, and a vector has at most twice the room that it needs.
  return static_cast<int64_t>(sizeof(ContextMemory)) + kContextOrders * kBanks * kBytesOfPointer +
         banks * (static_cast<int64_t>(sizeof(Bank)) + kBytesOfCounters) +
         kContextOrders * tokens * 2 * static_cast<int64_t>(sizeof(TokenId));
}

ContextMemory::Place ContextMemory::PlaceOf(int order, std::span<const TokenId> history,
                                            const HyperVector& projected) {
  const uint64_t hash = HashOf(order, history);
  const size_t row = static_cast<size_t>(order - 1), number = hash % static_cast<uint64_t>(kBanks);
  std::unique_ptr<Bank>& bank = banks_[row][number];
  if (bank == nullptr) bank = std::make_unique<Bank>();
  return {row, number, Bind(projected, Codeword(kOrderSeed, hash))};
}

std::vector<ContextGuess> ContextMemory::Ask(std::span<const TokenId> history,
                                             std::span<const float> hidden) {
  const HyperVector projected = code_->project(hidden);
  const kernels::Ops& ops = kernels::ActiveOps();
  asked_.clear();
  std::vector<ContextGuess> guesses;
  for (int order = 1; order <= kContextOrders && order <= std::ssize(history); ++order) {
    asked_.push_back(PlaceOf(order, history, projected));
    const Place& place = asked_.back();
    const Bank& bank = At(place);
    if (bank.values.empty()) continue;
    const HyperVector recalled = Bind(bank.bundle.majority(), place.key);
    ContextGuess guess;
    guess.order = order;
    double best = 0, sum = 0;
    for (TokenId token : bank.values) {
      const double z = (static_cast<double>(kHyperBits) / 2 -
                        static_cast<double>(Distance(recalled, code_->tokens[token.index()], ops))) /
                       kHyperDeviation;
      if (z < kLeastClear) continue;
      best = std::max(best, z);
      const double weight = z - kLeastClear + 0.5;
      sum += weight;
      guess.tokens.emplace_back(token, static_cast<float>(weight));
    }
    if (guess.tokens.empty()) continue;
    for (auto& [token, weight] : guess.tokens) weight = static_cast<float>(static_cast<double>(weight) / sum);
    for (double edge : kClear) guess.clarity += best >= edge;
    guesses.push_back(std::move(guess));
  }
  return guesses;
}

void ContextMemory::Learn(TokenId came) {
  for (const Place& place : asked_) {
    Bank& bank = At(place);
    // More would not fit the counters; what a text says so often the model knows.
    if (bank.items >= 30'000) continue;
    bank.bundle.Add(Bind(place.key, code_->tokens[came.index()]));
    ++bank.items;
    if (std::find(bank.values.begin(), bank.values.end(), came) == bank.values.end())
      bank.values.push_back(came);
  }
  asked_.clear();
}

// --- Counts

struct NgramCache::Impl {
  using Counts = std::vector<std::pair<TokenId, int32_t>>;
  std::array<absl::flat_hash_map<uint64_t, Counts>, kContextOrders> orders;
  std::vector<uint64_t> asked;
};

NgramCache::NgramCache() : impl_(std::make_unique<Impl>()) {}
NgramCache::~NgramCache() = default;

std::vector<ContextGuess> NgramCache::Ask(std::span<const TokenId> history) {
  impl_->asked.clear();
  std::vector<ContextGuess> guesses;
  for (int order = 1; order <= kContextOrders && order <= std::ssize(history); ++order) {
    const uint64_t hash = HashOf(order, history);
    impl_->asked.push_back(hash);
    const auto it = impl_->orders[static_cast<size_t>(order - 1)].find(hash);
    if (it == impl_->orders[static_cast<size_t>(order - 1)].end()) continue;
    ContextGuess guess;
    guess.order = order;
    int64_t sum = 0;
    for (const auto& [token, count] : it->second) sum += count;
    for (const auto& [token, count] : it->second)
      guess.tokens.emplace_back(token, static_cast<float>(count) / static_cast<float>(sum));
    guess.clarity = std::bit_width(static_cast<uint64_t>(sum)) - 1;
    guesses.push_back(std::move(guess));
  }
  return guesses;
}

void NgramCache::Learn(TokenId came) {
  for (size_t i = 0; i < impl_->asked.size(); ++i) {
    Impl::Counts& counts = impl_->orders[i][impl_->asked[i]];
    const auto it =
        std::find_if(counts.begin(), counts.end(), [&](const auto& c) { return c.first == came; });
    if (it == counts.end()) {
      counts.emplace_back(came, 1);
    } else {
      ++it->second;
    }
  }
  impl_->asked.clear();
}

}  // namespace omni
