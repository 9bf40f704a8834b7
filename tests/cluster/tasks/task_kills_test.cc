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

}  // namespace
}  // namespace omni::testing
