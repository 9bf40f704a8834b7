// The tasks of a process over its restarts.
#include "cluster/tasks/node_tasks.h"

#include <chrono>
#include <future>
#include <thread>

#include <gtest/gtest.h>

#include "store/state/database.h"
#include "store/state/record_store.h"
#include "tests/testing/temp_dir.h"

namespace omni {
namespace {

TaskServiceOptions Options() {
  TaskServiceOptions options;
  options.serving = [] { return absl::OkStatus(); };
  options.elsewhere = [] { return ""; };
  return options;
}

absl::StatusOr<std::unique_ptr<NodeTasks>> Open(const std::string& dir) {
  NodeTasksOptions options;
  options.dir = dir;
  options.service = Options();
  return NodeTasks::Open(std::move(options));
}

TEST(NodeTasks, WithoutAFolderThereAreNone) {
  const auto tasks = Open("");
  ASSERT_TRUE(tasks.ok()) << tasks.status();
  (*tasks)->Begin("n1", {}).IgnoreError();
  (*tasks)->BeginDrain();
  EXPECT_EQ((*tasks)->Now(), nullptr);
}

// Not only when its leases have run out, which says something else.
TEST(NodeTasks, WhatAFormerProcessHadIsLentAgainWhateverItWasCalled) {
  const testing::TempDir temp = testing::TempDir::InMemory();
  const std::string dir = temp / "tasks";
  {
    const auto tasks = Open(dir);
    ASSERT_TRUE(tasks.ok()) << tasks.status();
    (*tasks)->Begin("127.0.0.1:1111", {}).IgnoreError();
  }
  {
    const auto database = Database::Open(dir, {});
    ASSERT_TRUE(database.ok()) << database.status();
    const auto store = MakeDatabaseRecordStore(**database);
    const auto engine = TaskEngine::Start(*store, {}).value();
    std::promise<bool> taken;
    engine->Submit({"anna", "", {.executor = "command", .target = "sort"}},
                   [](const absl::StatusOr<TaskSubmitted>& submitted) { ASSERT_TRUE(submitted.ok()); });
    engine->Take("worker", "127.0.0.1:1111", {{"command", "*"}},
                 [&](const absl::StatusOr<std::optional<TaskAssignment>>& task) {
                   taken.set_value(task.ok() && task->has_value());
                 });
    ASSERT_TRUE(taken.get_future().get());
  }
  const auto tasks = Open(dir);
  ASSERT_TRUE(tasks.ok()) << tasks.status();
  ASSERT_EQ((*tasks)->Now()->latest.size(), 1u);
  EXPECT_EQ((*tasks)->Now()->latest[0].status, TaskStatus::kRunning);
  (*tasks)->Begin("127.0.0.1:2222", {}).IgnoreError();
  const auto until = std::chrono::steady_clock::now() + std::chrono::minutes(1);
  while ((*tasks)->Now()->latest[0].status == TaskStatus::kRunning &&
         std::chrono::steady_clock::now() < until)
    std::this_thread::yield();
  const auto now = (*tasks)->Now();
  EXPECT_NE(now->latest[0].status, TaskStatus::kRunning);
  EXPECT_EQ(now->latest[0].losses, 1);
  EXPECT_EQ(now->latest[0].message, "its executor's process ended");
}

}  // namespace
}  // namespace omni
