// A node with executors: slow, paused and come back, replaced while it goes on, killed. What it does with a
// task is drawn; what it reports says how far it is, so that nothing can come twice unseen.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tests/testing/task_simulation/task_server.h"

namespace omni::simulation {

class ExecutorNode {
 public:
  ExecutorNode(TaskWorld& world, TaskServer& server, std::string name);

  void Start();

 private:
  static constexpr int kSlots = 2;
  // A process's stay.
  struct Life {
    std::string worker;
    bool dead = false, replaced = false;
    Time paused_until{};
  };
  struct Attempt {
    std::shared_ptr<Life> life;
    TaskAssignment task;
    int64_t step, steps, report = 0;
    bool cancel = false;
  };

  void Ask(const std::shared_ptr<Life>& life);
  void Step(const std::shared_ptr<Attempt>& attempt);
  void Send(const std::shared_ptr<Attempt>& attempt, const TaskReport& report, int tries);
  void End(const std::shared_ptr<Attempt>& attempt, int how, int tries);
  void Die();
  // Runs it then, or when the process wakes; not if it is dead.
  void In(const std::shared_ptr<Life>& life, milliseconds delay, std::function<void()> f);

  TaskWorld& world_;
  TaskServer& server_;
  const std::string name_;
  std::shared_ptr<Life> life_;
  int64_t lives_ = 0, outputs_ = 0;
  std::map<std::string, std::weak_ptr<Attempt>> attempts_;  // by token
};

}  // namespace omni::simulation
