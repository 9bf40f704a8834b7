// What is left of tasks after a power cut at any step.
#include <filesystem>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <absl/strings/str_cat.h>

#include "actors/task/group_commit.h"
#include "actors/task/task_reader.h"
#include "engine/base/splitmix.h"
#include "store/state/database.h"
#include "tests/testing/power_cut.h"
#include "tests/testing/temp_dir.h"

namespace omni {
namespace {

constexpr TaskTime kNow(std::chrono::hours(24 * 20'000));
const TaskClient kAll{.caller = "", .all = true};

TaskGroupCommit::Options Options(uint64_t* drawn) {
  TaskGroupCommit::Options options;
  options.ledger.random = [drawn] { return CounterRandom(3, (*drawn)++); };
  options.now = [] { return kNow; };
  return options;
}

// Hands in tasks and runs them; of what it is told, it promises "accepted ID" and "over ID".
absl::Status RunTasks(const std::string& dir, testing::DiskRecorder& disk) {
  auto database = Database::Open(dir, {});
  if (!database.ok()) return database.status();
  const std::unique_ptr<RecordStore> store = MakeDatabaseRecordStore(**database);
  uint64_t drawn = 0;
  TaskGroupCommit commit(*store, Options(&drawn));
  if (absl::Status s = commit.Load(); !s.ok()) return s;
  absl::Status status;
  const auto round =
      [&](std::vector<std::function<absl::StatusOr<std::string>(TaskLedger&, TaskStep&)>> calls) {
        std::deque<TaskGroupCommit::Call> waiting;
        for (auto& call : calls) {
          auto promise = std::make_shared<absl::StatusOr<std::string>>("");
          waiting.push_back({[promise, call](TaskLedger& ledger, TaskTime, TaskStep& step) {
                               *promise = call(ledger, step);
                             },
                             [&, promise](const absl::Status& written) {
                               if (!written.ok() || !promise->ok())
                                 status = written.ok() ? promise->status() : written;
                               else
                                 disk.Promise(**promise);
                             },
                             0});
        }
        for (TaskGroupCommit::Round done = commit.Run(waiting, true); !done.calls.empty();
             done = commit.Run(waiting, true))
          for (const auto& call : done.calls) call.tell(done.written);
      };
  const auto submit = [&](TaskLedger& ledger, TaskStep& step) -> absl::StatusOr<std::string> {
    const auto given = ledger.Submit({"anna", "", {.executor = "command"}}, kNow, step);
    if (!given.ok()) return given.status();
    return "accepted " + given->state.id;
  };
  const auto end = [&](TaskLedger& ledger, TaskStep& step) -> absl::StatusOr<std::string> {
    const std::vector<TaskOffer> offers = {{"command", "*"}};
    const auto given = ledger.Take("w", "n", offers, kNow, step);
    if (!given.ok()) return given.status();
    const TaskReport report{.items = {{TaskEventKind::kOutput, "stdout", "a"}}, .checkpoint = "1"};
    if (absl::Status s = ledger.Succeed((*given)->token, report, "result", kNow, step); !s.ok()) return s;
    return "over " + (*given)->state.id;
  };
  round({submit, submit});
  round({end, submit});
  round({end});
  if (!status.ok()) return status;
  return (*database)->Close();
}

std::string Problem(const std::string& dir, const std::vector<std::string>& promises) {
  if (!std::filesystem::exists(dir)) return promises.empty() ? "" : "the database is gone";
  auto database = Database::Open(dir, {});
  if (!database.ok()) return std::string(database.status().message());
  const std::unique_ptr<RecordStore> store = MakeDatabaseRecordStore(**database);
  uint64_t drawn = 1000;
  TaskGroupCommit commit(*store, Options(&drawn));
  if (absl::Status s = commit.Load(); !s.ok()) return std::string(s.message());
  const TaskReader reader(*store);
  for (const std::string& promise : promises) {
    const std::string id = promise.substr(promise.find(' ') + 1);
    const absl::StatusOr<TaskState> task = reader.Find(kAll, id);
    if (!task.ok()) return promise + ": it is gone";
    if (promise.starts_with("over") && task->status != TaskStatus::kSucceeded) return promise + ": it is not";
  }
  const absl::StatusOr<TaskPage> all = reader.List(kAll, {}, 100, "");
  if (!all.ok()) return std::string(all.status().message());
  for (const TaskState& task : all->tasks) {
    const auto events = reader.Events(kAll, task.id, 0, 100);
    if (!events.ok() || static_cast<int64_t>(events->size()) != task.last_event)
      return task.id + ": half of a write";
  }
  return "";
}

TEST(TaskPowerCutTest, WhatWasAcknowledgedIsThereAfterAnyAndOfARoundAllOrNothing) {
  testing::TempDir temp = testing::TempDir::InMemory();
  std::filesystem::create_directory(temp / "disk");
  testing::DiskRecorder disk(temp / "disk");
  const absl::Status ran = RunTasks(temp / "disk/tasks", disk);
  disk.Stop();
  ASSERT_TRUE(ran.ok()) << ran;
  EXPECT_THAT(
      testing::ProblemsAfterCuts(disk, temp / "scratch",
                                 [](const std::string& dir, const std::vector<std::string>& promises) {
                                   return Problem(dir + "/tasks", promises);
                                 }),
      ::testing::IsEmpty());
}

}  // namespace
}  // namespace omni
