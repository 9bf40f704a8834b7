// What must be true of tasks whatever happens, checked with every write that lasts and every answer. It goes
// by what is written and told alone, and by a count of its own of how long each lease is good for.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "actors/task/task_ledger.h"
#include "actors/task/task_record.h"
#include "tests/testing/task_simulation/sim_records.h"
#include "tests/testing/task_simulation/task_faults.h"

namespace omni::simulation {

class TaskOracle {
 public:
  TaskOracle(TaskWorld& world, TaskDuration lease, std::function<TaskTime()> now)
      : world_(world), lease_(lease), now_(std::move(now)) {}

  struct Task {
    std::optional<TaskRecord> record;  // none: it was purged
    std::vector<std::string> events;   // as they were written
    bool over = false;                 // by its events
    std::set<std::string> outputs;     // none may come twice
    int64_t steps = 0;                 // that were reported, with a piece of its checkpoint each
  };
  const std::map<TaskId, Task>& tasks() const { return tasks_; }
  int64_t live() const { return live_; }

  void OnApplied(const std::vector<RecordChange>& changes);
  // The server has read its records in, or is about to.
  void OnLoaded();
  void NextRound() { ++round_; }

  // Answers, in the order in which they are given.
  void OnSubmitted(const TaskSubmission& submission, const TaskSubmitted& answer, const Records& records);
  void OnTaken(const TaskAssignment& given);
  void OnAccepted(const std::string& token, bool ends, TaskTime at);  // a report, or an end
  void OnLeasesEnded(const std::string& node, const std::string& but_worker, TaskTime at);
  void OnCounts(const TaskCounts& counts, int64_t live);

 private:
  struct Token {
    TaskId id;
    std::string node, worker;
    TaskTime began, ends;
    std::optional<int64_t> ended;  // in which round
    bool completed = false, gone = false, refused = false;
  };
  using Before = std::map<TaskId, std::optional<TaskRecord>>;

  template <typename... T>
  void Fail(std::string_view id, const T&... what) {
    world_.world.Fail(absl::StrCat("task ", absl::string_view(id.data(), id.size()), ": ", what...));
  }
  void OnEvent(std::string_view id, const RecordChange& change);
  void OnRecord(std::string_view id, const TaskRecord& record);
  void OnPurged(std::string_view id);
  void CheckLease(const TaskId& id, const std::optional<TaskRecord>& before, const TaskRecord& record);
  void CheckGather(const TaskRecord& parent);

  TaskWorld& world_;
  const TaskDuration lease_;
  const std::function<TaskTime()> now_;
  std::map<TaskId, Task> tasks_;
  std::map<std::string, Token> tokens_;
  std::map<std::pair<std::string, std::string>, TaskId> keys_;  // by caller and key
  std::map<std::pair<TaskId, int32_t>, TaskId> children_;       // by parent and index
  std::map<std::pair<TaskId, int32_t>, TaskStatus> purged_;     // of children, how they ended
  std::array<int64_t, kTaskStatuses + 1> by_status_{};
  int64_t live_ = 0, round_ = 0;
  // Of the write under way.
  std::set<TaskId> retried_, changed_, purging_;
  std::map<TaskId, TaskTime> lost_;  // when
};

}  // namespace omni::simulation
