#include "cluster/tasks/coordinated_records.h"

#include <algorithm>
#include <condition_variable>
#include <map>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <utility>

#include <absl/strings/str_cat.h>

#include "cluster/cluster_records.h"

namespace omni {
namespace {

// A call's answer, which may come when nobody waits for it any more.
template <typename T>
class Answer {
 public:
  void Give(absl::StatusOr<T> value) {
    {
      const std::lock_guard lock(mutex_);
      value_ = std::move(value);
    }
    given_.notify_all();
  }
  absl::StatusOr<T> Wait(std::chrono::milliseconds most) {
    std::unique_lock lock(mutex_);
    if (!given_.wait_for(lock, most, [&] { return value_.has_value(); }))
      return absl::UnavailableError(
          absl::StrCat("the coordination store gave no answer within ", most.count(), " ms"));
    return *std::move(value_);
  }

 private:
  std::mutex mutex_;
  std::condition_variable given_;
  std::optional<absl::StatusOr<T>> value_;
};

class CoordinatedRecords : public RecordStore {
 public:
  CoordinatedRecords(CoordinationStore& store, std::function<uint64_t()> term, std::chrono::milliseconds most)
      : store_(store), term_(std::move(term)), most_(most) {}

  absl::Status Write(const RecordWrites& writes) override {
    const absl::StatusOr<bool> applied = Commit(writes);
    if (!applied.ok()) return applied.status();
    if (!*applied) return Deposed();
    const std::unique_lock lock(mutex_);
    for (const auto& [key, value] : writes) {
      if (value.has_value()) {
        records_[key] = *value;
      } else {
        records_.erase(key);
      }
    }
    return absl::OkStatus();
  }

  absl::Status Recover() override {
    constexpr int kTries = 3;
    for (int t = 0; t < kTries; ++t) {
      if (absl::Status s = Read(); !s.ok()) return s;
      const absl::StatusOr<bool> applied = Commit({});
      if (!applied.ok() || *applied) return applied.status();
    }
    return Deposed();
  }

  size_t max_changes() const override { return kMaxTransactionItems - 1; }
  size_t max_bytes() const override { return kMaxTransactionBytes; }

  absl::StatusOr<std::optional<std::string>> Get(std::string_view key) const override {
    const std::shared_lock lock(mutex_);
    const auto record = records_.find(key);
    if (record == records_.end()) return std::nullopt;
    return record->second;
  }
  absl::Status Scan(std::string_view prefix, std::string_view from,
                    const RecordVisitor& visit) const override {
    const std::shared_lock lock(mutex_);
    for (auto at = records_.lower_bound(std::max(prefix, from));
         at != records_.end() && std::string_view(at->first).starts_with(prefix); ++at) {
      if (!visit(at->first, at->second)) break;
    }
    return absl::OkStatus();
  }

 private:
  // A write whose outcome is unknown may still be on its way. Each changes this record and says which change
  // of it was the last, so that it is refused if it comes after the next one.
  static constexpr char kOrder[] = "tasks/ order";

  absl::Status Read() {
    const auto answer = std::make_shared<Answer<Records>>();
    store_.Read(kRecordsPrefix, [answer](absl::StatusOr<Records> r) { answer->Give(std::move(r)); });
    absl::StatusOr<Records> read = answer->Wait(most_);
    if (!read.ok()) return read.status();
    std::map<std::string, std::string, std::less<>> records;
    order_ = 0;
    for (Record& record : read->records) {
      if (record.key == kOrder) {
        order_ = record.changed;
        continue;
      }
      records.emplace_hint(records.end(), record.key.substr(sizeof kRecordsPrefix - 1),
                           std::move(record.value));
    }
    const std::unique_lock lock(mutex_);
    records_ = std::move(records);
    return absl::OkStatus();
  }

  // False: another leads, or another write came between.
  absl::StatusOr<bool> Commit(const RecordWrites& writes) {
    Transaction transaction;
    transaction.conditions = {{kLeaderKey, static_cast<Revision>(term_())}, {kOrder, order_}};
    transaction.changes.push_back({kOrder, ""});
    for (const auto& [key, value] : writes) transaction.changes.push_back({kRecordsPrefix + key, value});
    const auto answer = std::make_shared<Answer<Committed>>();
    store_.Commit(std::move(transaction),
                  [answer](absl::StatusOr<Committed> c) { answer->Give(std::move(c)); });
    const absl::StatusOr<Committed> committed = answer->Wait(most_);
    if (!committed.ok()) return committed.status();
    if (committed->applied) order_ = committed->revision;
    return committed->applied;
  }

  static absl::Status Deposed() {
    return absl::FailedPreconditionError("this coordinator does not lead any more; nothing was written");
  }

  CoordinationStore& store_;
  const std::function<uint64_t()> term_;
  const std::chrono::milliseconds most_;
  Revision order_ = 0;  // of the thread that writes
  mutable std::shared_mutex mutex_;
  std::map<std::string, std::string, std::less<>> records_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<RecordStore>> MakeCoordinatedRecords(CoordinationStore& store,
                                                                    std::function<uint64_t()> term,
                                                                    std::chrono::milliseconds most) {
  auto records = std::make_unique<CoordinatedRecords>(store, std::move(term), most);
  if (absl::Status s = records->Recover(); !s.ok()) return s;
  return records;
}

}  // namespace omni
