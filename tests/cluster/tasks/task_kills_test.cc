// Acknowledged tasks outlive the server, however it ends. tests/bench/task_kills.cc does the same for longer.
#include "tests/cluster/tasks/task_kills.h"

#include <gtest/gtest.h>

#include "tests/cli/omni_fixture.h"

namespace omni::testing {
namespace {

class TaskKillsTest : public OmniTest {};

TEST_F(TaskKillsTest, WhatWasAcknowledgedIsThereOnceAndEndsOnce) {
  const TempDir folder;
  const TaskKills kills = RunTaskKills({.program = OMNI_PROGRAM, .model = Model(), .folder = folder.path()});
  for (const std::string& wrong : kills.wrong) ADD_FAILURE() << wrong;
  EXPECT_EQ(kills.tasks, 200);
  EXPECT_GE(kills.kills, 5) << "the rest may have come too late";
  EXPECT_GT(kills.resumed + kills.asked_again, 0) << "some clients were in the middle of something";
}

TEST_F(TaskKillsTest, ProgramsThatAreKilledAreRunAgainAndTheirTasksEndOnce) {
  const TempDir folder;
  const TaskKills kills = RunTaskKills({.program = OMNI_PROGRAM,
                                        .model = Model(),
                                        .folder = folder.path(),
                                        .kills = 4,
                                        .tasks = 60,
                                        .clients = 20,
                                        .work = "command",
                                        .executor_kills = 20});
  for (const std::string& wrong : kills.wrong) ADD_FAILURE() << wrong;
  EXPECT_EQ(kills.tasks, 60);
  EXPECT_GE(kills.executor_kills, 5);
  EXPECT_GT(kills.attempts, 60 * 3 / 4) << "some began again";
}

}  // namespace
}  // namespace omni::testing
