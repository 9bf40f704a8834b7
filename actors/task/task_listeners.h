// Who is told what has become of tasks. Thread-safe.
#pragma once

#include <mutex>
#include <set>
#include <vector>

#include "actors/task/task_engine.h"

namespace omni {

class TaskListeners {
 public:
  void Add(TaskListener* listener) {
    const std::lock_guard lock(mutex_);
    listeners_.insert(listener);
  }
  // Waits for a call of it that is running, except in such a call.
  void Remove(TaskListener* listener) {
    const std::lock_guard lock(mutex_);
    listeners_.erase(listener);
  }
  // call(listener) of each; it may remove itself, or another.
  template <typename Call>
  void Tell(const Call& call) {
    const std::lock_guard lock(mutex_);
    const std::vector<TaskListener*> listeners(listeners_.begin(), listeners_.end());
    for (TaskListener* listener : listeners) {
      if (listeners_.contains(listener)) call(*listener);
    }
  }

 private:
  std::recursive_mutex mutex_;  // also held while they are called
  std::set<TaskListener*> listeners_;
};

}  // namespace omni
