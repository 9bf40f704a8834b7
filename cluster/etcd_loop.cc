#include "cluster/etcd_loop.h"

#include <memory>
#include <system_error>

#include "engine/base/threads.h"

namespace omni {

gpr_timespec DeadlineAfter(std::chrono::milliseconds delay) {
  return gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_millis(delay.count(), GPR_TIMESPAN));
}

EtcdLoop::~EtcdLoop() {
  if (thread_.joinable()) Stop([] {});
  if (over_) return;
  queue_.Shutdown();
  void* tag = nullptr;
  bool ok = false;
  while (queue_.Next(&tag, &ok)) {
  }
}

absl::Status EtcdLoop::Start() {
  try {
    thread_ = std::thread([this] { Run(); });
  } catch (const std::system_error& e) {
    return ThreadsRefused(1, "etcd", e.code().value());
  }
  return absl::OkStatus();
}

void EtcdLoop::Stop(Work last) {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    last_ = std::move(last);
    Wake();
  }
  thread_.join();
}

bool EtcdLoop::Post(Work work) {
  const std::lock_guard lock(mutex_);
  if (stopping_) return false;
  posted_.push_back(std::move(work));
  Wake();
  return true;
}

void* EtcdLoop::Tag(std::function<void(bool ok)> done) {
  return new std::function<void(bool)>(std::move(done));  // deleted by Run
}

EtcdLoop::TimerId EtcdLoop::After(std::chrono::milliseconds delay, Work work) {
  const TimerId id{std::chrono::steady_clock::now() + delay, ++last_timer_};
  timers_.emplace(id, std::move(work));
  return id;
}

void EtcdLoop::Wake() {
  if (woken_) return;
  woken_ = true;
  alarm_ = std::make_unique<grpc::Alarm>();
  alarm_->Set(&queue_, gpr_now(GPR_CLOCK_MONOTONIC), this);
}

void EtcdLoop::RunPosted() {
  std::vector<Work> posted;
  Work last;
  {
    const std::lock_guard lock(mutex_);
    woken_ = false;
    posted = std::move(posted_);
    posted_.clear();
    last = std::exchange(last_, nullptr);
  }
  for (const Work& work : posted) work();
  if (!last) return;
  last();
  over_ = true;
  timers_.clear();
  queue_.Shutdown();
}

gpr_timespec EtcdLoop::NextTimer() const {
  if (timers_.empty()) return gpr_inf_future(GPR_CLOCK_MONOTONIC);
  const auto left = std::chrono::duration_cast<std::chrono::microseconds>(timers_.begin()->first.first -
                                                                          std::chrono::steady_clock::now());
  return gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
                      gpr_time_from_micros(std::max<int64_t>(left.count() + 1, 0), GPR_TIMESPAN));
}

void EtcdLoop::Run() {
  while (true) {
    void* tag = nullptr;
    bool ok = false;
    const auto next = queue_.AsyncNext(&tag, &ok, NextTimer());
    if (next == grpc::CompletionQueue::SHUTDOWN) return;
    if (next == grpc::CompletionQueue::GOT_EVENT && tag == this) {
      RunPosted();
    } else if (next == grpc::CompletionQueue::GOT_EVENT) {
      const std::unique_ptr<std::function<void(bool)>> done(static_cast<std::function<void(bool)>*>(tag));
      (*done)(ok);
    }
    while (!timers_.empty() && timers_.begin()->first.first <= std::chrono::steady_clock::now()) {
      const Work work = std::move(timers_.begin()->second);
      timers_.erase(timers_.begin());
      work();
    }
  }
}

}  // namespace omni
