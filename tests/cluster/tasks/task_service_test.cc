// What omni.tasks.v1 answers, each call once and wrongly.
#include <set>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>

#include "cluster/grpc_access.h"
#include "tests/cluster/tasks/tasks_fixture.h"

namespace omni::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Stub = pb::SwarmTasks::Stub;
using TaskServiceTest = TasksFixture;

TEST_F(TaskServiceTest, ATaskIsHandedInOnceAndDescribedWhole) {
  pb::SubmitTaskRequest request = Command("sort", "monday");
  (*request.mutable_spec()->mutable_labels())["team"] = "blue";
  auto& command = *request.mutable_spec()->mutable_work()->mutable_command();
  for (int i = 0; i < 20; ++i) (*command.mutable_environment())[absl::StrCat("V", i)] = "value";
  request.mutable_spec()->mutable_run_timeout()->set_seconds(9);
  const std::string id = Submit(request);
  const auto again = Call(&Stub::SubmitTask, request);
  EXPECT_TRUE(again.existed()) << "a map's order is no part of what is handed in: " << last_.error_message();
  EXPECT_EQ(again.task().id(), id);
  command.set_program("uniq");
  Call(&Stub::SubmitTask, request);
  ExpectError(StatusCode::ALREADY_EXISTS, "IDEMPOTENCY_KEY_REUSED");

  pb::Task task = Get(id);
  EXPECT_EQ(task.status(), pb::QUEUED);
  EXPECT_EQ(task.executor(), "command");
  EXPECT_EQ(task.target(), "sort");
  EXPECT_EQ(task.labels().at("team"), "blue");
  EXPECT_EQ(task.spec().work().command().environment_size(), 20);
  EXPECT_EQ(task.spec().run_timeout().seconds(), 9);
  EXPECT_EQ(task.spec().retry().attempts(), 3);
  const TaskAssignment given = Take().value();
  pb::Work work;
  ASSERT_TRUE(work.ParseFromString(given.work.input));
  EXPECT_EQ(work.command().program(), "sort");
  Succeed(given.token, std::string("\xff\0x", 3));
  task = Get(id);
  EXPECT_EQ(task.status(), pb::SUCCEEDED);
  EXPECT_EQ(task.result(), std::string("\xff\0x", 3));
  EXPECT_EQ(task.node(), "n1");
}

TEST_F(TaskServiceTest, WhatIsWrongIsNamed) {
  const auto refused = [&](const std::function<void(pb::TaskSpec&)>& change, const char* part) {
    pb::SubmitTaskRequest request = Command("sort");
    change(*request.mutable_spec());
    Call(&Stub::SubmitTask, request);
    ExpectError(StatusCode::INVALID_ARGUMENT, "INVALID_ARGUMENT");
    EXPECT_THAT(last_.error_message(), HasSubstr(part));
  };
  refused([](auto& s) { s.clear_work(); }, "spec.work says nothing");
  refused([](auto& s) { s.mutable_work()->mutable_command()->clear_program(); }, "spec.work.command.program");
  refused([](auto& s) { s.mutable_work()->mutable_command()->add_arguments(std::string("a\0b", 3)); },
          "spec.work.command.arguments[0]");
  refused([](auto& s) { (*s.mutable_work()->mutable_command()->mutable_environment())["a=b"] = ""; },
          "environment['a=b']");
  refused([](auto& s) { s.mutable_work()->mutable_command()->set_program("*"); }, "target is '*'");
  refused([](auto& s) { s.mutable_work()->mutable_model()->set_temperature(-1); }, "spec.work.model");
  refused([](auto& s) { s.mutable_work()->mutable_model()->add_stops(""); }, "spec.work.model.stops");
  refused([](auto& s) { s.mutable_work()->mutable_agent()->set_agent("zero"); }, "spec.work.agent.message");
  refused([](auto& s) { s.mutable_work()->mutable_job()->set_verb("serve"); }, "spec.work.job.verb");
  refused([](auto& s) { s.mutable_work()->mutable_fan_out(); }, "spec.work.fan_out.children");
  refused(
      [](auto& s) {
        auto& child = *s.mutable_work()->mutable_fan_out()->add_children();
        child.mutable_work()->mutable_fan_out()->add_children();
      },
      "children[0].work.fan_out stands in another");
  refused([](auto& s) { s.mutable_run_timeout()->set_seconds(-1); }, "spec.run_timeout");
  refused([](auto& s) { s.mutable_retain()->set_seconds(int64_t{1} << 40); }, "spec.retain");
  refused([](auto& s) { s.mutable_not_before()->set_nanos(-1); }, "spec.not_before");
  refused([](auto& s) { s.mutable_retry()->set_factor(0); }, "factor");
  refused([](auto& s) { s.set_priority(101); }, "priority is 101");
  refused([](auto& s) { s.mutable_work()->mutable_command()->set_input(std::string(1 << 20, 'x')); },
          "input has");
}

TEST_F(TaskServiceTest, OfABatchEachIsAcceptedOrRefusedInItsPlace) {
  pb::SubmitBatchRequest request;
  for (int i = 0; i < 100; ++i) *request.add_tasks() = Command(i == 7 ? "" : "sort");
  const auto before = engine_->figures().syncs;
  const auto response = Call(&Stub::SubmitBatch, request);
  ASSERT_TRUE(last_.ok()) << last_.error_message();
  ASSERT_EQ(response.results_size(), 100);
  std::set<std::string> ids;
  for (int i = 0; i < 100; ++i) {
    if (i == 7) {
      EXPECT_EQ(response.results(i).refused().code(), StatusCode::INVALID_ARGUMENT);
      EXPECT_EQ(response.results(i).refused().reason(), "INVALID_ARGUMENT");
      EXPECT_THAT(response.results(i).refused().message(), HasSubstr("tasks[7].spec.work.command.program"));
    } else {
      ids.insert(response.results(i).accepted().task().id());
    }
  }
  EXPECT_EQ(ids.size(), 99u);
  EXPECT_LT(engine_->figures().syncs - before, 99) << "they share what makes them last";
  EXPECT_EQ(Call(&Stub::SubmitBatch, pb::SubmitBatchRequest()).results_size(), 0);
  EXPECT_TRUE(last_.ok());
  while (request.tasks_size() <= 1000) *request.add_tasks() = Command("sort");
  Call(&Stub::SubmitBatch, request);
  ExpectError(StatusCode::INVALID_ARGUMENT, "BATCH_TOO_LARGE");
}

TEST_F(TaskServiceTest, ListsHavePagesAndFilters) {
  std::vector<std::string> ids;
  for (int i = 0; i < 5; ++i) {
    pb::SubmitTaskRequest request = Command("sort");
    request.mutable_spec()->set_context(i % 2 == 0 ? "even" : "odd");
    ids.push_back(Submit(request));
  }
  pb::ListTasksRequest list;
  list.set_page_size(2);
  std::set<std::string> seen;
  int pages = 0;
  do {
    const auto page = Call(&Stub::ListTasks, list);
    ASSERT_TRUE(last_.ok()) << last_.error_message();
    EXPECT_LE(page.tasks_size(), 2);
    for (const pb::Task& task : page.tasks()) seen.insert(task.id());
    list.set_page_token(page.next_page_token());
    ++pages;
  } while (!list.page_token().empty());
  EXPECT_EQ(seen, std::set<std::string>(ids.begin(), ids.end()));
  EXPECT_GE(pages, 3);
  list.Clear();
  list.set_context("odd");
  EXPECT_EQ(Call(&Stub::ListTasks, list).tasks_size(), 2);
  list.add_statuses(pb::RUNNING);
  EXPECT_EQ(Call(&Stub::ListTasks, list).tasks_size(), 0);
  list.add_statuses(pb::TASK_STATUS_UNSPECIFIED);
  Call(&Stub::ListTasks, list);
  ExpectError(StatusCode::INVALID_ARGUMENT, "INVALID_ARGUMENT");
  list.Clear();
  list.set_page_token("none");
  Call(&Stub::ListTasks, list);
  ExpectError(StatusCode::INVALID_ARGUMENT, "INVALID_ARGUMENT");

  Fail(Take()->token, "invalid", "bad input \xff");
  const auto dead = Call(&Stub::ListDeadLetters, pb::ListDeadLettersRequest());
  ASSERT_EQ(dead.tasks_size(), 1);
  EXPECT_EQ(dead.tasks(0).error(), "invalid");
  EXPECT_EQ(dead.tasks(0).message(), "bad input \xef\xbf\xbd");
}

TEST_F(TaskServiceTest, ATaskIsCancelledRetriedAndPurgedWhenItMay) {
  const std::string id = Submit(Command("sort"));
  Call(&Stub::RetryTask, Of<pb::RetryTaskRequest>(id));
  ExpectError(StatusCode::FAILED_PRECONDITION, "TASK_HAS_NOT_FAILED");
  Call(&Stub::PurgeTask, Of<pb::PurgeTaskRequest>(id));
  ExpectError(StatusCode::FAILED_PRECONDITION, "TASK_IS_NOT_OVER");
  EXPECT_EQ(Call(&Stub::CancelTask, Of<pb::CancelTaskRequest>(id)).status(), pb::CANCELLED);
  Call(&Stub::CancelTask, Of<pb::CancelTaskRequest>(id));
  ExpectError(StatusCode::FAILED_PRECONDITION, "TASK_IS_OVER");
  EXPECT_EQ(Call(&Stub::RetryTask, Of<pb::RetryTaskRequest>(id)).status(), pb::QUEUED);
  Succeed(Take()->token, "");
  Call(&Stub::PurgeTask, Of<pb::PurgeTaskRequest>(id));
  EXPECT_TRUE(last_.ok()) << last_.error_message();
  Get(id);
  ExpectError(StatusCode::NOT_FOUND, "TASK_NOT_FOUND");
}

TEST_F(TaskServiceTest, SchedulesAreKeptByTheirNames) {
  pb::PutScheduleRequest put;
  put.mutable_schedule()->set_name("nightly");
  put.mutable_schedule()->set_cron("@daily");
  *put.mutable_schedule()->mutable_spec() = Command("sort").spec();
  const pb::Schedule kept = Call(&Stub::PutSchedule, put);
  ASSERT_TRUE(last_.ok()) << last_.error_message();
  EXPECT_TRUE(kept.has_next());
  EXPECT_EQ(kept.spec().work().command().program(), "sort");
  put.mutable_schedule()->set_cron("never");
  Call(&Stub::PutSchedule, put);
  ExpectError(StatusCode::INVALID_ARGUMENT, "INVALID_ARGUMENT");
  put.mutable_schedule()->set_cron("@hourly");
  std::set<std::string> names = {"nightly"};
  for (int i = 0; i < 120; ++i) {
    names.insert(absl::StrCat("n", i));
    put.mutable_schedule()->set_name(absl::StrCat("n", i));
    Call(&Stub::PutSchedule, put);
    ASSERT_TRUE(last_.ok()) << last_.error_message();
  }
  std::set<std::string> seen;
  pb::ListSchedulesRequest list;
  do {
    const auto page = Call(&Stub::ListSchedules, list);
    ASSERT_TRUE(last_.ok()) << last_.error_message();
    for (const pb::Schedule& schedule : page.schedules()) seen.insert(schedule.name());
    list.set_page_token(page.next_page_token());
  } while (!list.page_token().empty());
  EXPECT_EQ(seen, names);
  list.set_page_token("no page");
  Call(&Stub::ListSchedules, list);
  ExpectError(StatusCode::INVALID_ARGUMENT, "INVALID_ARGUMENT");
  pb::DeleteScheduleRequest drop;
  drop.set_name("nightly");
  Call(&Stub::DeleteSchedule, drop);
  EXPECT_TRUE(last_.ok()) << last_.error_message();
  Call(&Stub::DeleteSchedule, drop);
  ExpectError(StatusCode::NOT_FOUND, "SCHEDULE_NOT_FOUND");
}

TEST_F(TaskServiceTest, WhoDoesTheWorkIsListed) {
  const auto executors = Call(&Stub::ListExecutors, pb::ListExecutorsRequest());
  ASSERT_EQ(executors.executors_size(), 1);
  EXPECT_EQ(executors.executors(0).executor(), "command");
  EXPECT_EQ(executors.executors(0).slots(), 4);
}

TEST_F(TaskServiceTest, ANodeThatKeepsNoTasksSaysWhoDoes) {
  const std::string id = Submit(Command("sort"));
  serving_ = absl::UnavailableError("this node does not coordinate");
  elsewhere_ = "10.0.0.1:7300";
  Get(id);
  ExpectError(StatusCode::UNAVAILABLE, "NOT_LEADING");
  EXPECT_EQ(DetailsOf(last_).metadata["coordinator"], elsewhere_);
  EXPECT_TRUE(DetailsOf(last_).retry.has_value());
  EXPECT_EQ(trailing_["omni-coordinator"], elsewhere_);
  last_ = Watch(id).status;
  ExpectError(StatusCode::UNAVAILABLE, "NOT_LEADING");
}

TEST_F(TaskServiceTest, AServerThatIsBeingStoppedTakesNothingAndTellsTheRest) {
  const std::string id = Submit(Command("sort"));
  engine_->Drain();
  Call(&Stub::SubmitTask, Command("sort"));
  ExpectError(StatusCode::UNAVAILABLE, "UNAVAILABLE");
  EXPECT_EQ(Get(id).status(), pb::QUEUED);
}

// --- Who sees what

class TaskCallersTest : public TasksFixture {
 protected:
  void SetUp() override {
    MakeKey("anna", Scope::kTasks);
    MakeKey("bert", Scope::kTasks);
    MakeKey("root", Scopes(Scope::kTasks) | Scope::kAdmin);
    Start();
    Be("anna");
  }
};

// Else whoever asks another node than the one that leads would see everybody's.
TEST_F(TaskCallersTest, WhatIsAskedForSomebodyElseShowsNoMoreThanThatOneMaySee) {
  const std::string id = Submit(Command("sort"));
  Be("root");
  const auto get = [&](const std::vector<std::string>& metadata) {
    const auto context = Context();
    for (const std::string& name : metadata) context->AddMetadata(name, "1");
    pb::Task task;
    return stub_->GetTask(context.get(), Of<pb::GetTaskRequest>(id), &task).error_code();
  };
  EXPECT_EQ(get({}), StatusCode::OK);
  EXPECT_EQ(get({kForwardedMetadata}), StatusCode::NOT_FOUND);
  EXPECT_EQ(get({kForwardedMetadata, kForwardedAllMetadata}), StatusCode::OK);
  Be("bert");
  EXPECT_EQ(get({kForwardedMetadata, kForwardedAllMetadata}), StatusCode::NOT_FOUND);
}

TEST_F(TaskCallersTest, AnothersTaskIsAsGoodAsNoneInEveryCall) {
  const std::string live = Submit(Command("sort")), over = Submit(Command("sort"));
  Call(&Stub::CancelTask, Of<pb::CancelTaskRequest>(over));
  pb::PutScheduleRequest put;
  put.mutable_schedule()->set_name("nightly");
  put.mutable_schedule()->set_cron("@daily");
  *put.mutable_schedule()->mutable_spec() = Command("sort").spec();
  Call(&Stub::PutSchedule, put);
  ASSERT_TRUE(last_.ok()) << last_.error_message();
  Be("bert");
  const std::string none(32, '0');
  for (const std::string& id : {live, over}) {
    const auto expect_none = [&](const grpc::Status& theirs, const grpc::Status& nobodys) {
      last_ = theirs;
      ExpectError(StatusCode::NOT_FOUND, "TASK_NOT_FOUND");
      // And but for the id in the same words.
      std::string message = theirs.error_message();
      const size_t at = message.find(id);
      ASSERT_NE(at, std::string::npos) << message;
      EXPECT_EQ(message.replace(at, id.size(), none), nobodys.error_message());
    };
    const auto call = [&](auto method, auto request) {
      request.set_id(none);
      Call(method, request);
      const grpc::Status nobodys = last_;
      request.set_id(id);
      Call(method, request);
      expect_none(last_, nobodys);
    };
    call(&Stub::GetTask, pb::GetTaskRequest());
    call(&Stub::CancelTask, pb::CancelTaskRequest());
    call(&Stub::RetryTask, pb::RetryTaskRequest());
    call(&Stub::PurgeTask, pb::PurgeTaskRequest());
    expect_none(Watch(id).status, Watch(none).status);
    expect_none(Watch(id, 1000).status, Watch(none, 1000).status);
  }
  EXPECT_EQ(Call(&Stub::ListTasks, pb::ListTasksRequest()).tasks_size(), 0);
  pb::ListTasksRequest children;
  children.set_parent(live);
  EXPECT_EQ(Call(&Stub::ListTasks, children).tasks_size(), 0);
  EXPECT_EQ(Call(&Stub::ListDeadLetters, pb::ListDeadLettersRequest()).tasks_size(), 0);
  EXPECT_EQ(Call(&Stub::ListSchedules, pb::ListSchedulesRequest()).schedules_size(), 0);
  pb::DeleteScheduleRequest drop;
  drop.set_name("nightly");
  Call(&Stub::DeleteSchedule, drop);
  ExpectError(StatusCode::NOT_FOUND, "SCHEDULE_NOT_FOUND");

  Be("root");
  EXPECT_EQ(Get(live).caller(), "anna");
  EXPECT_EQ(Call(&Stub::ListTasks, pb::ListTasksRequest()).tasks_size(), 2);
  EXPECT_EQ(Call(&Stub::ListSchedules, pb::ListSchedulesRequest()).schedules_size(), 1);
  EXPECT_EQ(Call(&Stub::CancelTask, Of<pb::CancelTaskRequest>(live)).status(), pb::CANCELLED);
}

TEST_F(TaskCallersTest, AKeyOfOneCallerIsNotAnothers) {
  const std::string annas = Submit(Command("sort", "k"));
  Be("bert");
  EXPECT_NE(Submit(Command("sort", "k")), annas);
}

TEST_F(TaskCallersTest, WithoutAKeyNothingIsSaid) {
  Be("");
  Get("x");
  EXPECT_EQ(last_.error_code(), StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(Watch("x").status.error_code(), StatusCode::UNAUTHENTICATED);
}

TEST_F(TaskServiceTest, AnArtifactIsFoundByItsTaskAndReadFromItsNode) {
  Stop();
  std::vector<std::string> asked;
  absl::StatusOr<ArtifactPiece> answer = ArtifactPiece{"bytes", 5};
  options_.artifact = [&](const std::string& node, const std::string& where, int64_t offset,
                          const std::function<void(absl::StatusOr<ArtifactPiece>)>& done) {
    asked.push_back(absl::StrCat(node, " ", where, " ", offset));
    done(answer);
  };
  Start();
  const std::string id = Submit(Command("sort"));
  const TaskAssignment given = Take().value();
  TaskReport report;
  report.items = {{TaskEventKind::kArtifact, "a", "sha256:01"},
                  {TaskEventKind::kOutput, "a", "no artifact"},
                  {TaskEventKind::kArtifact, "b", "sha256:02"},
                  {TaskEventKind::kArtifact, "a", "sha256:03"}};
  std::promise<absl::Status> reported;
  engine_->Report(given.token, report, [&](auto told) { reported.set_value(told.status()); });
  ASSERT_TRUE(reported.get_future().get().ok());
  const auto get = [&](const std::string& name, int64_t event = 0, int64_t offset = 0) {
    pb::GetArtifactRequest request;
    request.set_id(id);
    request.set_name(name);
    request.set_event(event);
    request.set_offset(offset);
    return Call(&Stub::GetArtifact, request);
  };
  const pb::GetArtifactResponse last = get("a");
  EXPECT_EQ(last.data(), "bytes") << last_.error_message();
  EXPECT_EQ(last.size(), 5);
  EXPECT_EQ(last.sha256(), "03");
  EXPECT_EQ(last.node(), "n1");
  EXPECT_EQ(last.event(), 6);
  EXPECT_EQ(get("", 3, 7).sha256(), "01");
  EXPECT_THAT(asked, ElementsAre("n1 sha256:03 0", "n1 sha256:01 7"));
  get("c");
  ExpectError(StatusCode::NOT_FOUND, "ARTIFACT_NOT_FOUND");
  get("", 4);
  ExpectError(StatusCode::NOT_FOUND, "ARTIFACT_NOT_FOUND");
  answer = absl::NotFoundError("it is no more");
  get("a");
  ExpectError(StatusCode::NOT_FOUND, "ARTIFACT_LOST");
  answer = absl::DataLossError("it is damaged");
  get("a");
  EXPECT_EQ(last_.error_code(), StatusCode::DATA_LOSS);
  pb::GetArtifactRequest none;
  none.set_id("none");
  Call(&Stub::GetArtifact, none);
  ExpectError(StatusCode::NOT_FOUND, "TASK_NOT_FOUND");
}

}  // namespace
}  // namespace omni::testing
