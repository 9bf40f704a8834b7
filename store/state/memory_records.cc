#include "store/state/memory_records.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>

#include <absl/strings/ascii.h>
#include <absl/strings/escaping.h>
#include <absl/strings/str_cat.h>

#include "engine/base/quoted.h"
#include "store/file/files.h"

namespace omni {
namespace {

constexpr char kVersionKey[] = "version", kVersion[] = "1";
constexpr std::string_view kPrefix = "a/";  // a/SCOPE/ and eight bytes, the number with the highest first

std::string ScopePrefix(const std::string& scope) { return absl::StrCat("a/", scope, "/"); }

// The scope and the number of a record's key; nothing: it is none.
std::optional<std::pair<std::string, uint64_t>> ReadKey(std::string_view key) {
  if (key.size() < kPrefix.size() + 1 + 1 + 8 || !key.starts_with(kPrefix)) return std::nullopt;
  uint64_t number = 0;
  for (char c : key.substr(key.size() - 8)) number = number << 8 | static_cast<unsigned char>(c);
  key.remove_suffix(8);
  if (key.back() != '/') return std::nullopt;
  return std::pair(std::string(key.substr(kPrefix.size(), key.size() - kPrefix.size() - 1)), number);
}

std::optional<Association> ReadValue(std::string_view value) {
  uint32_t size = 0;
  if (value.size() < sizeof size) return std::nullopt;
  std::memcpy(&size, value.data(), sizeof size);
  value.remove_prefix(sizeof size);
  if (value.size() < size) return std::nullopt;
  return Association{std::string(value.substr(0, size)), std::string(value.substr(size))};
}

constexpr size_t kMostOwnerDigits = 1024;

// With an owner before it, or without.
absl::Status CheckScope(const std::string& scope) {
  const size_t cut = scope.find('~');
  if (cut == std::string::npos) return CheckMemoryScope(scope);
  const bool owner = cut > 0 && cut <= kMostOwnerDigits &&
                     std::all_of(scope.begin(), scope.begin() + static_cast<std::ptrdiff_t>(cut),
                                 [](unsigned char c) { return absl::ascii_isxdigit(c); });
  return CheckMemoryScope(owner ? scope.substr(cut + 1) : scope);
}

}  // namespace

absl::Status CheckMemoryScope(const std::string& scope) {
  const bool good =
      !scope.empty() && scope.size() <= 64 && std::all_of(scope.begin(), scope.end(), [](unsigned char c) {
        return absl::ascii_isalnum(c) || c == '.' || c == '-' || c == '_';
      });
  if (good) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "memory scope ", Quoted(scope), ": must have 1 to 64 letters, digits, '.', '-' or '_'; name it so"));
}

absl::Status CheckAssociation(const Association& association) {
  if (!association.key.empty() && association.key.size() <= kMostKeyBytes &&
      association.value.size() <= kMostValueBytes) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "memory: a key of ", association.key.size(), " bytes with a value of ", association.value.size(),
      "; keys have 1 to ", kMostKeyBytes, " bytes, values up to ", kMostValueBytes));
}

std::optional<MemoryRecord> ReadMemoryRecord(std::string_view key, std::string_view value) {
  auto at = ReadKey(key);
  std::optional<Association> association = ReadValue(value);
  if (!at.has_value() || !association.has_value()) return std::nullopt;
  // What Add would have refused was not written by it, and nobody could ask for it. After the last number
  // there is none.
  if (!CheckScope(at->first).ok() || !CheckAssociation(*association).ok() || at->second == UINT64_MAX)
    return std::nullopt;
  return MemoryRecord{std::move(at->first), at->second, *std::move(association)};
}

std::pair<std::string, std::string> WriteMemoryRecord(const MemoryRecord& record) {
  std::string key = ScopePrefix(record.scope);
  for (int shift = 56; shift >= 0; shift -= 8) key += static_cast<char>(record.number >> shift & 255);
  const auto size = static_cast<uint32_t>(record.association.key.size());
  std::string value(reinterpret_cast<const char*>(&size), sizeof size);
  return {std::move(key), value + record.association.key + record.association.value};
}

std::string MemoryOwnerPrefix(const std::string& owner) {
  return owner.empty() ? "" : absl::StrCat(absl::BytesToHexString(owner), "~");
}

std::string OwnedMemoryScope(const std::string& owner, const std::string& scope) {
  return MemoryOwnerPrefix(owner) + scope;
}

absl::StatusOr<std::unique_ptr<MemoryRecords>> MemoryRecords::Open(const std::string& dir, bool create) {
  DatabaseOptions options;
  options.create = create;
  absl::StatusOr<std::unique_ptr<Database>> database = Database::Open(dir, options);
  if (!database.ok()) return database.status();
  absl::StatusOr<std::optional<std::string>> version = (*database)->Get(kVersionKey);
  if (!version.ok()) return version.status();
  if (version->has_value() && **version != kVersion) {
    return absl::FailedPreconditionError(absl::StrCat(dir, ": is a memory of version ", Quoted(**version),
                                                      ", this program reads version ", kVersion));
  }
  if (!version->has_value() && !create) {
    return absl::FailedPreconditionError(
        absl::StrCat(dir, ": is no memory's folder; omni memory add makes one"));
  }
  std::unique_ptr<MemoryRecords> records(new MemoryRecords(*std::move(database)));
  if (!version->has_value()) {
    if (absl::Status s = records->database_->Put(kVersionKey, kVersion); !s.ok()) return s;
  }
  absl::Status read = records->database_->ForEach(kPrefix, [&](std::string_view key, std::string_view value) {
    const std::optional<MemoryRecord> record = ReadMemoryRecord(key, value);
    if (!record.has_value()) {
      return absl::DataLossError(
          absl::StrCat(dir, ": record ", Quoted(key), " is no association; is this a memory's folder?"));
    }
    records->next_ = std::max(records->next_, record->number + 1);
    return absl::OkStatus();
  });
  if (!read.ok()) return read;
  return records;
}

absl::Status MemoryRecords::Add(const std::string& scope, const std::vector<Association>& associations) {
  if (absl::Status s = CheckScope(scope); !s.ok()) return s;
  DatabaseBatch batch;
  std::lock_guard lock(mutex_);
  uint64_t next = next_;
  for (const Association& association : associations) {
    if (absl::Status s = CheckAssociation(association); !s.ok()) return s;
    const auto [key, value] = WriteMemoryRecord({scope, next++, association});
    batch.Put(key, value);
  }
  // Numbers of a write that failed are not used again: it may be there after all.
  next_ = next;
  return database_->Write(batch);
}

absl::Status MemoryRecords::ForEach(const std::string& scope,
                                    const std::function<bool(const Association&)>& visit) const {
  if (absl::Status s = CheckScope(scope); !s.ok()) return s;
  bool enough = false;
  absl::Status read = database_->ForEach(ScopePrefix(scope), [&](std::string_view, std::string_view value) {
    const std::optional<Association> association = ReadValue(value);
    enough = association.has_value() && !visit(*association);
    return enough ? absl::CancelledError() : absl::OkStatus();
  });
  return enough ? absl::OkStatus() : read;
}

absl::StatusOr<int64_t> MemoryRecords::Remove(const std::string& scope,
                                              const std::function<bool(const Association&)>& forget) {
  if (absl::Status s = CheckScope(scope); !s.ok()) return s;
  std::lock_guard lock(mutex_);
  DatabaseBatch batch;
  absl::Status read =
      database_->ForEach(ScopePrefix(scope), [&](std::string_view key, std::string_view value) {
        const std::optional<Association> association = ReadValue(value);
        if (association.has_value() && forget(*association)) batch.Delete(key);
        return absl::OkStatus();
      });
  if (!read.ok()) return read;
  if (batch.changes() == 0) return 0;
  if (absl::Status s = database_->Write(batch); !s.ok()) return s;
  return batch.changes();
}

absl::StatusOr<std::vector<std::string>> MemoryRecords::Scopes() const {
  std::vector<std::string> scopes;
  absl::Status read = database_->ForEach(kPrefix, [&](std::string_view key, std::string_view) {
    const auto at = ReadKey(key);
    if (at.has_value() && (scopes.empty() || scopes.back() != at->first)) scopes.push_back(at->first);
    return absl::OkStatus();
  });
  if (!read.ok()) return read;
  return scopes;
}

}  // namespace omni
