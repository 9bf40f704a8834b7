// A few threads that do one deed after another, and are there only while there is something to do.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <list>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

namespace omni {

// Thread-safe. How many deeds wait is the caller's to bound.
class Executor {
 public:
  // A thread that had nothing to do for so long ends; the next deed begins another.
  static constexpr std::chrono::seconds kIdle{2};

  // With one thread deeds are done in order, one at a time. While the system refuses the first thread, deeds
  // wait: it is asked again with every one that comes.
  explicit Executor(size_t most_threads = 1) : most_threads_(most_threads) {}
  // Does what has been posted, then ends; not from its own threads.
  ~Executor() {
    std::unique_lock lock(mutex_);
    over_ = true;
    news_.notify_all();
    if (running_.empty()) DoAll(lock);
    ended_.wait(lock, [this] { return running_.empty(); });
    for (std::thread& thread : done_) thread.join();
  }
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;

  void Post(std::function<void()> deed) {
    std::list<std::thread> done;
    {
      std::lock_guard lock(mutex_);
      deeds_.push_back(std::move(deed));
      if (deeds_.size() > idle_ && running_.size() < most_threads_) Begin();
      news_.notify_one();
      done.swap(done_);
    }
    for (std::thread& thread : done) thread.join();  // each is at its very end
  }

 private:
  using Own = std::list<std::thread>::iterator;

  void Begin() {
    const Own own = running_.emplace(running_.end());
    try {
      *own = std::thread([this, own] { Run(own); });
    } catch (const std::system_error&) {
      running_.erase(own);
    }
  }
  void Run(Own own) {
    std::unique_lock lock(mutex_);
    while (true) {
      ++idle_;
      news_.wait_for(lock, kIdle, [this] { return over_ || !deeds_.empty(); });
      --idle_;
      if (deeds_.empty()) break;
      DoAll(lock);
    }
    done_.splice(done_.end(), running_, own);
    ended_.notify_all();
  }
  void DoAll(std::unique_lock<std::mutex>& lock) {
    while (!deeds_.empty()) {
      std::function<void()> deed = std::move(deeds_.front());
      deeds_.pop_front();
      lock.unlock();
      deed();
      deed = nullptr;
      lock.lock();
    }
  }

  const size_t most_threads_;
  std::mutex mutex_;
  std::condition_variable news_, ended_;
  std::deque<std::function<void()>> deeds_;
  size_t idle_ = 0;  // threads that wait
  bool over_ = false;
  std::list<std::thread> running_, done_;  // done: to be joined
};

}  // namespace omni
