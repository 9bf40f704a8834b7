#include "cluster/store_database.h"

#include <algorithm>
#include <optional>
#include <string_view>

#include <absl/strings/str_cat.h>

#include "engine/base/quoted.h"

namespace omni {
namespace {

// Keys: "f" the format, "n" the counts, "v" the numbers reserved, "l" and "r" leases and records by name.
constexpr std::string_view kFormatKey = "f", kCountsKey = "n", kReservedKey = "v";
constexpr char kLease = 'l', kRecord = 'r';
constexpr std::string_view kFormat = "omni coordination 1";
constexpr int64_t kReserveAhead = 1 << 20;

void Append64(std::string& to, int64_t value) {
  for (int shift = 0; shift < 64; shift += 8)
    to.push_back(static_cast<char>(static_cast<uint64_t>(value) >> shift));
}

// Takes eight bytes off the front. They must be there.
int64_t Take64(std::string_view& from) {
  uint64_t value = 0;
  for (size_t i = 0; i < 8; ++i) value |= uint64_t{static_cast<uint8_t>(from[i])} << (8 * i);
  from.remove_prefix(8);
  return static_cast<int64_t>(value);
}

std::string LeaseKey(LeaseId id) {
  std::string key(1, kLease);
  Append64(key, id);
  return key;
}

}  // namespace

absl::StatusOr<std::unique_ptr<StoreDatabase>> StoreDatabase::Open(const std::string& dir,
                                                                   Durability durability) {
  absl::StatusOr<std::unique_ptr<Database>> database = Database::Open(dir, {.durability = durability});
  if (!database.ok()) return database.status();
  std::unique_ptr<StoreDatabase> store(new StoreDatabase(dir, durability, *std::move(database)));
  if (absl::Status s = store->Load(); !s.ok()) return s;
  return store;
}

absl::Status StoreDatabase::Load() {
  const auto damaged = [&](const std::string& what) {
    return absl::DataLossError(
        absl::StrCat(dir_, ": ", what, "; bring back a copy, or move the folder away and begin with none"));
  };
  std::string format;
  bool any = false;
  absl::Status walked = database_->ForEach("", [&](std::string_view key, std::string_view value) {
    any = true;
    if (key == kFormatKey) {
      format = std::string(value);
    } else if (key == kCountsKey && value.size() == 24) {
      contents_.number = Take64(value);
      contents_.revision = Take64(value);
      contents_.last_lease = Take64(value);
    } else if (key == kReservedKey && value.size() == 8) {
      reserved_ = Take64(value);
    } else if (key.size() == 9 && key[0] == kLease && value.size() == 8) {
      std::string_view id = key.substr(1);
      contents_.leases[Take64(id)] = std::chrono::milliseconds(Take64(value));
    } else if (key.size() > 1 && key[0] == kRecord && value.size() >= 24) {
      Record record{.key = std::string(key.substr(1))};
      record.created = Take64(value);
      record.changed = Take64(value);
      record.lease = Take64(value);
      record.value = std::string(value);
      contents_.records[record.key] = std::move(record);
    } else {
      return damaged(absl::StrCat("an entry that no version of this program writes, ", Quoted(key)));
    }
    return absl::OkStatus();
  });
  if (!walked.ok()) return walked;
  if (any && format != kFormat) {
    return damaged(absl::StrCat("holds ", format.empty() ? "another program's data" : Quoted(format),
                                " instead of ", Quoted(kFormat)));
  }
  if (contents_.number < 0 || contents_.revision < 0 || contents_.last_lease < 0 || reserved_ < 0)
    return damaged("a count is negative");
  for (const auto& [id, ttl] : contents_.leases) {
    if (id < 1 || id > contents_.last_lease || !CheckLeaseTtl(ttl).ok())
      return damaged(absl::StrCat("lease ", id, " of ", ttl.count(), " ms was never given"));
  }
  for (const auto& [key, record] : contents_.records) {
    if (record.created < 1 || record.changed < record.created || record.changed > contents_.revision)
      return damaged(absl::StrCat("the record ", Quoted(key), " has impossible revisions"));
    if (record.lease != 0 && !contents_.leases.contains(record.lease))
      return damaged(
          absl::StrCat("the record ", Quoted(key), " has lease ", record.lease, ", which is not there"));
  }
  if (!any) {
    if (absl::Status s = database_->Put(kFormatKey, kFormat); !s.ok()) return s;
  }
  contents_.revision = std::max(contents_.revision, reserved_);
  contents_.last_lease = std::max(contents_.last_lease, reserved_);
  return absl::OkStatus();
}

absl::Status StoreDatabase::Persist(const StoreEffect& effect) {
  if (durability_ == Durability::kUnsynced) {
    const int64_t highest = std::max(effect.revision, effect.last_lease);
    if (highest > reserved_) {
      if (absl::Status s = Reserve(highest); !s.ok()) return s;
    }
  }
  DatabaseBatch batch;
  std::string bytes;
  for (const Record& record : effect.put) {
    bytes.clear();
    Append64(bytes, record.created);
    Append64(bytes, record.changed);
    Append64(bytes, record.lease);
    bytes += record.value;
    batch.Put(kRecord + record.key, bytes);
  }
  for (const std::string& key : effect.deleted) batch.Delete(kRecord + key);
  if (effect.granted.has_value()) {
    bytes.clear();
    Append64(bytes, effect.granted->second.count());
    batch.Put(LeaseKey(effect.granted->first), bytes);
  }
  if (effect.ended != 0) batch.Delete(LeaseKey(effect.ended));
  bytes.clear();
  Append64(bytes, effect.number);
  Append64(bytes, effect.revision);
  Append64(bytes, effect.last_lease);
  batch.Put(kCountsKey, bytes);
  return database_->Write(batch);
}

absl::StatusOr<bool> StoreDatabase::Persisted(const StoreEffect& effect) {
  // A write, and so one that opens the database again if the last one failed.
  if (absl::Status s = database_->Put(kFormatKey, kFormat); !s.ok()) return s;
  const absl::StatusOr<std::optional<std::string>> counts = database_->Get(kCountsKey);
  if (!counts.ok()) return counts.status();
  if (!counts->has_value() || (*counts)->size() != 24) return false;
  std::string_view bytes = **counts;
  return Take64(bytes) == effect.number;
}

absl::Status StoreDatabase::Reserve(int64_t at_least) {
  std::string bytes;
  Append64(bytes, at_least + kReserveAhead);
  if (absl::Status s = database_->Put(kReservedKey, bytes); !s.ok()) return s;
  if (absl::Status s = database_->Sync(); !s.ok()) return s;
  reserved_ = at_least + kReserveAhead;
  return absl::OkStatus();
}

}  // namespace omni
