// One thread that does one deed after another.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>

namespace omni {

// Thread-safe.
class Executor {
 public:
  Executor() : thread_([this] { Run(); }) {}
  // Does what has been posted, then ends; not from its own thread.
  ~Executor() {
    {
      std::lock_guard lock(mutex_);
      over_ = true;
    }
    news_.notify_all();
    thread_.join();
  }
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;

  void Post(std::function<void()> deed) {
    std::lock_guard lock(mutex_);
    deeds_.push_back(std::move(deed));
    news_.notify_one();
  }

 private:
  void Run() {
    std::unique_lock lock(mutex_);
    while (true) {
      news_.wait(lock, [this] { return over_ || !deeds_.empty(); });
      if (deeds_.empty()) return;
      std::function<void()> deed = std::move(deeds_.front());
      deeds_.pop_front();
      lock.unlock();
      deed();
      deed = nullptr;
      lock.lock();
    }
  }

  std::mutex mutex_;
  std::condition_variable news_;
  std::deque<std::function<void()>> deeds_;
  bool over_ = false;
  std::thread thread_;
};

}  // namespace omni
