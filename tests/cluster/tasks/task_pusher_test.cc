// Who is told is told all of it, in order, at least once, whatever his server does; and nobody else is.
#include "cluster/tasks/task_pusher.h"

#include <condition_variable>
#include <functional>
#include <future>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "store/state/database.h"
#include "store/state/record_store.h"
#include "tests/cluster/tasks/push_config.h"
#include "tests/cluster/tasks/push_receiver.h"
#include "tests/testing/temp_dir.h"

namespace omni {
namespace {

using ::testing::AnyOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::HeaderOf;
using testing::PushesTo;
using testing::PushReceiver;
using testing::RawServer;
using namespace std::chrono_literals;

class TaskPusherTest : public ::testing::Test {
 protected:
  void SetUp() override { StartEngine(); }
  void TearDown() override { Kill(); }
  void StartEngine() {
    database_ = Database::Open(temp_ / "tasks", {}).value();
    store_ = MakeDatabaseRecordStore(*database_);
    engine_ = TaskEngine::Start(*store_, {}).value();
  }
  void Kill() {
    pusher_ = nullptr;
    engine_ = nullptr;
    store_ = nullptr;
    database_ = nullptr;
  }
  void StartPusher(const std::vector<std::string>& allow, TaskPusherOptions options = {}) {
    options.config = PushesTo(allow);
    options.body = [](const TaskState& state, const TaskEvent& event) {
      if (event.kind == TaskEventKind::kOutput) return std::string();
      EXPECT_EQ(state.executor, "command");
      return absl::StrCat(event.number);
    };
    options.first = 1ms;
    options.most = 20ms;
    options.failed = [this](const std::string& server, const absl::Status& status) {
      const std::lock_guard lock(failed_mutex_);
      failed_.push_back(absl::StrCat(server, " ", status.ToString()));
      failed_changed_.notify_all();
    };
    auto pusher = TaskPusher::Start(std::move(options), *engine_);
    ASSERT_TRUE(pusher.ok()) << pusher.status();
    pusher_ = *std::move(pusher);
  }
  std::vector<std::string> AwaitFailed(size_t count) {
    std::unique_lock lock(failed_mutex_);
    EXPECT_TRUE(failed_changed_.wait_for(lock, 1min, [&] { return failed_.size() >= count; }));
    return failed_;
  }

  template <typename T, typename Call>
  T Wait(const Call& call) {
    std::promise<T> promise;
    call([&](T told) { promise.set_value(std::move(told)); });
    return promise.get_future().get();
  }
  TaskId Submit() {
    return Wait<absl::StatusOr<TaskSubmitted>>([&](const auto& done) {
             engine_->Submit({"anna", "", {.executor = "command", .target = "a"}}, done);
           })
        ->state.id;
  }
  std::string Take() {
    auto task = Wait<absl::StatusOr<std::optional<TaskAssignment>>>([&](const auto& done) {
      engine_->Await("w", "n", {{"command", "*"}}, std::chrono::minutes(1), done);
    });
    return task.ok() && task->has_value() ? (*task)->token : "";
  }
  void Output(const std::string& token) {
    TaskReport report;
    report.items.push_back({TaskEventKind::kOutput, "stdout", "x"});
    EXPECT_TRUE(Wait<absl::StatusOr<TaskLedger::Told>>([&](const auto& done) {
                  engine_->Report(token, report, done);
                }).ok());
  }
  void Succeed(const std::string& token) {
    EXPECT_TRUE(
        Wait<absl::Status>([&](const auto& told) { engine_->Succeed(token, {}, "result", told); }).ok());
  }
  TaskPush Put(const TaskId& id, const std::string& url, const std::string& name = "p", int64_t told = 0) {
    TaskPush push;
    push.task = id;
    push.name = name;
    push.url = url;
    push.token = "for me";
    push.scheme = "Bearer";
    push.credentials = "secret";
    push.told = told;
    auto put = Wait<absl::StatusOr<TaskPush>>([&](const auto& done) {
      engine_->PutPush({"anna", false}, push, done);
    });
    EXPECT_TRUE(put.ok()) << put.status();
    if (pusher_ != nullptr) pusher_->Added(*put);
    return *put;
  }
  // A task with the events 1 submitted, 2 started, 3 output, 4 over.
  TaskId DoOne() {
    const TaskId id = Submit();
    const std::string token = Take();
    Output(token);
    Succeed(token);
    return id;
  }
  // Until it is written that somebody was told.
  void AwaitTold(const TaskId& id, int64_t number) {
    for (int n = 0; n < 60'000; ++n) {
      const auto push = engine_->reader().FindPush({"anna", false}, id, "p");
      if (push.ok() && push->told >= number) return;
      std::this_thread::sleep_for(1ms);
    }
    FAIL() << "what was told is not written down";
  }

  const testing::TempDir temp_ = testing::TempDir::InMemory();
  std::unique_ptr<Database> database_;
  std::unique_ptr<RecordStore> store_;
  std::unique_ptr<TaskEngine> engine_;
  std::mutex failed_mutex_;
  std::condition_variable failed_changed_;
  std::vector<std::string> failed_;
  std::unique_ptr<TaskPusher> pusher_;
};

TEST_F(TaskPusherTest, EventsAreToldInOrderAndSigned) {
  PushReceiver receiver;
  StartPusher({receiver.url("")});
  const TaskId id = Submit();
  Put(id, receiver.url("/hook/a/"));
  const std::string token = Take();
  Output(token);
  Succeed(token);
  EXPECT_THAT(receiver.Bodies(3), ElementsAre("1", "2", "4"));
  const std::string request = receiver.Await(3)[2];
  EXPECT_TRUE(request.starts_with("POST /hook/a/ HTTP/1.1\r\n")) << request;
  EXPECT_EQ(HeaderOf(request, "Content-Type"), "application/a2a+json");
  EXPECT_EQ(HeaderOf(request, "X-A2A-Notification-Token"), "for me");
  EXPECT_EQ(HeaderOf(request, "A2A-Notification-Token"), "for me");
  EXPECT_EQ(HeaderOf(request, "Authorization"), "Bearer secret");
  const std::string time = HeaderOf(request, "Omni-Timestamp");
  EXPECT_EQ(HeaderOf(request, "Omni-Signature"), "sha256=" + SignPush("0123456789abcdef", time, "4"));
  int64_t seconds = 0;
  ASSERT_TRUE(absl::SimpleAtoi(time, &seconds));
  EXPECT_LE(std::abs(seconds - std::chrono::duration_cast<std::chrono::seconds>(
                                   std::chrono::system_clock::now().time_since_epoch())
                                   .count()),
            120);
  AwaitTold(id, 4);
}

TEST_F(TaskPusherTest, WhoFailsIsToldAgainTheSameFirst) {
  PushReceiver receiver([](int nth) {
    return nth <= 3 ? PushReceiver::Status("503 Service Unavailable") : PushReceiver::Ok();
  });
  StartPusher({receiver.url("")});
  const TaskId id = DoOne();
  Put(id, receiver.url());
  EXPECT_THAT(receiver.Bodies(6), ElementsAre("1", "1", "1", "1", "2", "4"));
  AwaitTold(id, 4);
  EXPECT_THAT(AwaitFailed(3)[0], HasSubstr("it answered 503"));
}

TEST_F(TaskPusherTest, WhoGoesAwayInTheMiddleIsToldAgain) {
  PushReceiver receiver([](int nth) { return nth == 1 ? std::vector<std::string>{} : PushReceiver::Ok(); });
  StartPusher({receiver.url("")});
  Put(DoOne(), receiver.url());
  EXPECT_THAT(receiver.Bodies(4), ElementsAre("1", "1", "2", "4"));
}

TEST_F(TaskPusherTest, WhoSaysNothingIsLeftAndHoldsUpNobody) {
  PushReceiver silent([](int nth) {
    return nth == 1 ? std::vector<std::string>{RawServer::kUntilGone} : PushReceiver::Ok();
  });
  PushReceiver other;
  TaskPusherOptions options;
  options.threads = 2;
  options.of_server = 1;
  options.answer_time = 500ms;
  StartPusher({silent.url(""), other.url("")}, std::move(options));
  const TaskId id = DoOne();
  Put(id, silent.url());
  (void)silent.Await(1);
  for (int n = 0; n < 5; ++n) Put(id, silent.url(), absl::StrCat("q", n));
  Put(id, other.url(), "other");
  EXPECT_THAT(other.Bodies(3), ElementsAre("1", "2", "4"));
  EXPECT_EQ(silent.Bodies(4)[1].size(), 1u);
  EXPECT_THAT(AwaitFailed(1)[0], HasSubstr("did not answer in time"));
}

TEST_F(TaskPusherTest, ServersThatFailHaveHalfOfTheThreadsAllTogether) {
  const auto fails_then_says_nothing = [](int nth) {
    return nth == 1 ? PushReceiver::Status("500 Internal Server Error")
                    : std::vector<std::string>{RawServer::kUntilGone};
  };
  PushReceiver one(fails_then_says_nothing), two(fails_then_says_nothing), other;
  TaskPusherOptions options;
  options.threads = 2;
  options.answer_time = 10min;  // nobody is waited for less long than this test
  StartPusher({one.url(""), two.url(""), other.url("")}, std::move(options));
  const TaskId id = DoOne();
  Put(id, one.url(), "one");
  Put(id, two.url(), "two");
  (void)AwaitFailed(2);
  Put(id, other.url(), "other");
  EXPECT_THAT(other.Bodies(3), ElementsAre("1", "2", "4"));
  pusher_ = nullptr;  // before those who say nothing until it goes
}

TEST_F(TaskPusherTest, EachEventHasItsOwnTimeUntilItIsGivenUp) {
  PushReceiver receiver([](int nth) {
    // The first event gets through after longer than one is tried for; then the second one fails.
    if (nth == 2) std::this_thread::sleep_for(400ms);
    return nth == 1 || nth == 3 ? PushReceiver::Status("500 Internal Server Error") : PushReceiver::Ok();
  });
  TaskPusherOptions options;
  options.give_up = 300ms;
  StartPusher({receiver.url("")}, std::move(options));
  Put(DoOne(), receiver.url());
  EXPECT_THAT(receiver.Bodies(5), ElementsAre("1", "1", "2", "2", "4"));
}

TEST_F(TaskPusherTest, ARedirectionIsNotFollowed) {
  PushReceiver elsewhere;
  const std::string location = "Location: " + elsewhere.url() + "\r\n";
  PushReceiver receiver([&](int nth) {
    return nth <= 2
               ? PushReceiver::Status(nth == 1 ? "307 Temporary Redirect" : "301 Moved Permanently", location)
               : PushReceiver::Ok();
  });
  StartPusher({receiver.url(""), elsewhere.url("")});
  Put(DoOne(), receiver.url());
  EXPECT_THAT(receiver.Bodies(5), ElementsAre("1", "1", "1", "2", "4"));
  EXPECT_EQ(elsewhere.count(), 0u);
  EXPECT_THAT(AwaitFailed(2)[0], HasSubstr("307"));
}

TEST_F(TaskPusherTest, WhatWasNotToldBeforeARestartIsToldAfterIt) {
  PushReceiver away([](int) { return PushReceiver::Status("500 Internal Server Error"); });
  StartPusher({away.url("")});
  const TaskId id = DoOne();
  Put(id, away.url());
  (void)AwaitFailed(1);
  Kill();
  StartEngine();
  PushReceiver back;
  // The same, at the address that he has now: records keep what was told of a URL.
  ASSERT_TRUE(Wait<absl::Status>([&](const auto& told) {
                engine_->DeletePush({"anna", false}, id, "p", told);
              }).ok());
  Put(id, back.url());
  StartPusher({back.url("")});
  EXPECT_THAT(back.Bodies(3), ElementsAre("1", "2", "4"));
  AwaitTold(id, 4);
}

TEST_F(TaskPusherTest, WhatWasToldBeforeARestartIsNotToldAgain) {
  PushReceiver receiver;
  StartPusher({receiver.url("")});
  const TaskId id = Submit();
  Put(id, receiver.url());
  const std::string token = Take();
  (void)receiver.Await(2);
  AwaitTold(id, 2);
  Kill();
  StartEngine();
  StartPusher({receiver.url("")});
  ASSERT_TRUE(Wait<absl::StatusOr<TaskState>>([&](const auto& done) {
                engine_->Cancel({"anna", false}, id, done);
              }).ok());
  EXPECT_THAT(receiver.Bodies(3), ElementsAre("1", "2", "3"));
}

TEST_F(TaskPusherTest, ANameThatLeadsToThisMachineIsNotFollowed) {
  PushReceiver receiver;
  const std::string port = receiver.url("").substr(receiver.url("").rfind(':'));
  TaskPusherOptions options;
  std::atomic<int> asked{0};
  options.find_host = [&](const std::string& host) -> absl::StatusOr<std::vector<std::string>> {
    EXPECT_EQ(host, "hooks.example.com");
    ++asked;
    return std::vector<std::string>{"127.0.0.1", "::1", "192.168.0.1"};
  };
  StartPusher({"http://hooks.example.com" + port}, std::move(options));
  Put(DoOne(), "http://hooks.example.com" + port + "/hook");
  EXPECT_THAT(AwaitFailed(2)[1], HasSubstr("all of its addresses are this machine's"));
  EXPECT_EQ(receiver.count(), 0u);
  EXPECT_GE(asked, 2) << "once for each try";
}

TEST_F(TaskPusherTest, WhoIsAllowedNoMoreIsToldNoMore) {
  PushReceiver receiver;
  const TaskId id = DoOne();
  Put(id, receiver.url());
  StartPusher({"http://127.0.0.1:1"});
  EXPECT_THAT(AwaitFailed(1)[0], HasSubstr("not among the addresses"));
  EXPECT_EQ(receiver.count(), 0u);
}

TEST_F(TaskPusherTest, WhoFailsForTooLongIsGivenUpAndTheRecordSaysSo) {
  PushReceiver receiver([](int) { return PushReceiver::Status("500 Internal Server Error"); });
  TaskPusherOptions options;
  options.give_up = 1ms;
  StartPusher({receiver.url("")}, std::move(options));
  const TaskId id = DoOne();
  Put(id, receiver.url());
  AwaitTold(id, 4);
  EXPECT_GE(receiver.count(), 4u);
}

TEST_F(TaskPusherTest, WhoeverIsDeletedOrPurgedIsToldNoMore) {
  PushReceiver receiver([](int) { return PushReceiver::Status("500 Internal Server Error"); });
  StartPusher({receiver.url("")});
  const TaskId one = DoOne(), two = DoOne();
  Put(one, receiver.url());
  Put(two, receiver.url());
  (void)AwaitFailed(2);
  ASSERT_TRUE(Wait<absl::Status>([&](const auto& told) {
                engine_->DeletePush({"anna", false}, one, "p", told);
              }).ok());
  ASSERT_TRUE(Wait<absl::Status>([&](const auto& told) { engine_->Purge({"anna", false}, two, told); }).ok());
  // What is tried when these last is the last; another's telling shows that the threads have gone on.
  PushReceiver other;
  pusher_ = nullptr;
  const size_t before = receiver.count();
  StartPusher({receiver.url(""), other.url("")});
  Put(DoOne(), other.url());
  EXPECT_THAT(other.Bodies(3), ElementsAre("1", "2", "4"));
  EXPECT_EQ(receiver.count(), before);
}

}  // namespace
}  // namespace omni
