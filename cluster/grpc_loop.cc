#include "cluster/grpc_loop.h"

#include <atomic>
#include <chrono>
#include <functional>
#include <mutex>
#include <utility>
#include <vector>

#include <grpcpp/alarm.h>
#include <grpcpp/grpcpp.h>

namespace omni {
namespace {

using Clock = std::chrono::steady_clock;
using Queue = grpc::CompletionQueue;

constexpr std::chrono::microseconds kWatch{250};
// A look that finds nothing takes microseconds, with frames to read and to decipher tens of them. Was it so
// long, somebody else had the processor, and who watches keeps it from those that are waited for: then it is
// left to them for a while.
constexpr std::chrono::microseconds kPreempted{300};
constexpr std::chrono::milliseconds kLeaveToOthers{20};
constexpr int kEventsPerPoll = 64;  // before the actors have their turn

}  // namespace

struct GrpcLoop::Impl : public GrpcLoop::Tag {
  Impl(std::unique_ptr<Queue> q, grpc::ServerCompletionQueue* server, Waiting w)
      : server_queue(server), queue(std::move(q)), watches(w == Waiting::kWatching) {}

  // The alarm's.
  void Done(bool) override {
    std::lock_guard lock(mutex);
    armed = false;
  }
  void DoLater() {
    if (later.empty()) return;
    for (const auto& f : std::exchange(later, {})) f();
  }
  // Whether something had come.
  bool TakeOne() {
    void* tag = nullptr;
    bool ok = false;
    if (queue->AsyncNext(&tag, &ok, gpr_time_0(GPR_CLOCK_MONOTONIC)) != Queue::GOT_EVENT) return false;
    static_cast<Tag*>(tag)->Done(ok);
    return true;
  }

  // Whether something came meanwhile.
  bool Watch() {
    auto now = Clock::now();
    if (now < watch_again) return false;
    const auto until = now + kWatch;
    while (now < until) {
      if (TakeOne()) return true;
      const auto looked = std::exchange(now, Clock::now());
      if (now - looked < kPreempted) continue;
      watch_again = now + kLeaveToOthers;
      return false;
    }
    return false;
  }

  grpc::ServerCompletionQueue* const server_queue;  // the queue, if it is a server's
  const std::unique_ptr<Queue> queue;
  const bool watches;
  Clock::time_point watch_again;             // the actors' thread's
  std::vector<std::function<void()>> later;  // the actors' thread's
  std::atomic<uint64_t> turns{0};            // counted by the actors' thread
  void CountTurn() { turns.store(turns.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed); }
  std::mutex mutex;
  grpc::Alarm alarm;
  bool armed = false;  // the alarm's event is still to come
};

GrpcLoop::GrpcLoop(Waiting waiting)
    : impl_(std::make_unique<Impl>(std::make_unique<Queue>(), nullptr, waiting)) {}

GrpcLoop::GrpcLoop(grpc::ServerBuilder& builder, Waiting waiting) {
  std::unique_ptr<grpc::ServerCompletionQueue> queue = builder.AddCompletionQueue();
  grpc::ServerCompletionQueue* const raw = queue.get();
  impl_ = std::make_unique<Impl>(std::move(queue), raw, waiting);
}

GrpcLoop::~GrpcLoop() {
  impl_->queue->Shutdown();
  void* tag = nullptr;
  bool ok = false;
  while (impl_->queue->Next(&tag, &ok)) static_cast<Tag*>(tag)->Done(ok);
}

void GrpcLoop::Later(std::function<void()> f) { impl_->later.push_back(std::move(f)); }

uint64_t GrpcLoop::turns() const { return impl_->turns.load(std::memory_order_relaxed); }

void GrpcLoop::Poll() {
  impl_->CountTurn();
  impl_->DoLater();
  for (int i = 0; i < kEventsPerPoll && impl_->TakeOne(); ++i) {
  }
}

void GrpcLoop::Wait() {
  impl_->CountTurn();
  impl_->DoLater();
  if (impl_->watches && impl_->Watch()) return;
  void* tag = nullptr;
  bool ok = false;
  if (impl_->queue->Next(&tag, &ok)) static_cast<Tag*>(tag)->Done(ok);
}

void GrpcLoop::Wake() {
  std::lock_guard lock(impl_->mutex);
  if (std::exchange(impl_->armed, true)) return;
  impl_->alarm.Set(impl_->queue.get(), gpr_time_0(GPR_CLOCK_MONOTONIC), impl_.get());
}

grpc::CompletionQueue& GrpcLoop::queue() { return *impl_->queue; }
grpc::ServerCompletionQueue* GrpcLoop::server_queue() { return impl_->server_queue; }

}  // namespace omni
