// Clients that hand tasks to a real `omni serve` and watch them, while it is killed again and again; then
// what is kept is compared with what the clients were told.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace omni::testing {

struct TaskKillsOptions {
  std::string program, model, folder;  // of omni, of a model, and an empty one for state and log
  int kills = 10, tasks = 200, clients = 50;
  // What the tasks are: "model", three tokens each, every fourth of which is cancelled by its client;
  // "command", a small program each, the same; or "cancel", which nobody does, all of which are.
  std::string work = "cancel";
  int executor_kills = 0;  // of "command": of programs, and of what keeps them (omni-child)
  uint64_t seed = 1;
};

struct TaskKills {
  std::vector<std::string> wrong;  // what should not be; empty: all is as it should be
  int kills = 0, executor_kills = 0, tasks = 0;
  int64_t events = 0, asked_again = 0,
          resumed = 0,  // calls that had to be made again, streams taken up again
      attempts = 0;
};

TaskKills RunTaskKills(const TaskKillsOptions& options);

}  // namespace omni::testing
