// What is remembered for whoever asks: texts by texts, in scopes that know nothing of each other.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "engine/around/memory_banks.h"
#include "store/state/memory_records.h"

namespace omni {

struct Remembered {
  std::string value;
  Recalled how;
};

struct ScopeStats {
  std::string scope;
  int64_t associations = 0;  // distinct keys
  int64_t values = 0;        // distinct
  int64_t used_banks = 0, fullest_bank = 0, bytes = 0;
};

// Hypervectors in memory (engine/around/memory_banks.h), associations on disk (store/state/memory_records.h):
// a scope's banks are made from its records when it is first asked about. Thread-safe; calls of one memory
// wait for each other.
class Memory {
 public:
  // As MemoryRecords::Open.
  static absl::StatusOr<std::unique_ptr<Memory>> Open(const std::string& dir, bool create = true);

  // When it returns OK, all of them are found, now and after any end of the process. A key of the same
  // words in the same order as one before takes its place. Errors: a key without a letter or digit, and
  // MemoryRecords::Add's.
  absl::Status Add(const std::string& scope, const std::vector<Association>& associations);
  // The value of the key that is most like this one; nothing: none is like it.
  absl::StatusOr<std::optional<Remembered>> Ask(const std::string& scope, std::string_view key);
  absl::StatusOr<std::vector<ScopeStats>> Stats();

 private:
  struct Scope {
    MemoryBanks banks;
    absl::flat_hash_map<uint64_t, std::string> values;  // by id
    void Add(const HyperVector& key, const std::string& value);
  };
  explicit Memory(std::unique_ptr<MemoryRecords> records) : records_(std::move(records)) {}
  absl::StatusOr<Scope*> Find(const std::string& scope);  // with the lock held

  std::mutex mutex_;
  std::unique_ptr<MemoryRecords> records_;
  std::map<std::string, std::unique_ptr<Scope>> scopes_;
};

}  // namespace omni
