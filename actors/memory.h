// What is remembered for whoever asks: texts by texts, in scopes that know nothing of each other.
//
// Problem: whoever asks, adds, or answers with a memory does so at the same time, a write waits for a disk,
// and an answer that began with a memory must end with the same one, here or elsewhere. Solution: one owner
// of the folder and of the scopes in memory; who waits for the disk waits beside those that ask; and a scope
// that an answer holds is shared with it, so that what is added later is added to a copy of what it changes.
#pragma once

#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "engine/around/memory_source.h"
#include "store/state/memory_records.h"

namespace omni {

struct ScopeStats {
  std::string scope;
  int64_t associations = 0;  // distinct keys
  int64_t values = 0;        // distinct
  int64_t used_banks = 0, fullest_bank = 0, bytes = 0;
  std::string version;  // HeldMemory's
};

struct MemoryLimits {
  int64_t scope_bytes = int64_t{1} << 30;  // of scopes in memory; beyond it those not asked for longest go
  size_t held_versions = 8;                // earlier ones of a scope that answers hold; then nothing is added
};

// Hypervectors in memory (engine/around/text_memory.h), associations on disk (store/state/memory_records.h):
// a scope's banks are made from its records when it is first asked about. Thread-safe: who asks waits for
// nobody's disk but that of the scope that he asks for.
//
// `owner` in all calls: whose scopes they are, which others cannot see; empty: nobody's in particular.
class Memory : public MemorySource {
 public:
  // As MemoryRecords::Open, now.
  static absl::StatusOr<std::unique_ptr<Memory>> Open(const std::string& dir, bool create = true);
  // The same when it is first needed, and made with the first Add; until then it remembers nothing. What Open
  // would say, each call says until it succeeds.
  static std::unique_ptr<Memory> At(std::string dir, MemoryLimits limits = {});

  // When it returns OK, all of them are found, now and after any end of the process. A key of the same
  // words in the same order as one before takes its place. Errors: a key without a letter or digit, and
  // MemoryRecords::Add's; ResourceExhausted: too many earlier versions of the scope are held.
  absl::Status Add(const std::string& scope, const std::vector<Association>& associations,
                   const std::string& owner = "");
  // The value of the key that is most like this one; nothing: none is like it.
  absl::StatusOr<std::optional<Remembered>> Ask(const std::string& scope, std::string_view key,
                                                const std::string& owner = "");
  // All that was added under a key of the same words in the same order, or without a key all of the scope;
  // how many records it had. Earlier versions of the scope that nobody holds are gone too. Errors as Add's.
  absl::StatusOr<int64_t> Forget(const std::string& scope, const std::optional<std::string>& key,
                                 const std::string& owner = "");
  absl::StatusOr<std::vector<ScopeStats>> Stats(const std::string& owner = "");
  // All of them, whoever's: names as on disk.
  absl::StatusOr<std::vector<ScopeStats>> AllStats();

  absl::StatusOr<HeldMemory> Hold(const std::string& owner, const MemoryChoice& choice) override;

 private:
  // A scope's records in their order: their number, and a hash of them.
  class Version {
   public:
    void Add(const Association& association);
    std::string Text() const;
    int64_t records = 0;

   private:
    uint64_t high_ = 0, low_ = 0;
  };
  struct Scope {
    TextMemory memory;
    Version version;
    std::shared_ptr<const TextMemory> shared;                     // of the present version, if it is held
    std::map<std::string, std::weak_ptr<const TextMemory>> held;  // by version
  };
  using Scopes = std::list<std::pair<std::string, std::shared_ptr<Scope>>>;

  Memory(std::string dir, MemoryLimits limits) : dir_(std::move(dir)), limits_(limits) {}
  // With writing_ held. Null: there is no folder, and it is not to be made.
  absl::StatusOr<MemoryRecords*> Records(bool create);
  absl::StatusOr<std::shared_ptr<Scope>> Load(const std::string& scope);
  absl::StatusOr<std::vector<ScopeStats>> StatsOf(const std::string& prefix, bool all);
  // With mutex_ held.
  Scope* Find(const std::string& scope);  // null: it is not in memory; else it goes last now
  void Trim();

  const std::string dir_;
  const MemoryLimits limits_;
  std::mutex writing_;  // before mutex_; held while the disk is waited for
  std::unique_ptr<MemoryRecords> records_;
  bool doubtful_ = false;  // a write failed: whether it is there is known when records are read again
  std::mutex mutex_;       // of the scopes in memory
  Scopes scopes_;          // the one that was asked for longest ago first
};

}  // namespace omni
