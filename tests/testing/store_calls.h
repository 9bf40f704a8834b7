// A coordination store, asked by a test that waits for the answers.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <condition_variable>
#include <deque>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "cluster/coordination.h"

namespace omni::testing {

// How long a test waits for what must come.
inline constexpr std::chrono::seconds kPatience{60};

// What a call's callback is told. `begin` makes the call with the callback that it is given.
template <typename T, typename Begin>
absl::StatusOr<T> Told(Begin begin) {
  auto promise = std::make_shared<std::promise<absl::StatusOr<T>>>();
  std::future<absl::StatusOr<T>> told = promise->get_future();
  begin([promise](absl::StatusOr<T> result) { promise->set_value(std::move(result)); });
  if (told.wait_for(kPatience) != std::future_status::ready) {
    ADD_FAILURE() << "a callback does not come";
    return absl::DeadlineExceededError("the callback does not come");
  }
  return told.get();
}

class StoreCalls {
 public:
  explicit StoreCalls(CoordinationStore& store) : store_(store) {}

  absl::StatusOr<Records> Read(const std::string& prefix) {
    return Told<Records>([&](auto done) { store_.Read(prefix, done); });
  }
  absl::StatusOr<Committed> Commit(Transaction transaction) {
    return Told<Committed>([&](auto done) { store_.Commit(std::move(transaction), done); });
  }
  absl::StatusOr<LeaseId> Grant(std::chrono::milliseconds ttl) {
    return Told<LeaseId>([&](auto done) { store_.GrantLease(ttl, done); });
  }
  absl::StatusOr<std::chrono::milliseconds> KeepAlive(LeaseId lease) {
    return Told<std::chrono::milliseconds>([&](auto done) { store_.KeepAlive(lease, done); });
  }
  absl::StatusOr<bool> Revoke(LeaseId lease) {
    return Told<bool>([&](auto done) { store_.RevokeLease(lease, done); });
  }

  // Those must succeed.
  Records MustRead(const std::string& prefix) {
    const auto read = Read(prefix);
    EXPECT_TRUE(read.ok()) << read.status();
    return read.ok() ? *read : Records();
  }
  Revision MustPut(const std::string& key, const std::string& value, LeaseId lease = 0) {
    return MustCommit({.changes = {{.key = key, .value = value, .lease = lease}}});
  }
  Revision MustDelete(const std::string& key) { return MustCommit({.changes = {{.key = key}}}); }
  Revision MustCommit(Transaction transaction) {
    const auto committed = Commit(std::move(transaction));
    EXPECT_TRUE(committed.ok()) << committed.status();
    EXPECT_TRUE(committed.ok() && committed->applied);
    return committed.ok() ? committed->revision : 0;
  }
  LeaseId MustGrant(std::chrono::milliseconds ttl) {
    const auto lease = Grant(ttl);
    EXPECT_TRUE(lease.ok()) << lease.status();
    return lease.ok() ? *lease : 0;
  }

 private:
  CoordinationStore& store_;
};

// What a watcher is told, in order.
class WatchLog {
 public:
  WatchLog() : shared_(std::make_shared<Shared>()) {}

  CoordinationStore::Callback<omni::Changes> callback() {
    return [shared = shared_](absl::StatusOr<omni::Changes> changes) {
      const std::lock_guard lock(shared->mutex);
      ++shared->told;
      shared->queue.push_back(std::move(changes));
      shared->came.notify_all();
    };
  }
  // The next; none if none comes in time.
  std::optional<absl::StatusOr<omni::Changes>> NextWithin(std::chrono::milliseconds time) {
    std::unique_lock lock(shared_->mutex);
    if (!shared_->came.wait_for(lock, time, [&] { return !shared_->queue.empty(); })) return std::nullopt;
    absl::StatusOr<omni::Changes> next = std::move(shared_->queue.front());
    shared_->queue.pop_front();
    return next;
  }
  // The next, which must come.
  absl::StatusOr<omni::Changes> Next() {
    auto next = NextWithin(kPatience);
    if (next.has_value()) return *std::move(next);
    ADD_FAILURE() << "a watcher is not told";
    return absl::DeadlineExceededError("nothing was told");
  }
  int told() const {
    const std::lock_guard lock(shared_->mutex);
    return shared_->told;
  }

 private:
  struct Shared {
    std::mutex mutex;
    std::condition_variable came;
    std::deque<absl::StatusOr<omni::Changes>> queue;
    int told = 0;
  };
  const std::shared_ptr<Shared> shared_;
};

// "12: a=1 b=2 -c", for comparisons.
inline std::string Text(const absl::StatusOr<omni::Changes>& changes) {
  if (!changes.ok()) return std::string(changes.status().message());
  std::string text = std::to_string(changes->revision) + ":";
  for (const Record& record : changes->put) text += " " + record.key + "=" + record.value;
  for (const std::string& key : changes->deleted) text += " -" + key;
  return text;
}

}  // namespace omni::testing
