#include "actors/memory.h"

#include <filesystem>
#include <new>
#include <utility>

#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <xxhash.h>

#include "engine/base/quoted.h"

namespace omni {
namespace {

constexpr uint64_t kHighSeed = 0x68696768, kLowSeed = 0x6c6f77;

// Of a question.
absl::Status CheckKey(std::string_view key) {
  if (key.size() <= kMostKeyBytes) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("memory: a key of ", key.size(),
                                                 " bytes is asked about; keys have up to ", kMostKeyBytes));
}

}  // namespace

void Memory::Version::Add(const Association& association) {
  std::string bytes;
  for (uint64_t size = association.key.size(), i = 0; i < 8; ++i, size >>= 8)
    bytes += static_cast<char>(size & 255);
  absl::StrAppend(&bytes, association.key, association.value);
  high_ = XXH3_64bits_withSeed(bytes.data(), bytes.size(), high_ ^ kHighSeed);
  low_ = XXH3_64bits_withSeed(bytes.data(), bytes.size(), low_ ^ kLowSeed);
  ++records;
}

std::string Memory::Version::Text() const { return absl::StrFormat("%d-%016x%016x", records, high_, low_); }

absl::StatusOr<std::unique_ptr<Memory>> Memory::Open(const std::string& dir, bool create) {
  std::unique_ptr<Memory> memory = At(dir);
  absl::StatusOr<std::unique_ptr<MemoryRecords>> records = MemoryRecords::Open(dir, create);
  if (!records.ok()) return records.status();
  memory->records_ = *std::move(records);
  return memory;
}

std::unique_ptr<Memory> Memory::At(std::string dir, MemoryLimits limits) {
  return std::unique_ptr<Memory>(new Memory(std::move(dir), limits));
}

absl::StatusOr<MemoryRecords*> Memory::Records(bool create) {
  if (records_ != nullptr) return records_.get();
  std::error_code error;
  if (!create && !std::filesystem::exists(dir_, error) && !error) return nullptr;
  absl::StatusOr<std::unique_ptr<MemoryRecords>> opened = MemoryRecords::Open(dir_, create);
  if (!opened.ok()) return opened.status();
  records_ = *std::move(opened);
  return records_.get();
}

Memory::Scope* Memory::Find(const std::string& scope) {
  for (auto it = scopes_.begin(); it != scopes_.end(); ++it) {
    if (it->first != scope) continue;
    scopes_.splice(scopes_.end(), scopes_, it);
    return scopes_.back().second.get();
  }
  return nullptr;
}

void Memory::Trim() {
  int64_t bytes = 0;
  for (const auto& [name, scope] : scopes_) bytes += scope->memory.bytes();
  while (bytes > limits_.scope_bytes && scopes_.size() > 1) {
    bytes -= scopes_.front().second->memory.bytes();
    scopes_.pop_front();
  }
}

absl::StatusOr<std::shared_ptr<Memory::Scope>> Memory::Load(const std::string& name) {
  {
    std::lock_guard lock(mutex_);
    if (Find(name) != nullptr) return scopes_.back().second;
  }
  absl::StatusOr<MemoryRecords*> records = Records(false);
  if (!records.ok()) return records.status();
  auto made = std::make_shared<Scope>();
  if (*records != nullptr) {
    absl::Status damage;
    absl::Status read = (*records)->ForEach(name, [&](const Association& a) {
      const HyperVector key = TextVector(a.key);
      if (key == HyperVector()) {
        damage =
            absl::DataLossError(absl::StrCat(dir_, ": scope ", Quoted(name), " has a record whose key ",
                                             Quoted(a.key), " has no letter and no digit; forget the scope"));
        return false;
      }
      made->memory.Add(key, a.value);
      made->version.Add(a);
      return true;
    });
    if (!read.ok()) return read;
    if (!damage.ok()) return damage;
  }
  std::lock_guard lock(mutex_);
  // What is not there is not kept: a client may ask for any number of scopes.
  if (made->version.records > 0) scopes_.emplace_back(name, made);
  Trim();
  return made;
}

absl::Status Memory::Add(const std::string& scope, const std::vector<Association>& associations,
                         const std::string& owner) {
  if (absl::Status s = CheckMemoryScope(scope); !s.ok()) return s;
  const std::string name = OwnedMemoryScope(owner, scope);
  std::vector<HyperVector> keys;
  for (const Association& association : associations) {
    if (absl::Status s = CheckAssociation(association); !s.ok()) return s;
    keys.push_back(TextVector(association.key));
    if (keys.back() == HyperVector()) {
      return absl::InvalidArgumentError(absl::StrCat("memory: the key ", Quoted(association.key),
                                                     " has no letter and no digit, and so is like no other"));
    }
  }
  std::lock_guard writing(writing_);
  absl::StatusOr<MemoryRecords*> records = Records(true);
  if (!records.ok()) return records.status();
  {
    std::lock_guard lock(mutex_);
    if (Scope* found = Find(name); found != nullptr) {
      found->shared = nullptr;
      std::erase_if(found->held, [](const auto& held) { return held.second.expired(); });
      // One that nobody holds may change as it is.
      const bool copied = found->held.contains(found->version.Text());
      if (copied && found->held.size() >= limits_.held_versions) {
        return absl::ResourceExhaustedError(
            absl::StrCat("memory scope ", Quoted(scope), ": answers under way hold ", found->held.size(),
                         " earlier versions of it, and each takes memory; add again when some have ended"));
      }
    }
  }
  const absl::Status written = (*records)->Add(name, associations);
  std::lock_guard lock(mutex_);
  if (!written.ok() || std::exchange(doubtful_, false)) {
    // Whether they, or what failed before, are there is known when they are read again.
    doubtful_ = !written.ok();
    scopes_.clear();
    return written;
  }
  if (Scope* found = Find(name); found != nullptr) {
    try {
      for (size_t i = 0; i < associations.size(); ++i) {
        found->memory.Add(keys[i], associations[i].value);
        found->version.Add(associations[i]);
      }
    } catch (const std::bad_alloc&) {
      scopes_.pop_back();  // it is on disk, and read again from there
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::optional<Remembered>> Memory::Ask(const std::string& scope, std::string_view key,
                                                      const std::string& owner) {
  if (absl::Status s = CheckMemoryScope(scope); !s.ok()) return s;
  if (absl::Status s = CheckKey(key); !s.ok()) return s;
  const std::string name = OwnedMemoryScope(owner, scope);
  const HyperVector vector = TextVector(key);
  {
    std::lock_guard lock(mutex_);
    if (const Scope* found = Find(name); found != nullptr) return found->memory.Ask(vector);
  }
  std::lock_guard writing(writing_);
  const absl::StatusOr<std::shared_ptr<Scope>> loaded = Load(name);
  if (!loaded.ok()) return loaded.status();
  std::lock_guard lock(mutex_);
  return (*loaded)->memory.Ask(vector);
}

absl::StatusOr<int64_t> Memory::Forget(const std::string& scope, const std::optional<std::string>& key,
                                       const std::string& owner) {
  if (absl::Status s = CheckMemoryScope(scope); !s.ok()) return s;
  const std::string name = OwnedMemoryScope(owner, scope);
  std::vector<TextWord> words;
  HyperVector vector;
  if (key.has_value()) {
    if (absl::Status s = CheckKey(*key); !s.ok()) return s;
    words = TextWords(*key);
    vector = TextVector(*key);
  }
  std::lock_guard writing(writing_);
  absl::StatusOr<MemoryRecords*> records = Records(false);
  if (!records.ok()) return records.status();
  if (*records == nullptr) return 0;
  const absl::StatusOr<int64_t> removed = (*records)->Remove(name, [&](const Association& association) {
    if (!key.has_value()) return true;
    return TextWords(association.key).size() == words.size() && TextVector(association.key) == vector;
  });
  std::lock_guard lock(mutex_);
  if (!removed.ok() || std::exchange(doubtful_, false)) {
    doubtful_ = !removed.ok();
    scopes_.clear();
  } else if (*removed > 0) {
    scopes_.remove_if([&](const auto& there) { return there.first == name; });
  }
  return removed;
}

absl::StatusOr<std::vector<ScopeStats>> Memory::StatsOf(const std::string& prefix, bool all) {
  std::vector<std::string> names;
  {
    std::lock_guard writing(writing_);
    absl::StatusOr<MemoryRecords*> records = Records(false);
    if (!records.ok()) return records.status();
    if (*records == nullptr) return std::vector<ScopeStats>();
    absl::StatusOr<std::vector<std::string>> read = (*records)->Scopes();
    if (!read.ok()) return read.status();
    names = *std::move(read);
  }
  std::vector<ScopeStats> stats;
  for (const std::string& name : names) {
    const bool own = prefix.empty() ? name.find('~') == std::string::npos : name.starts_with(prefix);
    if (!all && !own) continue;
    std::lock_guard writing(writing_);
    const absl::StatusOr<std::shared_ptr<Scope>> scope = Load(name);
    if (!scope.ok()) return scope.status();
    std::lock_guard lock(mutex_);
    const TextMemory& memory = (*scope)->memory;
    if (memory.banks().items() == 0) continue;  // forgotten meanwhile
    stats.push_back({all ? name : name.substr(prefix.size()), memory.banks().items(), memory.values(),
                     memory.banks().used_banks(), memory.banks().fullest_bank(), memory.bytes(),
                     (*scope)->version.Text()});
  }
  return stats;
}

absl::StatusOr<std::vector<ScopeStats>> Memory::Stats(const std::string& owner) {
  return StatsOf(MemoryOwnerPrefix(owner), false);
}
absl::StatusOr<std::vector<ScopeStats>> Memory::AllStats() { return StatsOf("", true); }

absl::StatusOr<HeldMemory> Memory::Hold(const std::string& owner, const MemoryChoice& choice) {
  if (absl::Status s = CheckMemoryScope(choice.scope); !s.ok()) return s;
  const std::string name = OwnedMemoryScope(owner, choice.scope);
  // With mutex_ held. A null memory: it is not at hand.
  const auto share = [&](Scope& scope) -> HeldMemory {
    const std::string version = scope.version.Text();
    if (choice.version.empty() || choice.version == version) {
      if (scope.shared == nullptr) scope.shared = scope.memory.Share();
      scope.held[version] = scope.shared;
      return {scope.shared, version};
    }
    const auto held = scope.held.find(choice.version);
    return {held == scope.held.end() ? nullptr : held->second.lock(), choice.version};
  };
  {
    std::lock_guard lock(mutex_);
    if (Scope* found = Find(name); found != nullptr) {
      if (HeldMemory held = share(*found); held.memory != nullptr) return held;
    }
  }
  std::lock_guard writing(writing_);
  const absl::StatusOr<std::shared_ptr<Scope>> loaded = Load(name);
  if (!loaded.ok()) return loaded.status();
  std::string present;
  {
    std::lock_guard lock(mutex_);
    if (choice.version.empty() && (*loaded)->version.records == 0) {
      return absl::InvalidArgumentError(absl::StrCat("memory scope ", Quoted(choice.scope),
                                                     ": nothing is remembered in it; add to it first, or "
                                                     "ask without it"));
    }
    if (HeldMemory held = share(**loaded); held.memory != nullptr) return held;
    present = (*loaded)->version.Text();
  }
  // An earlier one: the first so many of its records.
  int64_t count = 0;
  Version version;
  auto made = std::make_shared<TextMemory>();
  const std::string number = choice.version.substr(0, choice.version.find('-'));
  const absl::StatusOr<MemoryRecords*> records = Records(false);
  if (!records.ok()) return records.status();
  if (*records != nullptr && absl::SimpleAtoi(number, &count) && count <= (*loaded)->version.records) {
    absl::Status read = (*records)->ForEach(name, [&](const Association& a) {
      if (version.records >= count) return false;
      made->Add(TextVector(a.key), a.value);
      version.Add(a);
      return true;
    });
    if (!read.ok()) return read;
  }
  if (version.Text() != choice.version) {
    return absl::FailedPreconditionError(
        absl::StrCat("memory scope ", Quoted(choice.scope), ": this goes on with the memory of version ",
                     Quoted(choice.version), ", and what is here, of version ", present,
                     ", does not begin with it; put the memory back that it began with, or begin anew"));
  }
  std::lock_guard lock(mutex_);
  (*loaded)->held[choice.version] = made;
  return HeldMemory{made, choice.version};
}

}  // namespace omni
