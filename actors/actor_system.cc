#include "actors/actor_system.h"

#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>

#include <absl/strings/str_cat.h>
#include <caf/all.hpp>
#include <caf/policy/unprofiled.hpp>
#include <caf/scheduler/coordinator.hpp>

#include "engine/base/threads.h"

namespace omni {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kThreads = 4;  // the actors' one, the clock, the printer; one more to be safe
// How long actors that always have something to do may keep what comes from outside, and actors whom somebody
// outside has woken, waiting. A look costs two microseconds, and who has nothing to do looks at once.
constexpr std::chrono::milliseconds kPollEvery{1};
// Messages that one actor takes before others have their turn.
constexpr size_t kThroughput = 32;

// Waits for messages only.
class MessageLoop : public ActorLoop {
 public:
  void Poll() override {}
  void Wait() override {
    std::unique_lock lock(mutex_);
    news_.wait(lock, [this] { return std::exchange(woken_, false); });
  }
  void Wake() override {
    std::lock_guard lock(mutex_);
    woken_ = true;
    news_.notify_one();
  }

 private:
  std::mutex mutex_;
  std::condition_variable news_;
  bool woken_ = false;
};

struct Config : caf::actor_system_config {
  ActorLoop* loop = nullptr;
};

// The scheduler's policy (see caf/policy/work_stealing.hpp for what CAF asks of one): one worker, which has
// nobody to steal from, and which waits where the loop says.
class OneThread : public caf::policy::unprofiled {
 public:
  struct coordinator_data {
    explicit coordinator_data(caf::scheduler::abstract_coordinator*) {}
  };

  class worker_data {
   public:
    explicit worker_data(caf::scheduler::abstract_coordinator* parent)
        : loop_(static_cast<const Config&>(parent->config()).loop) {}
    worker_data(const worker_data& other) : loop_(other.loop_) {}

    void Append(caf::resumable* job) {
      bool wake = false;
      {
        std::lock_guard lock(mutex_);
        others_.push_back(job);
        // Whom the worker itself has woken while it waited is found when it returns.
        wake = asleep_ && std::this_thread::get_id() != thread_;
        if (wake) asleep_ = false;
      }
      if (wake) loop_->Wake();
    }
    void Prepend(caf::resumable* job) {
      std::lock_guard lock(mutex_);
      own_.push_front(job);
    }
    caf::resumable* TakeIfAny() {
      std::lock_guard lock(mutex_);
      return Take();
    }
    // By the worker's thread.
    caf::resumable* Next() {
      while (true) {
        bool others_turn = false;
        if (const auto now = Clock::now(); now - polled_ >= kPollEvery) {
          loop_->Poll();
          polled_ = now;
          others_turn = true;
        }
        {
          std::lock_guard lock(mutex_);
          if (caf::resumable* job = others_turn && !others_.empty() ? Pop(others_) : Take()) return job;
          thread_ = std::this_thread::get_id();
          asleep_ = true;
        }
        loop_->Wait();
        polled_ = Clock::now();
        std::lock_guard lock(mutex_);
        asleep_ = false;
      }
    }

   private:
    caf::resumable* Take() {
      if (!own_.empty()) return Pop(own_);
      return others_.empty() ? nullptr : Pop(others_);
    }
    static caf::resumable* Pop(std::deque<caf::resumable*>& jobs) {
      caf::resumable* job = jobs.front();
      jobs.pop_front();
      return job;
    }

    ActorLoop* const loop_;
    Clock::time_point polled_;  // the worker's own
    std::mutex mutex_;
    // Woken by an actor that ran here, the latest first; and by anybody else. Actors that wake each other, as
    // a coordinator and its regions do for as long as there are sessions, never leave the first one empty.
    std::deque<caf::resumable*> own_, others_;
    std::thread::id thread_;
    bool asleep_ = false;
  };

  template <typename Coordinator>
  void central_enqueue(Coordinator* self, caf::resumable* job) {
    self->worker_by_id(0)->external_enqueue(job);
  }
  template <typename Worker>
  void external_enqueue(Worker* self, caf::resumable* job) {
    self->data().Append(job);
  }
  template <typename Worker>
  void internal_enqueue(Worker* self, caf::resumable* job) {
    self->data().Prepend(job);
  }
  template <typename Worker>
  void resume_job_later(Worker* self, caf::resumable* job) {
    self->data().Append(job);
  }
  template <typename Worker>
  caf::resumable* dequeue(Worker* self) {
    return self->data().Next();
  }
  template <typename Worker, typename F>
  void foreach_resumable(Worker* self, F f) {
    while (caf::resumable* job = self->data().TakeIfAny()) f(job);
  }
  template <typename Coordinator, typename F>
  void foreach_central_resumable(Coordinator*, F) {}
};

}  // namespace

struct ActorSystem::Impl {
  static caf::actor_system_config& Configure(Config& config, ActorLoop& loop) {
    config.loop = &loop;
    config.load<caf::scheduler::coordinator<OneThread>>();
    config.set("scheduler.max-threads", 1);
    config.set("scheduler.max-throughput", kThroughput);
    return config;
  }

  explicit Impl(std::unique_ptr<ActorLoop> l) : loop(std::move(l)), system(Configure(config, *loop)) {}

  std::unique_ptr<ActorLoop> loop;
  Config config;
  caf::actor_system system;
};

ActorSystem::ActorSystem(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ActorSystem::~ActorSystem() = default;

absl::StatusOr<std::unique_ptr<ActorSystem>> ActorSystem::Start(std::unique_ptr<ActorLoop> loop) {
  // Refused a thread, the actor system ends the process rather than throw.
  if (absl::Status s = CheckThreads(kThreads, "run actors"); !s.ok()) return s;
  if (loop == nullptr) loop = std::make_unique<MessageLoop>();
  try {
    return std::unique_ptr<ActorSystem>(new ActorSystem(std::make_unique<Impl>(std::move(loop))));
  } catch (const std::exception& e) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the actors' threads cannot be started: ", e.what(),
                     "; raise the limit on processes (ulimit -u, or pids.max of the control group)"));
  }
}

caf::actor_system& ActorSystem::system() { return impl_->system; }

}  // namespace omni
