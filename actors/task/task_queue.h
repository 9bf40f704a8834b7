// Tasks that wait for an executor, and which of them is next.
//
// Problem: one caller hands in ten thousand tasks, another one. In order of arrival the second waits for all
// of the first's; in order of priority it claims the highest, and so does everybody.
//
// Callers take turns: whose fewest tasks are running is next, of equals the one that was not served for
// longest, or that came first. Priority is a matter among a caller's own tasks, and waiting makes up for it:
// a step of priority is worth kAgeing of waiting, so that none waits for ever.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>

#include "actors/task/task.h"

namespace omni {

// What an executor offers to run: tasks of this kind, of one target or, with "*", of any.
struct TaskOffer {
  std::string executor, target;
};

class TaskQueue {
 public:
  static constexpr TaskDuration kAgeing = std::chrono::seconds(10);

  struct Waiting {
    std::string executor, target, caller;
    int32_t priority = 0;
    TaskTime since{};
    TaskId id;
  };

  void Push(const Waiting& task);    // its id is one that the ledger drew
  bool Remove(const Waiting& task);  // false: it does not wait
  // The next one of those that are offered to run; it goes on waiting.
  std::optional<TaskId> Next(std::span<const TaskOffer> offers) const;
  void AddRunning(const std::string& caller);  // and with that it had its turn
  void RemoveRunning(const std::string& caller);
  size_t size() const { return size_; }

 private:
  // Ascending: its time less what its priority is worth, then its id's two halves (there may be millions).
  using Rank = std::tuple<int64_t, uint64_t, uint64_t>;
  using Kind = std::pair<std::string, std::string>;
  struct Caller {
    int64_t running = 0;
    uint64_t served = 0;  // by which turn
    std::map<Kind, std::set<Rank>> waiting;
  };

  static Rank RankOf(const Waiting& task);
  Caller& Named(const std::string& name);
  void SetTurn(const std::string& name, Caller& caller, bool there);

  std::map<std::string, Caller, std::less<>> callers_;
  // Of those with tasks that wait: (running, served, name).
  std::set<std::tuple<int64_t, uint64_t, std::string>> turns_;
  uint64_t turn_ = 0;
  size_t size_ = 0;
};

}  // namespace omni
