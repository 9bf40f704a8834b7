// Streams of a task's events: whole, in order, from any number on, whatever the client and the server do.
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>

#include "tests/cluster/tasks/tasks_fixture.h"

namespace omni::testing {
namespace {

using ::testing::HasSubstr;
using Stub = pb::SwarmTasks::Stub;

class TaskWatchTest : public TasksFixture {
 protected:
  static void ExpectGapless(const Watched& watched, int64_t after) {
    for (const pb::TaskEvent& event : watched.events) EXPECT_EQ(event.number(), ++after);
  }
  // What is over here may still be counted there.
  bool NoneOpen() {
    const auto until = std::chrono::steady_clock::now() + std::chrono::minutes(1);
    while (service_->watches() > 0 && std::chrono::steady_clock::now() < until) std::this_thread::yield();
    return service_->watches() == 0;
  }
};

// What a stream told of one event it told of the next ones too, so that they read otherwise later.
TEST_F(TaskWatchTest, AnEventIsToldTheSameWhereverItsStreamBegins) {
  pb::SubmitTaskRequest request = Command("sort");
  request.mutable_spec()->mutable_retry()->mutable_first_wait()->set_nanos(1'000'000);
  const std::string id = Submit(request);
  Fail(Take().value().token, "exit", "code 1");
  std::optional<TaskAssignment> again;
  while (!again.has_value()) again = Take();
  Report(again->token, {"output"});
  Succeed(again->token, "r");
  const Watched whole = Watch(id);
  ASSERT_EQ(whole.events.size(), 6u);
  for (const pb::TaskEvent& event : whole.events)
    EXPECT_EQ(event.has_ready(), event.kind() == pb::TaskEvent::ATTEMPT_FAILED) << event.ShortDebugString();
  for (int64_t after = 0; after < 6; ++after) {
    const Watched rest = Watch(id, after);
    ASSERT_EQ(rest.events.size(), static_cast<size_t>(6 - after));
    for (size_t i = 0; i < rest.events.size(); ++i)
      EXPECT_EQ(rest.events[i].SerializeAsString(),
                whole.events[i + static_cast<size_t>(after)].SerializeAsString());
  }
}

TEST_F(TaskWatchTest, TellsWhatWasThenWhatComesAndEndsWithTheTask) {
  const std::string id = Submit(Command("sort"));
  std::promise<void> first;
  Watched watched;
  std::thread watcher([&] {
    pb::WatchTaskRequest request;
    request.set_id(id);
    const auto context = Context();
    const auto reader = stub_->WatchTask(context.get(), request);
    pb::TaskEvent event;
    while (reader->Read(&event)) {
      watched.events.push_back(event);
      if (watched.events.size() == 1) first.set_value();
    }
    watched.status = reader->Finish();
  });
  first.get_future().wait();
  const TaskAssignment given = Take().value();
  for (int i = 0; i < 300; ++i) Report(given.token, {absl::StrCat(i)});
  Succeed(given.token, "r");
  watcher.join();
  EXPECT_TRUE(watched.status.ok()) << watched.status.error_message();
  ASSERT_EQ(watched.events.size(), 303u);
  ExpectGapless(watched, 0);
  EXPECT_EQ(watched.events[0].kind(), pb::TaskEvent::SUBMITTED);
  EXPECT_EQ(watched.events[1].kind(), pb::TaskEvent::STARTED);
  for (int i = 0; i < 300; ++i) EXPECT_EQ(watched.events[2 + i].data(), absl::StrCat(i));
  EXPECT_EQ(watched.events.back().kind(), pb::TaskEvent::OVER);
  EXPECT_EQ(watched.events.back().status(), pb::SUCCEEDED);
  EXPECT_EQ(watched.events.back().task(), id);
  EXPECT_TRUE(NoneOpen());
}

TEST_F(TaskWatchTest, GoesOnAfterAnyNumberOverARestart) {
  const std::string id = Submit(Command("sort"));
  const TaskAssignment given = Take().value();
  for (int i = 0; i < 10; ++i) Report(given.token, {absl::StrCat(i)});
  Succeed(given.token, "");
  const Watched whole = Watch(id);
  ASSERT_EQ(whole.events.size(), 13u);
  Restart();
  for (int64_t after = 0; after <= 13; ++after) {
    const Watched rest = Watch(id, after);
    EXPECT_TRUE(rest.status.ok()) << rest.status.error_message();
    ASSERT_EQ(rest.events.size(), static_cast<size_t>(13 - after));
    ExpectGapless(rest, after);
    for (size_t i = 0; i < rest.events.size(); ++i)
      EXPECT_EQ(rest.events[i].SerializeAsString(),
                whole.events[static_cast<size_t>(after) + i].SerializeAsString());
  }
  last_ = Watch(id, 14).status;
  ExpectError(StatusCode::OUT_OF_RANGE, "OUT_OF_RANGE");
  last_ = Watch(id, -1).status;
  ExpectError(StatusCode::INVALID_ARGUMENT, "INVALID_ARGUMENT");
}

TEST_F(TaskWatchTest, GoesOnOverAnEndThatWasTakenBack) {
  const std::string id = Submit(Command("sort"));
  Call(&Stub::CancelTask, Of<pb::CancelTaskRequest>(id));
  const int64_t end = Watch(id).events.back().number();
  Call(&Stub::RetryTask, Of<pb::RetryTaskRequest>(id));
  ASSERT_TRUE(last_.ok()) << last_.error_message();
  std::thread worker([&] { Succeed(Take()->token, ""); });
  const Watched again = Watch(id);
  worker.join();
  ExpectGapless(again, 0);
  EXPECT_GT(again.events.back().number(), end);
  EXPECT_EQ(again.events.back().status(), pb::SUCCEEDED);
}

TEST_F(TaskWatchTest, WhoDoesNotReadHoldsNobodyUpAndMissesNothing) {
  const std::string id = Submit(Command("sort"));
  pb::WatchTaskRequest request;
  request.set_id(id);
  const auto context = Context();
  const auto slow = stub_->WatchTask(context.get(), request);
  pb::TaskEvent event;
  ASSERT_TRUE(slow->Read(&event));
  const TaskAssignment given = Take().value();
  const std::string piece(60 << 10, 'x');
  for (int i = 0; i < 200; ++i) Report(given.token, {piece});  // more than any window of the transport
  Succeed(given.token, "");
  EXPECT_EQ(Watch(id).events.size(), 203u);
  int64_t number = 1;
  while (slow->Read(&event)) {
    EXPECT_EQ(event.number(), ++number);
  }
  EXPECT_EQ(number, 203);
  EXPECT_TRUE(slow->Finish().ok());
}

TEST_F(TaskWatchTest, EndsWithItsClientAndWithItsServer) {
  const std::string id = Submit(Command("sort"));
  EXPECT_EQ(Watch(id, 0, 1).status.error_code(), StatusCode::CANCELLED);
  EXPECT_TRUE(NoneOpen());
  grpc::ClientContext late;
  late.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(100));
  pb::WatchTaskRequest request;
  request.set_id(id);
  const auto reader = stub_->WatchTask(&late, request);
  pb::TaskEvent event;
  while (reader->Read(&event)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), StatusCode::DEADLINE_EXCEEDED);
  EXPECT_TRUE(NoneOpen());
  const auto context = Context();
  const auto open = stub_->WatchTask(context.get(), request);
  ASSERT_TRUE(open->Read(&event));
  service_->EndAll(absl::UnavailableError("the node is shutting down"));
  while (open->Read(&event)) {
  }
  last_ = open->Finish();
  ExpectError(StatusCode::UNAVAILABLE, "UNAVAILABLE");
  EXPECT_TRUE(DetailsOf(last_).retry.has_value());
  EXPECT_TRUE(NoneOpen());
  EXPECT_EQ(Watch(id, 0, 1).events.size(), 1u) << "whoever comes later is told";
}

TEST_F(TaskWatchTest, ThereAreOnlySoMany) {
  options_.most_watches = 1;
  Restart();
  const std::string id = Submit(Command("sort"));
  pb::WatchTaskRequest request;
  request.set_id(id);
  const auto context = Context();
  const auto first = stub_->WatchTask(context.get(), request);
  pb::TaskEvent event;
  ASSERT_TRUE(first->Read(&event));
  last_ = Watch(id).status;
  ExpectError(StatusCode::RESOURCE_EXHAUSTED, "RESOURCE_EXHAUSTED");
  context->TryCancel();
  while (first->Read(&event)) {
  }
  first->Finish();
  EXPECT_TRUE(NoneOpen());
  EXPECT_EQ(Watch(id, 0, 1).events.size(), 1u);
}

}  // namespace
}  // namespace omni::testing
