// An associative memory: a value for each key, found again from a key that is only like the one it was stored
// with.
//
// An association is stored in one of `banks` bundles, as the key bound with the value's codeword; the bundle
// bound with a key again is nearer to that value's codeword than to any other. Which bank a key is in, tables
// of sampled bits say (Indyk and Motwani 1998): each table files the bank under `bits` of the key's bits, and
// the bank that most tables name for a key is the one, also if some of its bits are wrong. The values of a
// bank are then told apart by distance.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include <absl/container/flat_hash_map.h>

#include "engine/around/memory_vector.h"

namespace omni {

struct MemoryShape {
  int64_t banks = 2000;  // 1 .. 65 535
  int64_t tables = 64, bits = 14;
  uint64_t seed = 1;
};

struct Recalled {
  uint64_t value = 0;
  int64_t distance = 0;  // of the recalled vector and the value's codeword, bits
  int64_t margin = 0;    // how much nearer it is than the second best
  int64_t votes = 0;     // tables that named the bank
  int64_t bank_items = 0;
};

// Not thread-safe, but that any number of threads may ask one that nobody changes, and that Share()'s is
// another one.
class MemoryBanks {
 public:
  // What is farther from the value than this was not recalled but guessed: four deviations below chance.
  static constexpr int64_t kFarthest = kHyperBits / 2 - static_cast<int64_t>(4 * kHyperDeviation);
  static constexpr int64_t kFewestVotes = 3;

  explicit MemoryBanks(const MemoryShape& shape = {});
  MemoryBanks(MemoryBanks&&) noexcept = default;
  MemoryBanks& operator=(MemoryBanks&&) noexcept = default;

  // The value of a key that has one already is replaced; only the very same key counts as the same.
  void Add(const HyperVector& key, uint64_t value);
  // False: there is no such key.
  bool Remove(const HyperVector& key);
  // Nothing: no key that is like this one was stored, as far as can be told.
  std::optional<Recalled> Ask(const HyperVector& key) const;

  // The same memory as it is now, whatever is added to this one: what they have in common is copied when one
  // of them changes it.
  MemoryBanks Share();

  int64_t items() const { return static_cast<int64_t>(tables_->placed.size()); }
  int64_t used_banks() const;
  int64_t fullest_bank() const;
  int64_t bytes() const;  // of bundles, values and tables
  const MemoryShape& shape() const { return shape_; }

 private:
  struct Bank {
    Bank() = default;
    Bank(const Bank& other);
    HyperVector Majority() const;

    Bundle bundle;
    std::vector<uint64_t> values;  // one for each association

   private:
    mutable std::mutex mutex_;  // of the bundle's majority, which is made when it is first asked for
  };
  struct Place {
    uint16_t bank;
    uint64_t value;
  };
  // A run of bank numbers in the pool that grows by moving to where there is twice the room.
  struct Bucket {
    uint32_t begin = 0;
    uint16_t size = 0, room = 0;
  };

  struct Tables {
    std::vector<Bucket> buckets;  // [tables, 2^bits]
    std::vector<uint16_t> pool;
    absl::flat_hash_map<uint64_t, Place> placed;  // by the key's fingerprint
  };

  MemoryBanks(const MemoryBanks&) = default;
  size_t BucketOf(int64_t table, const HyperVector& key) const;
  void File(const HyperVector& key, uint16_t bank);
  void Unfile(const HyperVector& key, uint16_t bank);
  Bank& BankToChange(uint16_t number);
  Tables& TablesToChange();

  MemoryShape shape_;
  std::vector<uint16_t> sampled_;  // [tables, bits]: which bit of a key
  std::vector<std::shared_ptr<Bank>> banks_;
  std::shared_ptr<Tables> tables_;
  // Another memory has it too.
  std::vector<bool> banks_shared_;
  bool tables_shared_ = false;
  uint64_t next_ = 0;
};

// What to expect by theory of a memory whose banks hold `load` associations each, asked with keys of which
// `flipped` of the bits are wrong: the share of keys whose value comes back.
double ExpectedRecall(double load, double flipped, const MemoryShape& shape = {});

}  // namespace omni
