// Calls for whose answer there is no memory.
#include <atomic>
#include <new>
#include <string>
#include <utility>

#include <gmock/gmock.h>

#include "tests/cluster/tasks/tasks_fixture.h"

namespace omni::testing {
namespace {

using ::testing::HasSubstr;

class TaskMemoryTest : public TasksFixture {
 protected:
  // The database's, but of one task, whom no record of it can be read into memory for.
  class Store final : public RecordStore {
   public:
    Store(std::unique_ptr<RecordStore> of, TaskMemoryTest& test) : of_(std::move(of)), test_(test) {}
    absl::Status Write(const RecordWrites& writes) override { return of_->Write(writes); }
    absl::Status Recover() override { return of_->Recover(); }
    size_t max_changes() const override { return of_->max_changes(); }
    size_t max_bytes() const override { return of_->max_bytes(); }
    absl::StatusOr<std::optional<std::string>> Get(std::string_view key) const override {
      if (test_.refuses_ && key.ends_with(test_.task_)) throw std::bad_alloc();
      return of_->Get(key);
    }
    absl::Status Scan(std::string_view prefix, std::string_view from,
                      const RecordVisitor& visit) const override {
      return of_->Scan(prefix, from, visit);
    }

   private:
    const std::unique_ptr<RecordStore> of_;
    const TaskMemoryTest& test_;
  };
  std::unique_ptr<RecordStore> MakeStore(std::unique_ptr<RecordStore> of) override {
    return std::make_unique<Store>(std::move(of), *this);
  }
  static void ExpectNoMemory(const grpc::Status& status) {
    EXPECT_EQ(status.error_code(), StatusCode::RESOURCE_EXHAUSTED);
    EXPECT_THAT(status.error_message(), HasSubstr("there is no memory for this call"));
  }
  pb::GetArtifactResponse Artifact() {
    pb::GetArtifactRequest request;
    request.set_id(task_);
    request.set_name("a");
    return Call(&pb::SwarmTasks::Stub::GetArtifact, request);
  }

  std::string task_;
  std::atomic<bool> refuses_{false};
};

TEST_F(TaskMemoryTest, WhatThereIsNoMemoryForEndsItsCallAndNothingElse) {
  Stop();
  bool throws = false;
  options_.artifact = [&](const std::string&, const std::string&, int64_t, const auto& done) {
    done(ArtifactPiece{"bytes", 5});
    if (throws) throw std::bad_alloc();
  };
  Start();
  task_ = Submit(Command("sort"));
  TaskReport report;
  report.items = {{TaskEventKind::kArtifact, "a", "sha256:01"}};
  std::promise<absl::Status> reported;
  engine_->Report(Take().value().token, report, [&](auto told) { reported.set_value(told.status()); });
  ASSERT_TRUE(reported.get_future().get().ok());
  const std::string other = Submit(Command("sort"));

  refuses_ = true;
  Get(task_);
  ExpectNoMemory(last_);
  ExpectNoMemory(Watch(task_).status);
  Artifact();
  ExpectNoMemory(last_);
  EXPECT_EQ(Get(other).id(), other) << last_.error_message();
  refuses_ = false;
  EXPECT_EQ(Get(task_).id(), task_) << last_.error_message();
  EXPECT_EQ(Watch(task_, 0, 2).events.size(), 2u);
  EXPECT_EQ(Artifact().data(), "bytes") << last_.error_message();
  // Whoever has been answered is not answered again.
  throws = true;
  EXPECT_EQ(Artifact().data(), "bytes") << last_.error_message();
  throws = false;
  EXPECT_EQ(Artifact().data(), "bytes") << last_.error_message();
}

}  // namespace
}  // namespace omni::testing
