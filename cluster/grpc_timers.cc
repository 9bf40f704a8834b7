#include "cluster/grpc_timers.h"

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

#include <absl/functional/any_invocable.h>
#include <absl/status/status.h>
#include <grpc/event_engine/event_engine.h>

namespace omni {
namespace {

using grpc_event_engine::experimental::EndpointConfig;
using grpc_event_engine::experimental::EventEngine;
using grpc_event_engine::experimental::MemoryAllocator;
using grpc_event_engine::experimental::MemoryAllocatorFactory;
using Clock = std::chrono::steady_clock;
using Deed = absl::AnyInvocable<void()>;

constexpr std::chrono::seconds kIdle{2};  // a thread with nothing to wait for ends then

// Outlives its engine as long as its thread runs: the last reference to the engine may be one of its deeds'.
class Timers : public std::enable_shared_from_this<Timers> {
 public:
  intptr_t Add(Clock::time_point when, Deed deed) {
    std::lock_guard lock(mutex_);
    const intptr_t number = ++last_;
    deeds_.emplace(std::pair(when, number), std::move(deed));
    if (!running_) {
      // Where the system refuses it, the deed waits for the next one's thread.
      try {
        std::thread([self = shared_from_this()] { self->Run(); }).detach();
        running_ = true;
      } catch (const std::system_error&) {
      }
    }
    news_.notify_one();
    return number;
  }
  // Whether it had not begun.
  bool Cancel(Clock::time_point when, intptr_t number) {
    Deed deed;  // goes without the lock
    std::lock_guard lock(mutex_);
    const auto found = deeds_.find({when, number});
    if (found == deeds_.end()) return false;
    deed = std::move(found->second);
    deeds_.erase(found);
    return true;
  }
  bool OnThread() {
    std::lock_guard lock(mutex_);
    return running_ && thread_ == std::this_thread::get_id();
  }

 private:
  void Run() {
    std::unique_lock lock(mutex_);
    thread_ = std::this_thread::get_id();
    while (true) {
      if (deeds_.empty() && !news_.wait_for(lock, kIdle, [this] { return !deeds_.empty(); })) break;
      const Clock::time_point when = deeds_.begin()->first.first;
      if (when > Clock::now()) {
        news_.wait_until(lock, when);
        continue;
      }
      Deed deed = std::move(deeds_.begin()->second);
      deeds_.erase(deeds_.begin());
      lock.unlock();
      deed();
      deed = nullptr;
      lock.lock();
    }
    running_ = false;
  }

  std::mutex mutex_;
  std::condition_variable news_;
  std::map<std::pair<Clock::time_point, intptr_t>, Deed> deeds_;
  intptr_t last_ = 0;
  bool running_ = false;
  std::thread::id thread_;
};

// gRPC of this version asks its engine for time alone, unless experiments are switched on that it has off:
// connections and names are its pollers'.
class TimersAlone final : public EventEngine {
 public:
  absl::StatusOr<std::unique_ptr<Listener>> CreateListener(Listener::AcceptCallback,
                                                           absl::AnyInvocable<void(absl::Status)>,
                                                           const EndpointConfig&,
                                                           std::unique_ptr<MemoryAllocatorFactory>) override {
    return NoConnections();
  }
  ConnectionHandle Connect(OnConnectCallback on_connect, const ResolvedAddress&, const EndpointConfig&,
                           MemoryAllocator, Duration) override {
    Run([on_connect = std::move(on_connect)]() mutable { on_connect(NoConnections()); });
    return {{-1, -1}};
  }
  bool CancelConnect(ConnectionHandle) override { return false; }
  bool IsWorkerThread() override { return timers_->OnThread(); }
  std::unique_ptr<DNSResolver> GetDNSResolver(const DNSResolver::ResolverOptions&) override {
    return nullptr;
  }

  void Run(Closure* closure) override {
    Run([closure] { closure->Run(); });
  }
  void Run(Deed deed) override { timers_->Add(Clock::time_point::min(), std::move(deed)); }
  TaskHandle RunAfter(Duration delay, Closure* closure) override {
    return RunAfter(delay, [closure] { closure->Run(); });
  }
  TaskHandle RunAfter(Duration delay, Deed deed) override {
    // Later than a year is never, and does not overflow.
    const Clock::time_point when = Clock::now() + std::min<Duration>(delay, std::chrono::hours(24 * 365));
    const intptr_t number = timers_->Add(when, std::move(deed));
    return {{static_cast<intptr_t>(when.time_since_epoch().count()), number}};
  }
  bool Cancel(TaskHandle handle) override {
    return timers_->Cancel(Clock::time_point(Clock::duration(handle.keys[0])), handle.keys[1]);
  }

 private:
  static absl::Status NoConnections() {
    return absl::UnimplementedError("connections are not this engine's");
  }

  const std::shared_ptr<Timers> timers_ = std::make_shared<Timers>();
};

}  // namespace

void KeepGrpcTimersOnOneThread() {
  static std::once_flag once;
  std::call_once(once, [] {
    grpc_event_engine::experimental::SetEventEngineFactory([] { return std::make_unique<TimersAlone>(); });
  });
}

}  // namespace omni
