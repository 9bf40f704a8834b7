#include "engine/around/memory_banks.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "engine/base/splitmix.h"

namespace omni {
namespace {

constexpr uint64_t kSampleSeed = 0x73616d70, kValueSeed = 0x76616c75;
constexpr size_t kMostProbed = 4;  // banks that one question looks into

uint64_t FingerprintOf(const HyperVector& key) {
  uint64_t hash = 0;
  for (uint64_t word : key.words) hash = SplitMix64(hash ^ word);
  return hash;
}

double Phi(double z) { return 0.5 * std::erfc(-z / std::sqrt(2.0)); }

}  // namespace

MemoryBanks::MemoryBanks(const MemoryShape& shape)
    : shape_(shape),
      banks_(static_cast<size_t>(shape.banks)),
      tables_(std::make_shared<Tables>()),
      banks_shared_(static_cast<size_t>(shape.banks)) {
  tables_->buckets.resize(static_cast<size_t>(shape.tables << shape.bits));
  for (int64_t i = 0; i < shape.tables * shape.bits; ++i) {
    sampled_.push_back(
        static_cast<uint16_t>(CounterRandom(kSampleSeed ^ shape.seed, static_cast<uint64_t>(i)) %
                              static_cast<uint64_t>(kHyperBits)));
  }
}

MemoryBanks::Bank::Bank(const Bank& other) {
  std::lock_guard lock(other.mutex_);
  bundle = other.bundle;
  values = other.values;
}

HyperVector MemoryBanks::Bank::Majority() const {
  std::lock_guard lock(mutex_);
  return bundle.majority();
}

MemoryBanks MemoryBanks::Share() {
  tables_shared_ = true;
  std::fill(banks_shared_.begin(), banks_shared_.end(), true);
  return *this;
}

MemoryBanks::Bank& MemoryBanks::BankToChange(uint16_t number) {
  std::shared_ptr<Bank>& bank = banks_[number];
  if (bank == nullptr) {
    bank = std::make_shared<Bank>();
  } else if (banks_shared_[number]) {
    bank = std::make_shared<Bank>(*bank);
  }
  banks_shared_[number] = false;
  return *bank;
}

MemoryBanks::Tables& MemoryBanks::TablesToChange() {
  if (std::exchange(tables_shared_, false)) tables_ = std::make_shared<Tables>(*tables_);
  return *tables_;
}

size_t MemoryBanks::BucketOf(int64_t table, const HyperVector& key) const {
  const uint16_t* bit = sampled_.data() + table * shape_.bits;
  size_t bucket = 0;
  for (int64_t i = 0; i < shape_.bits; ++i)
    bucket = bucket << 1 | (key.words[bit[i] / 64] >> (bit[i] % 64) & 1);
  return (static_cast<size_t>(table) << shape_.bits) + bucket;
}

void MemoryBanks::File(const HyperVector& key, uint16_t bank) {
  Tables& tables = TablesToChange();
  std::vector<uint16_t>& pool = tables.pool;
  for (int64_t table = 0; table < shape_.tables; ++table) {
    Bucket& bucket = tables.buckets[BucketOf(table, key)];
    if (bucket.size == UINT16_MAX) continue;  // tens of thousands of like keys: the other tables tell
    if (bucket.size == bucket.room) {
      const auto room = static_cast<uint16_t>(std::min(65535, std::max(2, 2 * bucket.room)));
      const auto begin = static_cast<uint32_t>(pool.size());
      pool.resize(pool.size() + room);
      std::copy_n(pool.begin() + bucket.begin, bucket.size, pool.begin() + begin);
      bucket.begin = begin;
      bucket.room = room;
    }
    pool[bucket.begin + bucket.size++] = bank;
  }
}

void MemoryBanks::Unfile(const HyperVector& key, uint16_t bank) {
  Tables& tables = TablesToChange();
  std::vector<uint16_t>& pool = tables.pool;
  for (int64_t table = 0; table < shape_.tables; ++table) {
    Bucket& bucket = tables.buckets[BucketOf(table, key)];
    const auto begin = pool.begin() + bucket.begin, end = begin + bucket.size;
    const auto it = std::find(begin, end, bank);
    if (it == end) continue;
    *it = *(end - 1);
    --bucket.size;
  }
}

void MemoryBanks::Add(const HyperVector& key, uint64_t value) {
  const uint64_t fingerprint = FingerprintOf(key);
  const auto there = tables_->placed.find(fingerprint);
  if (there != tables_->placed.end() && there->second.value == value) return;
  const auto [it, is_new] = TablesToChange().placed.try_emplace(fingerprint, Place{});
  if (!is_new) {
    Bank& bank = BankToChange(it->second.bank);
    bank.bundle.Remove(Bind(key, Codeword(kValueSeed, it->second.value)));
    *std::find(bank.values.begin(), bank.values.end(), it->second.value) = value;
    bank.bundle.Add(Bind(key, Codeword(kValueSeed, value)));
    it->second.value = value;
    return;
  }
  const auto number = static_cast<uint16_t>(next_++ % static_cast<uint64_t>(shape_.banks));
  Bank& bank = BankToChange(number);
  bank.bundle.Add(Bind(key, Codeword(kValueSeed, value)));
  bank.values.push_back(value);
  it->second = {number, value};
  File(key, number);
}

bool MemoryBanks::Remove(const HyperVector& key) {
  if (!tables_->placed.contains(FingerprintOf(key))) return false;
  absl::flat_hash_map<uint64_t, Place>& placed = TablesToChange().placed;
  const auto it = placed.find(FingerprintOf(key));
  Bank& bank = BankToChange(it->second.bank);
  bank.bundle.Remove(Bind(key, Codeword(kValueSeed, it->second.value)));
  const auto value = std::find(bank.values.begin(), bank.values.end(), it->second.value);
  *value = bank.values.back();
  bank.values.pop_back();
  Unfile(key, it->second.bank);
  placed.erase(it);
  return true;
}

std::optional<Recalled> MemoryBanks::Ask(const HyperVector& key) const {
  std::vector<uint16_t> named, votes_of(static_cast<size_t>(shape_.banks));
  for (int64_t table = 0; table < shape_.tables; ++table) {
    const Bucket& bucket = tables_->buckets[BucketOf(table, key)];
    for (uint32_t i = 0; i < bucket.size; ++i) {
      const uint16_t bank = tables_->pool[bucket.begin + i];
      if (votes_of[bank]++ == 0) named.push_back(bank);
    }
  }
  const size_t probed = std::min(kMostProbed, named.size());
  std::partial_sort(
      named.begin(), named.begin() + static_cast<int64_t>(probed), named.end(),
      [&](uint16_t a, uint16_t b) { return votes_of[a] != votes_of[b] ? votes_of[a] > votes_of[b] : a < b; });
  const kernels::Ops& ops = kernels::ActiveOps();
  std::optional<Recalled> best;
  for (size_t i = 0; i < probed; ++i) {
    const int64_t votes = votes_of[named[i]];
    // One that half the others' tables name is another's neighbour.
    if (votes < kFewestVotes || (best.has_value() && votes * 2 < best->votes)) break;
    const Bank& bank = *banks_[named[i]];
    const HyperVector recalled = Bind(bank.Majority(), key);
    int64_t nearest = kHyperBits, second = kHyperBits;
    uint64_t value = 0;
    for (uint64_t candidate : bank.values) {
      const int64_t distance = Distance(recalled, Codeword(kValueSeed, candidate), ops);
      if (distance < nearest) {
        if (candidate != value) second = nearest;
        nearest = distance;
        value = candidate;
      } else if (distance < second && candidate != value) {
        second = distance;
      }
    }
    if (nearest > kFarthest || (best.has_value() && nearest >= best->distance)) continue;
    best = {value, nearest, second - nearest, votes, std::ssize(bank.values)};
  }
  return best;
}

int64_t MemoryBanks::used_banks() const {
  return std::count_if(banks_.begin(), banks_.end(),
                       [](const auto& bank) { return bank != nullptr && !bank->values.empty(); });
}

int64_t MemoryBanks::fullest_bank() const {
  int64_t most = 0;
  for (const auto& bank : banks_) {
    if (bank != nullptr) most = std::max(most, static_cast<int64_t>(bank->values.size()));
  }
  return most;
}

int64_t MemoryBanks::bytes() const {
  int64_t bytes = static_cast<int64_t>(tables_->buckets.capacity() * sizeof(Bucket) +
                                       tables_->pool.capacity() * sizeof(uint16_t) +
                                       tables_->placed.capacity() * (sizeof(uint64_t) + sizeof(Place) + 1));
  for (const auto& bank : banks_) {
    if (bank == nullptr) continue;
    bytes += static_cast<int64_t>(sizeof(Bank) + kHyperWords * 64 * sizeof(int16_t) +
                                  bank->values.capacity() * sizeof(uint64_t));
  }
  return bytes;
}

// A bit of the majority of N random ones agrees with that of one of them with the probability 1/2 + m/2, m
// the probability that the others are even (N odd; for even N, with ties drawn, it is that of N + 1). The
// recalled vector is then at a distance of D/2 - D m (1 - 2 flipped) / 2 from the value's codeword, within
// a deviation of sqrt(D)/2, and at D/2 from each of the bank's other values: the value comes back if it is
// nearer than all of them and than kFarthest, and if enough tables name the bank.
double ExpectedRecall(double load, double flipped, const MemoryShape& shape) {
  const auto in_bank = [&](double n) {
    if (n < 1) return 1.0;
    const double odd = std::fmod(n, 2) < 0.5 ? n + 1 : n, k = (odd - 1) / 2;
    const double m = std::exp(std::lgamma(2 * k + 1) - 2 * std::lgamma(k + 1) - 2 * k * std::log(2.0));
    const double bits = static_cast<double>(kHyperBits);
    const double agree = 0.5 + m * (1 - 2 * flipped) / 2;
    const double near = bits * (1 - agree), spread = std::sqrt(bits * agree * (1 - agree));
    double sum = 0, weights = 0;
    for (double z = -8; z <= 8; z += 0.01) {
      const double weight = std::exp(-z * z / 2), distance = near + spread * z;
      weights += weight;
      if (distance > static_cast<double>(MemoryBanks::kFarthest)) continue;
      sum += weight * std::pow(Phi((bits / 2 - distance) / kHyperDeviation), n - 1);
    }
    return sum / weights;
  };
  // Banks differ by one association at most.
  const double low = std::floor(load), share = load - low;
  const double found = (1 - share) * in_bank(low) + share * in_bank(low + 1);
  const double named = std::pow(1 - flipped, static_cast<double>(shape.bits));
  double too_few = 0, term = std::pow(1 - named, static_cast<double>(shape.tables));
  for (int64_t v = 0; v < MemoryBanks::kFewestVotes; ++v) {
    too_few += named >= 1 ? 0 : term;
    if (named < 1) {
      term *= static_cast<double>(shape.tables - v) / static_cast<double>(v + 1) * named / (1 - named);
    }
  }
  return found * (1 - too_few);
}

}  // namespace omni
