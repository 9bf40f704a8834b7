// Somebody who hands in tasks, with and without keys, asks again when no answer comes, cancels, retries,
// purges and watches.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "tests/testing/task_simulation/task_server.h"

namespace omni::simulation {

class Caller {
 public:
  Caller(TaskWorld& world, TaskServer& server, std::string name);

  void Start();
  // What it has not been shown yet of a task that it watches; empty: nothing. Deletes its schedules first.
  std::string Missing();
  const std::set<TaskId>& acknowledged() const { return acknowledged_; }

 private:
  void Act();
  TaskSpec DrawSpec(bool child = false);
  void Submit(const TaskSubmission& submission, int tries);
  void Change();  // cancels, retries or purges
  void Change(const TaskClient& by, const TaskId& id, int64_t what);
  void PlanOrUnplan();
  void Unplan(const std::string& name);
  void Watch(const TaskId& id);
  void Read(const TaskId& id);
  void CheckList();

  TaskWorld& world_;
  TaskServer& server_;
  const std::string name_;
  int64_t made_ = 0;
  std::map<std::string, TaskSpec> keyed_;  // what was last handed in under a key
  std::set<TaskId> acknowledged_;
  std::vector<TaskId> ids_, fanouts_;  // of those, to draw from
  std::map<TaskId, int64_t> watched_;  // the last number that was shown
};

}  // namespace omni::simulation
