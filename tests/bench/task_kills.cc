// Kills an `omni serve` for minutes while clients hand tasks to it and watch them:
// task_kills OMNI MODEL FOLDER [KILLS [TASKS [WORK [SEED [EXECUTOR_KILLS]]]]]. FOLDER is empty, WORK model,
// command or cancel. Exit code 1: something was lost, came twice, or was told otherwise than it is kept.
#include <cstdio>
#include <cstdlib>

#include "tests/cluster/tasks/task_kills.h"

int main(int argc, char** argv) {
  if (argc < 4) {
    std::fprintf(stderr,
                 "usage: task_kills OMNI MODEL FOLDER [KILLS [TASKS [WORK [SEED [EXECUTOR_KILLS]]]]]\n");
    return 2;
  }
  omni::testing::TaskKillsOptions options{.program = argv[1], .model = argv[2], .folder = argv[3]};
  options.kills = argc > 4 ? std::atoi(argv[4]) : 100;
  options.tasks = argc > 5 ? std::atoi(argv[5]) : 2000;
  options.work = argc > 6 ? argv[6] : "model";
  options.seed = argc > 7 ? std::strtoull(argv[7], nullptr, 10) : 1;
  options.executor_kills = argc > 8 ? std::atoi(argv[8]) : 0;
  const omni::testing::TaskKills kills = omni::testing::RunTaskKills(options);
  for (const std::string& wrong : kills.wrong) std::printf("wrong: %s\n", wrong.c_str());
  std::printf(
      "%d kills, %d of executors, %d tasks, %lld attempts, %lld events, %lld calls asked again, %lld streams "
      "taken up again\n",
      kills.kills, kills.executor_kills, kills.tasks, static_cast<long long>(kills.attempts),
      static_cast<long long>(kills.events), static_cast<long long>(kills.asked_again),
      static_cast<long long>(kills.resumed));
  return kills.wrong.empty() ? 0 : 1;
}
