// Tells whoever asked for it what becomes of tasks, by HTTP: at least once, in order, with the events'
// numbers.
//
// Problem: who is to be told may be away for a day, answer slowly or never, and this process may be killed
// between an event and the telling. Who is told, and up to which event, is a record beside the task's
// (TaskPush); here is only what is due when. A server that does not answer holds up others until it has
// failed once: there are few connections to one at a time, after each failure it is left alone for longer,
// and all that fail together have half of the threads.
#pragma once

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "actors/task/task_engine.h"
#include "cluster/tasks/push_target.h"

namespace omni {

struct TaskPusherOptions {
  PushConfig config;
  // What is sent of an event; empty: nothing, as of most. Any thread.
  std::function<std::string(const TaskState&, const TaskEvent&)> body;
  std::function<absl::Status()> serving = nullptr;  // whether tasks are kept here at present; null: always
  FindHost find_host = nullptr;                     // null: the system says
  int threads = 4;                                  // that send
  int of_server = 2;                                // of them at most, to one server
  std::chrono::milliseconds answer_time{10'000};    // to be connected, and to be answered
  // Between two tries: first · 2^(failures-1), at most `most`, and of that up to half less, at random.
  std::chrono::milliseconds first{1'000}, most{300'000};
  std::chrono::milliseconds give_up{24 * 3'600'000};  // on one event, after its first failure
  std::function<void(const std::string& server, const absl::Status&)> failed = nullptr;  // for tests
};

class TaskPusher final : public TaskListener {
 public:
  // The engine outlives it. Who was not told all that is to be told is told from now on. ResourceExhausted:
  // no thread can be started.
  static absl::StatusOr<std::unique_ptr<TaskPusher>> Start(TaskPusherOptions options, TaskEngine& engine);
  ~TaskPusher() override;  // what is being said is broken off
  TaskPusher(const TaskPusher&) = delete;
  TaskPusher& operator=(const TaskPusher&) = delete;

  const PushConfig& config() const { return options_.config; }
  void Added(const TaskPush& push);  // a record that lasts
  void OnChanged(const std::set<TaskId>& tasks) override;

 private:
  using Clock = std::chrono::steady_clock;
  struct One {
    std::string server;
    int64_t told = 0;
    bool busy = false, news = true;
    int failures = 0;
    int64_t version = 0;  // of the record
    Clock::time_point due{}, failing_since{};
  };
  using Key = std::pair<TaskId, std::string>;
  static const Key kScan;  // no task's: the records are to be read
  enum class Outcome { kGone, kAllTold, kMore, kFailed, kNotNow };

  TaskPusher(TaskPusherOptions options, TaskEngine& engine)
      : options_(std::move(options)), engine_(engine), random_(std::random_device{}()) {}
  void Run();
  std::optional<Key> Next(std::unique_lock<std::mutex>& lock);
  void Add(const TaskPush& push, const std::string& server, bool anew);
  void LookWhoServes(std::unique_lock<std::mutex>& lock, Clock::time_point now);
  void Scan(std::unique_lock<std::mutex>& lock);
  void Done(const Key& key, Outcome outcome);
  // one.failures is 0 if anything was told.
  Outcome Tell(const Key& key, One& one);
  absl::Status Send(const TaskPush& push, const PushTarget& target, const std::string& body);
  bool Stopping() const {
    const std::lock_guard lock(mutex_);
    return stopping_;
  }

  const TaskPusherOptions options_;
  TaskEngine& engine_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::mt19937_64 random_;
  bool stopping_ = false;
  bool scan_ = true, served_ = false;
  Clock::time_point scan_at_{}, looked_{};
  std::map<Key, One> all_;
  struct Server {
    std::set<std::pair<Clock::time_point, Key>> due;  // those with news that are not busy
    int busy = 0;                                     // threads that send to it
    bool failing = false;                             // its last answer was none, or not what is wanted
  };
  // Of servers that fail at most half of the threads wait, so that there are some for the others.
  int most_failing() const { return std::max(1, options_.threads / 2); }
  void Wait(const Key& key, const One& one) { servers_[one.server].due.emplace(one.due, key); }
  void Forget(std::map<std::string, Server>::iterator server);
  std::map<std::string, Server> servers_;
  int failing_ = 0;  // threads that send to servers which fail
  std::vector<std::thread> threads_;
};

}  // namespace omni
