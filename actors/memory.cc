#include "actors/memory.h"

#include <utility>

#include <absl/strings/str_cat.h>
#include <xxhash.h>

#include "engine/base/quoted.h"

namespace omni {

void Memory::Scope::Add(const HyperVector& key, const std::string& value) {
  // Of different texts, one in 2^64 pairs has the same id.
  const uint64_t id = XXH3_64bits(value.data(), value.size());
  values.try_emplace(id, value);
  banks.Add(key, id);
}

absl::StatusOr<std::unique_ptr<Memory>> Memory::Open(const std::string& dir, bool create) {
  absl::StatusOr<std::unique_ptr<MemoryRecords>> records = MemoryRecords::Open(dir, create);
  if (!records.ok()) return records.status();
  return std::unique_ptr<Memory>(new Memory(*std::move(records)));
}

absl::StatusOr<Memory::Scope*> Memory::Find(const std::string& scope) {
  const auto it = scopes_.find(scope);
  if (it != scopes_.end()) return it->second.get();
  auto made = std::make_unique<Scope>();
  absl::Status read =
      records_->ForEach(scope, [&](const Association& a) { made->Add(TextVector(a.key), a.value); });
  if (!read.ok()) return read;
  return scopes_.emplace(scope, std::move(made)).first->second.get();
}

absl::Status Memory::Add(const std::string& scope, const std::vector<Association>& associations) {
  std::vector<HyperVector> keys;
  for (const Association& association : associations) {
    keys.push_back(TextVector(association.key));
    if (keys.back() == HyperVector()) {
      return absl::InvalidArgumentError(absl::StrCat("memory: the key ", Quoted(association.key),
                                                     " has no letter and no digit, and so is like no other"));
    }
  }
  std::lock_guard lock(mutex_);
  absl::StatusOr<Scope*> found = Find(scope);
  if (!found.ok()) return found.status();
  if (absl::Status s = records_->Add(scope, associations); !s.ok()) {
    // Whether they are there is known when they are read again.
    scopes_.erase(scope);
    return s;
  }
  for (size_t i = 0; i < associations.size(); ++i) (*found)->Add(keys[i], associations[i].value);
  return absl::OkStatus();
}

absl::StatusOr<std::optional<Remembered>> Memory::Ask(const std::string& scope, std::string_view key) {
  const HyperVector vector = TextVector(key);
  std::lock_guard lock(mutex_);
  absl::StatusOr<Scope*> found = Find(scope);
  if (!found.ok()) return found.status();
  if (vector == HyperVector()) return std::optional<Remembered>();
  const std::optional<Recalled> recalled = (*found)->banks.Ask(vector);
  if (!recalled.has_value()) return std::optional<Remembered>();
  return std::optional<Remembered>(Remembered{(*found)->values.at(recalled->value), *recalled});
}

absl::StatusOr<std::vector<ScopeStats>> Memory::Stats() {
  std::lock_guard lock(mutex_);
  const absl::StatusOr<std::vector<std::string>> names = records_->Scopes();
  if (!names.ok()) return names.status();
  std::vector<ScopeStats> stats;
  for (const std::string& name : *names) {
    absl::StatusOr<Scope*> scope = Find(name);
    if (!scope.ok()) return scope.status();
    const MemoryBanks& banks = (*scope)->banks;
    stats.push_back({name, banks.items(), std::ssize((*scope)->values), banks.used_banks(),
                     banks.fullest_bank(), banks.bytes()});
  }
  return stats;
}

}  // namespace omni
