#include "engine/text/sampler.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <functional>
#include <limits>
#include <optional>
#include <utility>

#include <absl/strings/str_cat.h>

#include "engine/base/splitmix.h"
#include "kernels/op.h"

namespace omni {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();
constexpr float kLargest = std::numeric_limits<float>::max();

// Numbers that order as (falling logit, rising id): no comparison of floats, and equal logits are settled
// too.
uint64_t OrderKey(float logit, size_t id) {
  const uint32_t bits = std::bit_cast<uint32_t>(logit + 0.0f);  // -0 becomes 0
  const uint32_t rising = bits >> 31 ? ~bits : bits | 0x80000000u;
  return static_cast<uint64_t>(~rising) << 32 | id;
}

size_t IdOf(uint64_t key) { return key & 0xffffffffu; }

std::vector<float> WithoutNan(std::span<const float> logits) {
  std::vector<float> clean(logits.begin(), logits.end());
  for (float& l : clean) l = std::isnan(l) ? kNever : std::min(l, kLargest);
  return clean;
}

bool Penalises(const SamplerSettings& s) { return s.repetition_penalty != 1.0f && s.repetition_window > 0; }

void Penalise(std::span<const TokenId> history, const SamplerSettings& s, std::vector<float>* logits) {
  if (!Penalises(s)) return;
  const auto recent = history.last(std::min(history.size(), static_cast<size_t>(s.repetition_window)));
  std::vector<TokenId> distinct(recent.begin(), recent.end());
  std::sort(distinct.begin(), distinct.end());
  distinct.erase(std::unique(distinct.begin(), distinct.end()), distinct.end());
  for (TokenId id : distinct) {
    if (id.value < 0 || id.index() >= logits->size()) continue;
    float& logit = (*logits)[id.index()];
    if (logit == kNever) continue;
    logit = logit > 0 ? logit / s.repetition_penalty : logit * s.repetition_penalty;
    logit = std::clamp(logit, -kLargest, kLargest);
  }
}

// Sorts by the upper halves of keys whose lower halves rise. By digits, in three passes that keep the order
// of equals: where nothing is cut off there are as many candidates as tokens, and comparing them took longer
// than everything else that a token of a small model takes.
void SortByLogit(std::vector<uint64_t>* keys) {
  constexpr int kBits = 11, kPasses = 3;
  constexpr size_t kDigits = size_t{1} << kBits, kFew = 256;
  if (keys->size() < kFew) {
    std::sort(keys->begin(), keys->end());
    return;
  }
  const auto digit = [](uint64_t key, int pass) { return key >> (32 + kBits * pass) & (kDigits - 1); };
  std::vector<std::array<uint32_t, kDigits>> at(kPasses);  // where the next key with the digit goes
  for (uint64_t key : *keys) {
    for (int pass = 0; pass < kPasses; ++pass) ++at[static_cast<size_t>(pass)][digit(key, pass)];
  }
  std::vector<uint64_t> sorted(keys->size());
  for (int pass = 0; pass < kPasses; ++pass) {
    auto& next = at[static_cast<size_t>(pass)];
    uint32_t before = 0;
    for (uint32_t& count : next) before += std::exchange(count, before);
    for (uint64_t key : *keys) sorted[next[digit(key, pass)]++] = key;
    keys->swap(sorted);
  }
}

// A logit that k logits or more reach, few of them less than the k-th largest: the k-th largest of the
// largest of some groups, whose maxima take one look at every logit. Only for k of up to kMostOfGroups.
constexpr size_t kGroups = 256, kMostOfGroups = kGroups / 4;

float ReachedByMany(const std::vector<float>& logits, size_t k) {
  std::array<float, kGroups> largest;
  largest.fill(kNever);
  size_t i = 0;
  for (; i + kGroups <= logits.size(); i += kGroups) {
    for (size_t g = 0; g < kGroups; ++g) largest[g] = logits[i + g] > largest[g] ? logits[i + g] : largest[g];
  }
  for (size_t g = 0; i < logits.size(); ++i, ++g) largest[g] = std::max(largest[g], logits[i]);
  const auto nth = largest.begin() + static_cast<std::ptrdiff_t>(k - 1);
  std::nth_element(largest.begin(), nth, largest.end(), std::greater<>());
  return *nth;
}

// The candidates after top-k (0: all of them), by falling logit.
std::vector<uint64_t> Candidates(const std::vector<float>& logits, int32_t top_k) {
  std::vector<uint64_t> keys;
  const bool some = top_k > 0 && static_cast<size_t>(top_k) <= kMostOfGroups && logits.size() > 4 * kGroups;
  // Of those that are no candidates for being too small, k are larger.
  const float least = some ? ReachedByMany(logits, static_cast<size_t>(top_k)) : kNever;
  if (!some) keys.reserve(logits.size());
  constexpr size_t kBlock = 32;  // looked at together: few of them have a candidate
  for (size_t begin = 0; begin < logits.size(); begin += kBlock) {
    const size_t end = std::min(begin + kBlock, logits.size());
    int any = 0;
    for (size_t i = begin; i < end; ++i) any |= static_cast<int>(logits[i] >= least);
    for (size_t i = begin; any != 0 && i < end; ++i) {
      if (logits[i] > kNever && logits[i] >= least) keys.push_back(OrderKey(logits[i], i));
    }
  }
  if (top_k > 0 && static_cast<size_t>(top_k) < keys.size()) {
    std::nth_element(keys.begin(), keys.begin() + top_k, keys.end());
    keys.resize(static_cast<size_t>(top_k));
    std::sort(keys.begin(), keys.end());
  } else {
    SortByLogit(&keys);
  }
  return keys;
}

// How many of the candidates, whose weights fall, pass top-p and min-p.
size_t Passing(const std::vector<float>& weights, const SamplerSettings& s) {
  size_t n = weights.size();
  if (s.top_p < 1.0f) {
    double total = 0;
    for (float w : weights) total += w;
    const double wanted = static_cast<double>(s.top_p) * total;
    double sum = weights[0];
    for (n = 1; n < weights.size() && sum < wanted; ++n) sum += weights[n];
  }
  const float least = s.min_p * weights[0];
  while (n > 1 && weights[n - 1] < least) --n;
  return n;
}

size_t Draw(const std::vector<float>& weights, size_t n, double uniform) {
  double total = 0;
  for (size_t i = 0; i < n; ++i) total += weights[i];
  const double target = uniform * total;
  double sum = 0;
  for (size_t i = 0; i + 1 < n; ++i) {
    sum += weights[i];
    if (target < sum) return i;
  }
  return n - 1;
}

// What Draw draws from all candidates, without their order: they are put into buckets by falling logit, and
// only those of the bucket that the draw falls into are sorted. Nothing where rounding might decide it.
// scaled, weights: by id, what Sample takes the exp of and that; weights are 0 of what is no candidate.
std::optional<size_t> DrawUnsorted(const std::vector<float>& logits, const std::vector<float>& scaled,
                                   const std::vector<float>& weights, double uniform) {
  constexpr size_t kBuckets = 256;
  constexpr float kPerUnit = 8;
  const size_t n = logits.size();
  std::vector<uint8_t> bucket(n);
  for (size_t i = 0; i < n; ++i)
    bucket[i] = static_cast<uint8_t>(std::min(-scaled[i] * kPerUnit, static_cast<float>(kBuckets - 1)));
  std::array<double, kBuckets> sums = {};
  for (size_t i = 0; i < n; ++i) sums[bucket[i]] += weights[i];
  double total = 0;
  for (double sum : sums) total += sum;
  // Each of the sums here and of those in order is off by no more than one rounding a term, and so is target.
  const double margin =
      8 * static_cast<double>(n + kBuckets) * std::numeric_limits<double>::epsilon() * total;
  const double target = uniform * total;
  double before = 0;
  size_t b = 0;
  while (b + 1 < kBuckets && before + sums[b] <= target) before += sums[b++];
  std::vector<uint64_t> keys;
  for (size_t i = 0; i < n; ++i) {
    if (bucket[i] == b && weights[i] > 0) keys.push_back(OrderKey(logits[i], i));
  }
  std::sort(keys.begin(), keys.end());
  for (uint64_t key : keys) {
    const double after = before + weights[IdOf(key)];
    if (target < after) {
      if (target < before + margin && before > 0) return std::nullopt;
      if (target > after - margin) return std::nullopt;
      return IdOf(key);
    }
    before = after;
  }
  return std::nullopt;
}

bool DrawsFromAll(const SamplerSettings& s, size_t vocab) {
  return (s.top_k <= 0 || static_cast<size_t>(s.top_k) >= vocab) && s.top_p >= 1.0f && s.min_p <= 0.0f;
}

template <typename T>
absl::Status Check(const char* field, T value, Range<T> range) {
  if (range.Has(value)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(field, " is ", value, "; it must be ", range.Text()));
}

}  // namespace

absl::Status Validate(const SamplerSettings& s) {
  absl::Status status = Check("temperature (--temp)", s.temperature, kTemperatures);
  status.Update(Check("top_k (--top-k)", s.top_k, kTopKs));
  status.Update(Check("top_p (--top-p)", s.top_p, kTopPs));
  status.Update(Check("min_p (--min-p)", s.min_p, kMinPs));
  status.Update(Check("repetition_penalty (--repeat-penalty)", s.repetition_penalty, kRepetitionPenalties));
  status.Update(Check("repetition_window (--repeat-last-n)", s.repetition_window, kRepetitionWindows));
  return status;
}

Sampled Sample(std::span<const float> logits, std::span<const TokenId> history, uint64_t position,
               const SamplerSettings& settings) {
  std::vector<float> adjusted = WithoutNan(logits);
  if (std::all_of(adjusted.begin(), adjusted.end(), [](float l) { return l == kNever; })) return {};
  std::vector<float> softmax(adjusted.size());
  float max = 0;
  const float sum = kernels::ActiveOps().exp_sum(adjusted.data(), static_cast<int64_t>(adjusted.size()),
                                                 softmax.data(), &max);
  Penalise(history, settings, &adjusted);
  const auto result = [&](size_t id) {
    return Sampled{TokenId(static_cast<int32_t>(id)), softmax[id] / sum};
  };
  const bool penalised = Penalises(settings);
  if (penalised) max = *std::max_element(adjusted.begin(), adjusted.end());
  if (!(settings.temperature > 0))
    return result(static_cast<size_t>(std::find(adjusted.begin(), adjusted.end(), max) - adjusted.begin()));
  const double uniform = CounterUniform(settings.seed, position);
  std::vector<float> weights;
  const auto weigh = [&](float largest, size_t n, auto logit) {
    weights.resize(n);
    for (size_t i = 0; i < n; ++i) weights[i] = (logit(i) - largest) / settings.temperature;
  };
  // The largest is 0, and so taken off in vain: each weight is its exp.
  const auto exp = [&](float* to) {
    kernels::ActiveOps().exp_sum(weights.data(), static_cast<int64_t>(weights.size()), to, &max);
  };
  if (DrawsFromAll(settings, adjusted.size())) {
    weigh(max, adjusted.size(), [&](size_t i) { return adjusted[i]; });
    std::vector<float> by_id(weights.size());
    exp(by_id.data());
    if (const auto drawn = DrawUnsorted(adjusted, weights, by_id, uniform)) return result(*drawn);
  }
  const std::vector<uint64_t> keys = Candidates(adjusted, settings.top_k);
  weigh(adjusted[IdOf(keys[0])], keys.size(), [&](size_t i) { return adjusted[IdOf(keys[i])]; });
  exp(weights.data());
  return result(IdOf(keys[Draw(weights, Passing(weights, settings), uniform)]));
}

std::vector<Sampled> Likeliest(std::span<const float> logits, int32_t count) {
  std::vector<Sampled> likeliest;
  if (count <= 0) return likeliest;
  const std::vector<float> clean = WithoutNan(logits);
  const std::vector<uint64_t> keys = Candidates(clean, count);
  if (keys.empty()) return likeliest;
  std::vector<float> softmax(clean.size());
  float max = 0;
  const float sum =
      kernels::ActiveOps().exp_sum(clean.data(), static_cast<int64_t>(clean.size()), softmax.data(), &max);
  likeliest.reserve(keys.size());
  for (uint64_t key : keys) {
    likeliest.push_back({TokenId(static_cast<int32_t>(IdOf(key))), softmax[IdOf(key)] / sum});
  }
  return likeliest;
}

}  // namespace omni
