#include "cluster/embedded_store.h"

#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <system_error>
#include <thread>
#include <utility>

#include <absl/strings/str_cat.h>

#include "cluster/store_database.h"
#include "cluster/store_state.h"
#include "cluster/watch_delivery.h"
#include "engine/base/log.h"
#include "engine/base/threads.h"

namespace omni {
namespace {

using Time = StoreState::Time;

// How long after a failed write leases that are over are ended again.
constexpr std::chrono::milliseconds kRetry{500};

}  // namespace

// Calls wait in a queue for the thread that owns the state.
class EmbeddedStore::Thread {
 public:
  // What one call does, or is told if it is refused.
  struct Call {
    std::function<void(StoreState&, Time)> run;
    std::function<void(absl::Status)> refuse;
  };

  Thread(std::unique_ptr<StoreDatabase> database, EmbeddedStoreOptions options)
      : options_(std::move(options)),
        database_(std::move(database)),
        state_(database_->TakeContents(), *database_, {.history_bytes = options_.history_bytes}, Now()) {}

  absl::Status Start() {
    try {
      thread_ = std::thread([this] { Run(); });
    } catch (const std::system_error& e) {
      return ThreadsRefused(1, "coordination store", e.code().value());
    }
    return absl::OkStatus();
  }

  ~Thread() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_one();
    if (thread_.joinable()) thread_.join();
  }

  void Add(Call call) {
    absl::Status refused;
    {
      const std::lock_guard lock(mutex_);
      if (stopping_) {
        refused = Closed();
      } else if (queue_.size() >= options_.max_calls) {
        refused = absl::ResourceExhaustedError(
            absl::StrCat("more than ", options_.max_calls, " calls of the coordination store are under way"));
      } else {
        queue_.push_back(std::move(call));
      }
    }
    if (refused.ok()) {
      wake_.notify_one();
    } else {
      call.refuse(refused);
    }
  }

  // `work` gives what `done` is told.
  template <typename T, typename Work>
  void Ask(Callback<T> done, Work work) {
    Add({[done, work = std::move(work)](StoreState& state, Time now) { done(work(state, now)); },
         [done](const absl::Status& status) { done(status); }});
  }

  // Something changed that is no call.
  void Look() {
    {
      const std::lock_guard lock(mutex_);
      look_ = true;
    }
    wake_.notify_one();
  }

  void AddWatch(StoreState::WatchId id, std::shared_ptr<WatchDelivery> delivery) {
    watches_.emplace(id, std::move(delivery));
  }

 private:
  Time Now() const { return options_.now ? options_.now() : std::chrono::steady_clock::now(); }

  void Run() {
    std::unique_lock lock(mutex_);
    while (true) {
      const auto awake = [&] { return stopping_ || look_ || !queue_.empty(); };
      const std::optional<Time> deadline = options_.now ? std::nullopt : Deadline();
      if (deadline.has_value()) {
        wake_.wait_until(lock, *deadline, awake);
      } else {
        wake_.wait(lock, awake);
      }
      if (stopping_) break;
      look_ = false;
      std::optional<Call> call;
      if (!queue_.empty()) {
        call = std::move(queue_.front());
        queue_.pop_front();
      }
      lock.unlock();
      const Time now = Now();
      if (!retry_.has_value() || *retry_ <= now || call.has_value()) Settle(now);
      if (call.has_value()) call->run(state_, now);
      TellWatchers();
      call.reset();
      lock.lock();
    }
    const std::deque<Call> left = std::move(queue_);
    lock.unlock();
    for (const Call& call : left) call.refuse(Closed());
  }

  static absl::Status Closed() { return absl::CancelledError("the coordination store was closed meanwhile"); }

  std::optional<Time> Deadline() const { return retry_.has_value() ? retry_ : state_.next_deadline(); }

  void Settle(Time now) {
    const absl::Status settled = state_.Settle(now);
    if (!settled.ok() && !retry_.has_value()) {
      LogWarning("store_not_written", "the coordination store cannot write: {reason}",
                 {{"reason", settled.message()}});
    }
    retry_.reset();
    if (!settled.ok()) retry_ = now + kRetry;
  }

  void TellWatchers() {
    for (auto it = watches_.begin(); it != watches_.end();) {
      WatchDelivery& delivery = *it->second;
      bool over = delivery.closed();
      if (over) state_.Unwatch(it->first);
      while (!over) {
        absl::StatusOr<std::optional<Changes>> next = state_.Take(it->first);
        over = !next.ok();
        if (over) {
          delivery.Tell(next.status());
        } else if (next->has_value()) {
          delivery.Tell(**std::move(next));
        } else {
          break;
        }
      }
      it = over ? watches_.erase(it) : std::next(it);
    }
  }

  const EmbeddedStoreOptions options_;
  const std::unique_ptr<StoreDatabase> database_;
  StoreState state_;  // this and the two below: the thread's
  std::map<StoreState::WatchId, std::shared_ptr<WatchDelivery>> watches_;
  std::optional<Time> retry_;

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Call> queue_;
  bool look_ = false, stopping_ = false;
  std::thread thread_;
};

EmbeddedStore::EmbeddedStore(std::unique_ptr<Thread> thread) : thread_(std::move(thread)) {}
EmbeddedStore::~EmbeddedStore() = default;

absl::StatusOr<std::unique_ptr<EmbeddedStore>> EmbeddedStore::Open(const std::string& dir,
                                                                   EmbeddedStoreOptions options) {
  absl::StatusOr<std::unique_ptr<StoreDatabase>> database = StoreDatabase::Open(dir, options.durability);
  if (!database.ok()) return database.status();
  auto thread = std::make_unique<Thread>(*std::move(database), std::move(options));
  if (absl::Status s = thread->Start(); !s.ok()) return s;
  return std::unique_ptr<EmbeddedStore>(new EmbeddedStore(std::move(thread)));
}

void EmbeddedStore::Read(std::string prefix, Callback<Records> done) {
  thread_->Ask<Records>(std::move(done), [prefix = std::move(prefix)](StoreState& state, Time now) {
    return state.Read(prefix, now);
  });
}

void EmbeddedStore::Commit(Transaction transaction, Callback<Committed> done) {
  thread_->Ask<Committed>(std::move(done),
                          [transaction = std::move(transaction)](StoreState& state, Time now) {
                            return state.Commit(transaction, now);
                          });
}

void EmbeddedStore::GrantLease(std::chrono::milliseconds ttl, Callback<LeaseId> done) {
  thread_->Ask<LeaseId>(std::move(done),
                        [ttl](StoreState& state, Time now) { return state.GrantLease(ttl, now); });
}

void EmbeddedStore::KeepAlive(LeaseId lease, Callback<std::chrono::milliseconds> done) {
  thread_->Ask<std::chrono::milliseconds>(
      std::move(done), [lease](StoreState& state, Time now) { return state.KeepAlive(lease, now); });
}

void EmbeddedStore::RevokeLease(LeaseId lease, Callback<bool> done) {
  thread_->Ask<bool>(std::move(done),
                     [lease](StoreState& state, Time now) { return state.RevokeLease(lease, now); });
}

std::unique_ptr<CoordinationStore::Watcher> EmbeddedStore::Watch(std::string prefix, Revision from,
                                                                 Callback<Changes> on_changes) {
  class Closing : public Watcher {
   public:
    Closing(Thread& thread, std::shared_ptr<WatchDelivery> delivery)
        : thread_(thread), delivery_(std::move(delivery)) {}
    ~Closing() override {
      delivery_->Close();
      thread_.Look();
    }

   private:
    Thread& thread_;
    const std::shared_ptr<WatchDelivery> delivery_;
  };
  auto delivery = std::make_shared<WatchDelivery>(std::move(on_changes));
  thread_->Add({[thread = thread_.get(), delivery, prefix = std::move(prefix), from](
                    StoreState& state, Time) { thread->AddWatch(state.Watch(prefix, from), delivery); },
                [delivery](const absl::Status& status) { delivery->Tell(status); }});
  return std::make_unique<Closing>(*thread_, delivery);
}

void EmbeddedStore::Tick() { thread_->Look(); }

}  // namespace omni
