// A ledger over records in memory, whose decisions are written at once.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>

#include "actors/task/task_ledger.h"
#include "actors/task/task_reader.h"
#include "engine/base/splitmix.h"
#include "tests/testing/memory_records.h"

namespace omni::testing {

class LedgerTest : public ::testing::Test {
 protected:
  static constexpr size_t kChanges = 16;  // at once, as where a store takes few

  void SetUp() override { Load(); }
  void Load() {
    TaskLedger::Options options;
    options.limits = limits_;
    options.random = [this] { return CounterRandom(7, drawn_++); };
    ledger_ = std::make_unique<TaskLedger>(store_, options);
    ASSERT_TRUE(ledger_->Load(now_).ok());
    Settle();
  }

  template <typename Call>
  auto Do(Call call) {
    TaskStep step;
    auto result = call(step);
    EXPECT_FALSE(ledger_->failed());
    EXPECT_TRUE(store_.Write(step.writes).ok());
    ended_.insert(ended_.end(), step.ended.begin(), step.ended.end());
    return result;
  }
  void Settle() {
    for (int rounds = 0; rounds < 10'000; ++rounds) {
      const absl::StatusOr<bool> more =
          Do([&](TaskStep& step) { return ledger_->Settle(now_, kChanges, step); });
      ASSERT_TRUE(more.ok()) << more.status();
      if (!*more) return;
    }
    FAIL() << "it does not come to an end";
  }
  void Pass(TaskDuration time) {
    now_ += time;
    Settle();
  }

  absl::StatusOr<TaskSubmitted> TrySubmit(const TaskSpec& spec, const std::string& key = "",
                                          const std::string& caller = "anna") {
    return Do([&](TaskStep& step) { return ledger_->Submit({caller, key, spec}, now_, step); });
  }
  TaskId Submit(const TaskSpec& spec, const std::string& key = "", const std::string& caller = "anna") {
    const absl::StatusOr<TaskSubmitted> submitted = TrySubmit(spec, key, caller);
    EXPECT_TRUE(submitted.ok()) << submitted.status();
    Settle();
    return submitted.ok() ? submitted->state.id : "";
  }
  std::optional<TaskAssignment> Take(const std::string& worker = "w") {
    const std::vector<TaskOffer> offers = {{"command", "*"}};
    auto given = Do([&](TaskStep& step) { return ledger_->Take(worker, "node", offers, now_, step); });
    EXPECT_TRUE(given.ok()) << given.status();
    return given.ok() ? *std::move(given) : std::nullopt;
  }
  absl::Status Succeed(const std::string& token) {
    const absl::Status s =
        Do([&](TaskStep& step) { return ledger_->Succeed(token, {}, "result", now_, step); });
    Settle();
    return s;
  }
  absl::Status Fail(const std::string& token, const std::string& error = "exit") {
    const absl::Status s =
        Do([&](TaskStep& step) { return ledger_->Fail(token, {}, error, "status 1", now_, step); });
    Settle();
    return s;
  }
  absl::StatusOr<TaskLedger::Told> Report(const std::string& token, const TaskReport& report = {}) {
    return Do([&](TaskStep& step) { return ledger_->Report(token, report, now_, step); });
  }
  absl::Status Return(const std::string& token) {
    return Do([&](TaskStep& step) { return ledger_->Return(token, now_, step); });
  }
  absl::Status Cancel(const TaskId& id) {
    const absl::Status s =
        Do([&](TaskStep& step) { return ledger_->Cancel(kAnna, id, now_, step).status(); });
    return s;
  }
  absl::Status Retry(const TaskId& id) {
    return Do([&](TaskStep& step) { return ledger_->Retry(kAnna, id, now_, step).status(); });
  }
  absl::Status Purge(const TaskId& id) {
    const absl::Status s = Do([&](TaskStep& step) { return ledger_->Purge(kAnna, id, now_, step); });
    Settle();
    return s;
  }

  TaskState Find(const TaskId& id) {
    const absl::StatusOr<TaskState> state = reader_.Find(kAnna, id);
    EXPECT_TRUE(state.ok()) << state.status();
    return state.ok() ? *state : TaskState{};
  }
  std::vector<TaskEventKind> Kinds(const TaskId& id) {
    std::vector<TaskEventKind> kinds;
    const absl::StatusOr<std::vector<TaskEvent>> events = reader_.Events(kAnna, id, 0, 100'000, 1 << 30);
    EXPECT_TRUE(events.ok()) << events.status();
    if (!events.ok()) return kinds;
    for (const TaskEvent& event : *events) {
      kinds.push_back(event.kind);
      EXPECT_EQ(event.number, static_cast<int64_t>(kinds.size()));
    }
    return kinds;
  }
  std::vector<TaskId> ChildrenOf(const TaskId& id) {
    std::vector<TaskId> children;
    for (int32_t index = 0; index < Find(id).children; ++index) {
      const auto child = store_.Get(ChildKey(id, index));
      if (child.ok() && child->has_value()) children.push_back(**child);
    }
    return children;
  }

  inline static const TaskClient kAnna{"anna", false};
  MemoryRecords store_;
  TaskReader reader_{store_};
  TaskLimits limits_;
  std::unique_ptr<TaskLedger> ledger_;
  TaskTime now_{std::chrono::hours(24 * 20'000)};
  uint64_t drawn_ = 0;
  std::vector<std::string> ended_;  // leases
};

inline TaskSpec Command() { return {.executor = "command", .target = "echo"}; }
inline TaskSpec FanOut(int children, TaskGather gather = TaskGather::kAll) {
  TaskSpec spec{.executor = kFanout, .gather = gather};
  for (int n = 0; n < children; ++n) spec.children.push_back(Command());
  return spec;
}

}  // namespace omni::testing
