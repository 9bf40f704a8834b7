// Tasks over the leaderships of a node.
#include "cluster/tasks/leading_engine.h"

#include <atomic>
#include <future>
#include <optional>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "tests/testing/memory_records.h"

namespace omni {
namespace {

using testing::MemoryRecords;

// What lasts over leaderships.
class Shared : public RecordStore {
 public:
  explicit Shared(MemoryRecords& records) : records_(records) {}
  absl::Status Write(const RecordWrites& writes) override { return records_.Write(writes); }
  absl::Status Recover() override { return records_.Recover(); }
  size_t max_changes() const override { return records_.max_changes(); }
  absl::StatusOr<std::optional<std::string>> Get(std::string_view key) const override {
    return records_.Get(key);
  }
  absl::Status Scan(std::string_view prefix, std::string_view from,
                    const RecordVisitor& visit) const override {
    return records_.Scan(prefix, from, visit);
  }

 private:
  MemoryRecords& records_;
};

class LeadingEngineTest : public ::testing::Test {
 protected:
  void Lead() { ASSERT_TRUE(engine_->Lead(std::make_unique<Shared>(records_)).ok()); }
  absl::StatusOr<TaskSubmitted> Submit(const std::string& key = "") {
    std::promise<absl::StatusOr<TaskSubmitted>> told;
    engine_->Submit({"anna", key, {.executor = "command", .target = "sort"}},
                    [&](absl::StatusOr<TaskSubmitted> given) { told.set_value(std::move(given)); });
    return told.get_future().get();
  }
  std::optional<TaskAssignment> Take() {
    std::promise<std::optional<TaskAssignment>> told;
    engine_->Take("w", "n", {{"command", "*"}},
                  [&](absl::StatusOr<std::optional<TaskAssignment>> given) { told.set_value(*given); });
    return told.get_future().get();
  }
  absl::Status Succeed(const std::string& token) {
    std::promise<absl::Status> told;
    engine_->Succeed(token, {}, "done", [&](const absl::Status& s) { told.set_value(s); });
    return told.get_future().get();
  }
  absl::StatusOr<TaskState> Find(const TaskId& id) { return engine_->reader().Find({"anna", false}, id); }

  MemoryRecords records_;
  std::unique_ptr<LeadingEngine> engine_ = LeadingEngine::Make();
};

TEST_F(LeadingEngineTest, WhileItDoesNotLeadNothingIsAcceptedReadOrLent) {
  EXPECT_TRUE(absl::IsUnavailable(Submit().status()));
  EXPECT_TRUE(absl::IsUnavailable(Find("a").status()));
  EXPECT_TRUE(absl::IsUnavailable(Succeed("token")));
  EXPECT_FALSE(engine_->leads());
  EXPECT_FALSE(engine_->figures().store.ok());
  Lead();
  EXPECT_TRUE(engine_->leads());
  const TaskId id = Submit("key").value().state.id;
  EXPECT_TRUE(Find(id).ok());
  engine_->Retire();
  EXPECT_TRUE(absl::IsUnavailable(Submit("key").status()));
  EXPECT_TRUE(absl::IsUnavailable(Find(id).status()));
}

TEST_F(LeadingEngineTest, TheNextLeadershipHasTheTasksTheKeysAndTheLeases) {
  Lead();
  const TaskId id = Submit("key").value().state.id;
  const TaskAssignment given = Take().value();
  engine_->Retire();
  Lead();
  EXPECT_TRUE(Submit("key").value().again);
  EXPECT_FALSE(Take().has_value()) << "its lease goes on";
  EXPECT_TRUE(Succeed(given.token).ok());
  EXPECT_EQ(Find(id)->status, TaskStatus::kSucceeded);
  EXPECT_EQ(engine_->reader().Result({"anna", false}, id).value(), "done");
}

TEST_F(LeadingEngineTest, ListenersAreToldByEveryEngineAndThatThereMayBeSomething) {
  struct Counts : TaskListener {
    std::atomic<int> queued = 0, changed = 0;
    void OnQueued() override { ++queued; }
    void OnChanged(const std::set<TaskId>&) override { ++changed; }
  };
  Counts counts;
  engine_->AddListener(&counts);
  Lead();
  EXPECT_EQ(counts.queued, 1) << "what the one before has left";
  ASSERT_TRUE(Submit().ok());
  engine_->Retire();  // waits for the engine's thread
  EXPECT_EQ(counts.changed, 1);
  Lead();
  ASSERT_TRUE(Submit().ok());
  engine_->Retire();
  EXPECT_EQ(counts.changed, 2);
  engine_->RemoveListener(&counts);
  Lead();
  ASSERT_TRUE(Submit().ok());
  engine_->Retire();
  EXPECT_EQ(counts.changed, 2);
}

TEST_F(LeadingEngineTest, WhoeverDrainedDrainsInTheNextLeadershipToo) {
  Lead();
  engine_->Drain();
  EXPECT_TRUE(absl::IsUnavailable(Submit().status()));
  engine_->Retire();
  Lead();
  EXPECT_TRUE(absl::IsUnavailable(Submit().status()));
}

// Callbacks that ask again at once, readers, and leaderships that come and go under them.
TEST_F(LeadingEngineTest, ManyUseItWhileLeadershipsChange) {
  std::atomic<bool> over = false;
  std::atomic<int> accepted = 0, refused = 0, under_way = 0;
  std::function<void()> ask = [&] {
    ++under_way;
    engine_->Submit({"anna", "", {.executor = "command"}}, [&](const absl::StatusOr<TaskSubmitted>& given) {
      (given.ok() ? accepted : refused)++;
      if (given.ok() && !over) ask();
      --under_way;
    });
  };
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      while (!over) {
        if (under_way < 8) ask();
        (void)engine_->reader().List({"anna", false}, {}, 10, "").status();
        (void)engine_->figures();
        std::this_thread::yield();
      }
    });
  }
  for (int round = 0; round < 50; ++round) {
    Lead();
    const int before = accepted;
    while (accepted < before + 5) std::this_thread::yield();
    engine_->Retire();
  }
  over = true;
  for (std::thread& thread : threads) thread.join();
  while (under_way > 0) std::this_thread::yield();
  engine_ = nullptr;
  EXPECT_GT(refused, 0);
  size_t kept = 0;
  for (const auto& [key, value] : records_.all()) kept += key.starts_with("live/");
  EXPECT_GE(kept, static_cast<size_t>(accepted.load())) << "what was acknowledged lasts";
}

}  // namespace
}  // namespace omni
