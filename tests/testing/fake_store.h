// A coordination store whose calls happen when a test lets them: the embedded store's state, on a clock that
// the test moves, behind a connection that may be slow or broken.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cluster/coordination.h"
#include "cluster/store_state.h"

namespace omni::testing {

// One thread.
class FakeStore : public CoordinationStore {
 public:
  using Time = StoreState::Time;
  // What becomes of a call: it is done; it never arrives; it is done, and nobody hears of it. Of the last two
  // the caller is told Unavailable.
  enum class Fate { kDone, kNeverArrives, kUnheard };

  explicit FakeStore(Time now = Time()) : now_(now), state_({}, disk_, {}, now) {}

  // Decided for each call when it is made; null: all are done.
  std::function<Fate()> fate;
  int calls = 0;                   // that were made
  std::vector<std::string> reads;  // their prefixes

  void SetNow(Time now) { now_ = std::max(now_, now); }
  StoreState& state() { return state_; }

  // Calls on their way there, and answers on their way back; each goes on when it is told to, out of order if
  // need be.
  size_t on_the_way() const { return there_.size(); }
  size_t coming_back() const { return back_.size(); }
  void Arrive(size_t i = 0) { Take(there_, i)(); }
  void ComeBack(size_t i = 0) { Take(back_, i)(); }
  // Watchers are told all that they have not been told yet.
  void TellWatchers() {
    std::vector<int64_t> ids;
    for (const auto& [id, watch] : watches_) ids.push_back(id);
    for (int64_t id : ids) {
      // A callback may end any watcher.
      while (watches_.contains(id)) {
        auto changes = state_.Take(id);
        if (changes.ok() && !changes->has_value()) break;
        const auto told = watches_.at(id);
        if (!changes.ok()) watches_.erase(id);
        told(changes.ok() ? absl::StatusOr<Changes>(**changes) : changes.status());
      }
    }
  }
  // All of it, until nothing is left to do.
  void Run() {
    while (on_the_way() + coming_back() > 0) {
      while (on_the_way() > 0) Arrive();
      while (coming_back() > 0) ComeBack();
    }
    TellWatchers();
  }

  void Read(std::string prefix, Callback<Records> done) override {
    reads.push_back(prefix);
    Make<Records>(std::move(done), [this, prefix] { return state_.Read(prefix, now_); });
  }
  void Commit(Transaction transaction, Callback<Committed> done) override {
    Make<Committed>(std::move(done), [this, transaction] { return state_.Commit(transaction, now_); });
  }
  void GrantLease(std::chrono::milliseconds ttl, Callback<LeaseId> done) override {
    Make<LeaseId>(std::move(done), [this, ttl] { return state_.GrantLease(ttl, now_); });
  }
  void KeepAlive(LeaseId lease, Callback<std::chrono::milliseconds> done) override {
    Make<std::chrono::milliseconds>(std::move(done), [this, lease] { return state_.KeepAlive(lease, now_); });
  }
  void RevokeLease(LeaseId lease, Callback<bool> done) override {
    Make<bool>(std::move(done), [this, lease] { return state_.RevokeLease(lease, now_); });
  }
  std::unique_ptr<Watcher> Watch(std::string prefix, Revision from, Callback<Changes> on_changes) override {
    const int64_t id = state_.Watch(std::move(prefix), from);
    watches_[id] = std::move(on_changes);
    return std::make_unique<FakeWatcher>(*this, id);
  }

 private:
  class Disk : public StorePersistence {
   public:
    absl::Status Persist(const StoreEffect&) override { return absl::OkStatus(); }
    absl::StatusOr<bool> Persisted(const StoreEffect&) override { return true; }
  };
  class FakeWatcher : public Watcher {
   public:
    FakeWatcher(FakeStore& store, int64_t id) : store_(store), id_(id) {}
    ~FakeWatcher() override {
      if (store_.watches_.erase(id_) > 0) store_.state_.Unwatch(id_);
    }

   private:
    FakeStore& store_;
    const int64_t id_;
  };

  static std::function<void()> Take(std::deque<std::function<void()>>& queue, size_t i) {
    std::function<void()> taken = std::move(queue.at(i));
    queue.erase(queue.begin() + static_cast<std::ptrdiff_t>(i));
    return taken;
  }

  template <typename T, typename Call>
  void Make(Callback<T> done, Call call) {
    ++calls;
    const Fate f = fate ? fate() : Fate::kDone;
    there_.push_back([this, f, done = std::move(done), call] {
      absl::StatusOr<T> result = absl::UnavailableError("the store could not be reached");
      if (f == Fate::kDone) result = call();
      if (f == Fate::kUnheard) (void)call();
      back_.push_back([done, result] { done(result); });
    });
  }

  Disk disk_;
  Time now_;
  StoreState state_;
  std::deque<std::function<void()>> there_, back_;
  std::map<int64_t, Callback<Changes>> watches_;
};

}  // namespace omni::testing
