#include "cluster/fair_executor.h"

#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <thread>
#include <utility>

namespace omni {

struct FairExecutor::Ticket::Deed {
  std::mutex mutex;
  std::function<void()> run;  // null: it was dropped, or has begun

  std::function<void()> Take() {
    const std::lock_guard lock(mutex);
    return std::exchange(run, nullptr);
  }
};

struct FairExecutor::Impl {
  void Run();

  std::mutex mutex;
  std::condition_variable news;
  // Of each caller with any, the oldest first; those that were dropped are still there, and empty.
  std::map<std::string, std::deque<std::shared_ptr<Ticket::Deed>>> waiting;
  std::string last;  // whose turn it was
  bool over = false;
  std::thread thread;
};

void FairExecutor::Impl::Run() {
  std::unique_lock lock(mutex);
  while (true) {
    news.wait(lock, [this] { return over || !waiting.empty(); });
    if (over) return;
    auto next = waiting.upper_bound(last);
    if (next == waiting.end()) next = waiting.begin();
    const std::shared_ptr<Ticket::Deed> deed = std::move(next->second.front());
    next->second.pop_front();
    std::function<void()> run = deed->Take();
    if (run != nullptr) last = next->first;  // a dropped one takes nobody's turn
    if (next->second.empty()) waiting.erase(next);
    if (run == nullptr) continue;
    lock.unlock();
    run();
    run = nullptr;
    lock.lock();
  }
}

FairExecutor::FairExecutor() : impl_(std::make_unique<Impl>()) {
  impl_->thread = std::thread([this] { impl_->Run(); });
}

FairExecutor::~FairExecutor() {
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->over = true;
    impl_->news.notify_all();
  }
  impl_->thread.join();
  for (auto& [caller, deeds] : impl_->waiting) {
    for (const auto& deed : deeds) deed->Take();  // tickets may outlive this, and what deeds hold does not
  }
}

FairExecutor::Ticket FairExecutor::Post(const std::string& caller, std::function<void()> deed) {
  Ticket ticket;
  ticket.deed_ = std::make_shared<Ticket::Deed>();
  ticket.deed_->run = std::move(deed);
  const std::lock_guard lock(impl_->mutex);
  impl_->waiting[caller].push_back(ticket.deed_);
  impl_->news.notify_one();
  return ticket;
}

FairExecutor::Ticket& FairExecutor::Ticket::operator=(Ticket&& other) {
  Drop();
  deed_ = std::move(other.deed_);
  return *this;
}

void FairExecutor::Ticket::Drop() {
  if (deed_ != nullptr) (void)deed_->Take();
  deed_ = nullptr;
}

}  // namespace omni
