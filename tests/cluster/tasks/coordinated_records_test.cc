// Tasks in a coordination store: who leads writes, and who led does not.
#include "cluster/tasks/coordinated_records.h"

#include <future>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "actors/task/task_engine.h"
#include "cluster/cluster_records.h"
#include "cluster/embedded_store.h"
#include "tests/testing/temp_dir.h"

namespace omni {
namespace {

// A store before the store, which can keep one commit on its way.
class SlowCommits : public CoordinationStore {
 public:
  explicit SlowCommits(CoordinationStore& store) : store_(store) {}
  bool keep_next = false;
  std::optional<Transaction> kept;

  void Read(std::string prefix, Callback<Records> done) override { store_.Read(prefix, std::move(done)); }
  void Commit(Transaction transaction, Callback<Committed> done) override {
    if (!keep_next) return store_.Commit(std::move(transaction), std::move(done));
    keep_next = false;
    kept = std::move(transaction);
    done(absl::UnavailableError("the connection broke"));
  }
  void GrantLease(std::chrono::milliseconds ttl, Callback<LeaseId> done) override {
    store_.GrantLease(ttl, std::move(done));
  }
  void KeepAlive(LeaseId lease, Callback<std::chrono::milliseconds> done) override {
    store_.KeepAlive(lease, std::move(done));
  }
  void RevokeLease(LeaseId lease, Callback<bool> done) override {
    store_.RevokeLease(lease, std::move(done));
  }
  std::unique_ptr<Watcher> Watch(std::string prefix, Revision from, Callback<Changes> on_changes) override {
    return store_.Watch(std::move(prefix), from, std::move(on_changes));
  }

 private:
  CoordinationStore& store_;
};

class CoordinatedRecordsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    embedded_ = EmbeddedStore::Open(dir_.path() + "/store").value();
    store_ = std::make_unique<SlowCommits>(*embedded_);
    term_ = Elect();
  }
  Committed Commit(Transaction transaction) {
    std::promise<absl::StatusOr<Committed>> promise;
    embedded_->Commit(std::move(transaction),
                      [&](absl::StatusOr<Committed> c) { promise.set_value(std::move(c)); });
    return promise.get_future().get().value();
  }
  uint64_t Elect() { return static_cast<uint64_t>(Commit({.changes = {{kLeaderKey, "{}"}}}).revision); }
  std::unique_ptr<RecordStore> Make(uint64_t term) {
    return MakeCoordinatedRecords(*store_, [term] { return term; }).value();
  }

  testing::TempDir dir_;
  std::unique_ptr<EmbeddedStore> embedded_;
  std::unique_ptr<SlowCommits> store_;
  uint64_t term_ = 0;
};

TEST_F(CoordinatedRecordsTest, TheNextLeaderHasWhatTheLastOneWroteAndTheLastOneWritesNoMore) {
  const std::unique_ptr<RecordStore> records = Make(term_);
  ASSERT_TRUE(records->Write({{"a/1", "one"}, {"a/2", "two"}, {"b/1", "three"}}).ok());
  ASSERT_TRUE(records->Write({{"a/1", std::nullopt}}).ok());
  const std::unique_ptr<RecordStore> next = Make(Elect());
  EXPECT_EQ(next->Get("a/1").value(), std::nullopt);
  EXPECT_EQ(next->Get("a/2").value(), "two");
  std::vector<std::string> keys;
  ASSERT_TRUE(next->Scan("a/", "",
                         [&](std::string_view key, std::string_view) {
                           keys.emplace_back(key);
                           return true;
                         })
                  .ok());
  EXPECT_EQ(keys, std::vector<std::string>{"a/2"});
  EXPECT_EQ(records->Write({{"a/2", "late"}}).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(records->Get("a/2").value(), "two");
}

TEST_F(CoordinatedRecordsTest, AWriteThatComesAfterItsSuccessorIsRefused) {
  const std::unique_ptr<RecordStore> records = Make(term_);
  ASSERT_TRUE(records->Write({{"a", "first"}}).ok());
  store_->keep_next = true;
  EXPECT_EQ(records->Write({{"a", "kept"}}).code(), absl::StatusCode::kUnavailable);
  ASSERT_TRUE(records->Recover().ok());
  EXPECT_EQ(records->Get("a").value(), "first");
  EXPECT_FALSE(Commit(*store_->kept).applied) << "it was on its way for long";
  EXPECT_EQ(Make(term_)->Get("a").value(), "first");
}

TEST_F(CoordinatedRecordsTest, AWriteThatCameAfterAllIsFoundByRecovery) {
  const std::unique_ptr<RecordStore> records = Make(term_);
  store_->keep_next = true;
  EXPECT_FALSE(records->Write({{"a", "kept"}}).ok());
  EXPECT_TRUE(Commit(*store_->kept).applied);
  ASSERT_TRUE(records->Recover().ok());
  EXPECT_EQ(records->Get("a").value(), "kept");
  EXPECT_TRUE(records->Write({{"a", "next"}}).ok());
}

TEST_F(CoordinatedRecordsTest, TasksOfTheirLargestSizeAndManyChildrenFitItsTransactions) {
  const std::unique_ptr<RecordStore> records = Make(term_);
  TaskId fan_out, large;
  {
    const auto engine = TaskEngine::Start(*records, {}).value();
    const auto submit = [&](TaskSpec spec) {
      std::promise<absl::StatusOr<TaskSubmitted>> promise;
      engine->Submit({"anna", "", std::move(spec)},
                     [&](absl::StatusOr<TaskSubmitted> task) { promise.set_value(std::move(task)); });
      return promise.get_future().get().value().state.id;
    };
    const TaskLimits limits;
    TaskSpec spec{.executor = kFanout};
    for (size_t c = 0; c < 300; ++c)
      spec.children.push_back({.executor = "command", .input = std::string(limits.input_bytes / 400, 'c')});
    fan_out = submit(spec);
    std::vector<std::promise<absl::Status>> all(8);
    for (auto& one : all)
      engine->Submit({"anna", "", {.executor = "model", .input = std::string(limits.input_bytes - 100, 'i')}},
                     [&](const absl::StatusOr<TaskSubmitted>& task) { one.set_value(task.status()); });
    for (auto& one : all) EXPECT_TRUE(one.get_future().get().ok());
    int taken = 0;
    while (taken < 300) {
      std::promise<absl::Status> over;
      engine->Await(
          "w", "node", {{"command", "*"}}, std::chrono::seconds(60),
          [&](absl::StatusOr<std::optional<TaskAssignment>> given) {
            if (!given.ok() || !given->has_value()) return over.set_value(given.status());
            ++taken;
            TaskReport report;
            for (size_t e = 0; e < limits.report_events; ++e)
              report.items.push_back({TaskEventKind::kOutput, "stdout",
                                      std::string(limits.report_bytes / limits.report_events, 'o')});
            if (taken > 3) report.items.resize(1);
            engine->Succeed((*given)->token, report, taken == 1 ? std::string(limits.result_bytes, 'r') : "",
                            [&](const absl::Status& s) { over.set_value(s); });
          });
      ASSERT_TRUE(over.get_future().get().ok());
    }
  }
  const std::unique_ptr<RecordStore> next = Make(Elect());
  const auto engine = TaskEngine::Start(*next, {}).value();
  EXPECT_EQ(engine->reader().Find({"anna", false}, fan_out).value().status, TaskStatus::kSucceeded);
  EXPECT_EQ(engine->figures().live, 8);
}

}  // namespace
}  // namespace omni
