// The engine's thread: many calls with one sync, stores that fail, listeners that go, ends in the middle.
#include <atomic>
#include <condition_variable>
#include <functional>
#include <future>
#include <mutex>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "actors/task/task_engine.h"
#include "tests/testing/memory_records.h"

namespace omni {
namespace {

using testing::MemoryRecords;

// Whose writes wait until they may go on.
class GatedRecords : public MemoryRecords {
 public:
  absl::Status Write(const RecordWrites& writes) override {
    {
      std::unique_lock lock(mutex_);
      ++waiting_;
      changed_.notify_all();
      changed_.wait(lock, [&] { return open_; });
      --waiting_;
    }
    return MemoryRecords::Write(writes);
  }
  void Set(bool open) {
    const std::lock_guard lock(mutex_);
    open_ = open;
    changed_.notify_all();
  }
  void AwaitWrite() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return waiting_ > 0; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = true;
  int waiting_ = 0;
};

class TaskEngineFaultsTest : public ::testing::Test {
 protected:
  void SetUp() override { Start(); }
  void Start() {
    engine_.reset();
    TaskEngine::Options options;
    options.now = [this] { return now_.load(); };
    engine_ = TaskEngine::Start(store_, options).value();
  }
  std::future<absl::StatusOr<TaskSubmitted>> Submit(const std::string& key = "") {
    auto promise = std::make_shared<std::promise<absl::StatusOr<TaskSubmitted>>>();
    engine_->Submit({"anna", key, {.executor = "command"}},
                    [promise](absl::StatusOr<TaskSubmitted> given) { promise->set_value(std::move(given)); });
    return promise->get_future();
  }
  void Pass(TaskDuration time) {
    now_ = now_.load() + time;
    engine_->Wake();
  }

  GatedRecords store_;
  std::atomic<TaskTime> now_{TaskTime(std::chrono::hours(24 * 20'000))};
  std::unique_ptr<TaskEngine> engine_;
};

TEST_F(TaskEngineFaultsTest, WhatComesWhileTheDiskIsBusyGoesIntoTheNextSync) {
  const int64_t before = store_.writes();
  store_.Set(false);
  std::vector<std::future<absl::StatusOr<TaskSubmitted>>> answers;
  answers.push_back(Submit());
  store_.AwaitWrite();
  std::mutex mutex;
  std::vector<std::thread> threads;
  for (int t = 0; t < 64; ++t) {
    threads.emplace_back([&] {
      auto answer = Submit();
      const std::lock_guard lock(mutex);
      answers.push_back(std::move(answer));
    });
  }
  for (std::thread& thread : threads) thread.join();
  store_.Set(true);
  for (auto& answer : answers) EXPECT_TRUE(answer.get().ok());
  EXPECT_EQ(store_.writes() - before, 2);
}

TEST_F(TaskEngineFaultsTest, NobodyIsToldAnythingBeforeItLasts) {
  store_.Set(false);
  auto answer = Submit("key");
  store_.AwaitWrite();
  EXPECT_NE(answer.wait_for(std::chrono::seconds(0)), std::future_status::ready);
  EXPECT_TRUE(engine_->reader().List({"anna", false}, {}, 10, "").value().tasks.empty());
  store_.Set(true);
  const TaskId id = answer.get().value().state.id;
  EXPECT_TRUE(engine_->reader().Find({"anna", false}, id).ok());
}

TEST_F(TaskEngineFaultsTest, AFullDiskRefusesAndLosesNothingAndIsRecoveredFrom) {
  for (const bool kept : {false, true}) {
    const std::string key = kept ? "kept" : "lost";
    const TaskId before = Submit("before " + key).get().value().state.id;
    store_.Fail(absl::ResourceExhaustedError("no space"), kept);
    EXPECT_EQ(Submit(key).get().status().code(), absl::StatusCode::kResourceExhausted);
    EXPECT_EQ(Submit("other").get().status().code(), absl::StatusCode::kResourceExhausted);
    EXPECT_FALSE(engine_->figures().store.ok());
    EXPECT_TRUE(engine_->reader().Find({"anna", false}, before).ok());
    store_.Fail(absl::OkStatus(), kept);
    Pass(std::chrono::seconds(1));
    absl::StatusOr<TaskSubmitted> again = Submit(key).get();
    for (int tries = 0; tries < 10'000 && !again.ok(); ++tries) {
      Pass(std::chrono::seconds(1));
      again = Submit(key).get();
    }
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_EQ(again->again, kept);
    EXPECT_EQ(engine_->reader().List({"anna", false}, {}, 100, "").value().tasks.size(), kept ? 4u : 2u);
    EXPECT_TRUE(engine_->figures().store.ok());
  }
}

TEST_F(TaskEngineFaultsTest, WhatIsCountedOfAWriteThatFailsIsGivenBack) {
  ASSERT_TRUE(Submit().get().ok());
  const auto cancel = [&](const TaskId& id) {
    std::promise<absl::Status> told;
    engine_->Cancel({"anna", false}, id,
                    [&](const absl::StatusOr<TaskState>& given) { told.set_value(given.status()); });
    return told.get_future().get();
  };
  const auto queued = [&] {
    return engine_->figures().counts.by_status[static_cast<size_t>(TaskStatus::kQueued)];
  };
  const TaskId id = Submit().get().value().state.id;
  store_.Fail(absl::UnavailableError("disk"), false);
  EXPECT_TRUE(absl::IsUnavailable(cancel(id)));
  EXPECT_EQ(engine_->figures().counts.cancelled, 0);
  EXPECT_EQ(queued(), 2);
  store_.Fail(absl::OkStatus(), false);
  absl::Status again = absl::UnavailableError("");
  for (int tries = 0; tries < 10'000 && absl::IsUnavailable(again); ++tries) {
    Pass(std::chrono::seconds(1));
    again = cancel(id);
  }
  ASSERT_TRUE(again.ok()) << again;
  EXPECT_EQ(engine_->figures().counts.cancelled, 1);
  EXPECT_EQ(queued(), 1);
}

class Listener : public TaskListener {
 public:
  void OnChanged(const std::set<TaskId>& changed) override {
    const std::lock_guard lock(mutex_);
    changed_.insert(changed.begin(), changed.end());
    told_.notify_all();
  }
  // Whether news of the task came for which `is` then held. Those of an earlier round may come first, also to
  // one that was added after that round's answers.
  bool Await(const TaskId& id, const std::function<bool()>& is) {
    const auto until = std::chrono::steady_clock::now() + std::chrono::minutes(1);
    std::unique_lock lock(mutex_);
    while (told_.wait_until(lock, until, [&] { return changed_.contains(id); })) {
      changed_.clear();
      lock.unlock();
      if (is()) return true;
      lock.lock();
    }
    return false;
  }

 private:
  std::mutex mutex_;
  std::condition_variable told_;
  std::set<TaskId> changed_;
};

// It was not told, and would have waited for ever for the events that were there.
TEST_F(TaskEngineFaultsTest, AWatcherIsToldOfWhatAFailedWriteLeft) {
  const TaskId id = Submit().get().value().state.id;
  Listener listener;
  engine_->AddListener(&listener);
  store_.Fail(absl::UnavailableError("disk"), true);
  std::promise<void> told;
  engine_->Cancel({"anna", false}, id, [&](const absl::StatusOr<TaskState>& given) {
    EXPECT_EQ(given.status().code(), absl::StatusCode::kUnavailable);
    told.set_value();
  });
  told.get_future().get();
  store_.Fail(absl::OkStatus(), true);
  Pass(std::chrono::seconds(2));
  EXPECT_TRUE(listener.Await(id, [&] {
    return engine_->reader().Find({"anna", false}, id)->status == TaskStatus::kCancelled;
  }));
  engine_->RemoveListener(&listener);
}

TEST_F(TaskEngineFaultsTest, AListenerRemovesItselfAndOthersAndIsNotCalledAgain) {
  struct Goes : TaskListener {
    TaskEngine* engine;
    TaskListener* other = nullptr;
    std::atomic<int> calls = 0;
    void OnQueued() override {
      ++calls;
      engine->RemoveListener(this);
      if (other != nullptr) engine->RemoveListener(other);
    }
  };
  Goes one, two;
  one.engine = two.engine = engine_.get();
  one.other = &two;
  two.other = &one;
  engine_->AddListener(&one);
  engine_->AddListener(&two);
  EXPECT_TRUE(Submit().get().ok());
  EXPECT_TRUE(Submit().get().ok());
  EXPECT_TRUE(Submit().get().ok());
  engine_->RemoveListener(&one);
  engine_->RemoveListener(&two);
  EXPECT_EQ(one.calls + two.calls, 1);
}

TEST_F(TaskEngineFaultsTest, CallsUnderWayEndWhenTheEngineDoes) {
  store_.Set(false);
  std::vector<std::future<absl::StatusOr<TaskSubmitted>>> answers;
  answers.push_back(Submit());
  store_.AwaitWrite();
  for (int n = 0; n < 100; ++n) answers.push_back(Submit());
  std::promise<absl::Status> waiter;
  engine_->Await(
      "w", "node", {{"model", "*"}}, std::chrono::hours(1),
      [&](const absl::StatusOr<std::optional<TaskAssignment>>& given) { waiter.set_value(given.status()); });
  std::thread end([&] { engine_.reset(); });
  store_.Set(true);
  end.join();
  for (auto& answer : answers) {
    const absl::Status s = answer.get().status();
    EXPECT_TRUE(s.ok() || absl::IsUnavailable(s)) << s;
  }
  EXPECT_EQ(waiter.get_future().get().code(), absl::StatusCode::kUnavailable);
}

TEST_F(TaskEngineFaultsTest, WhileItDrainsNothingIsAcceptedOrLentAndWhatRunsEnds) {
  ASSERT_TRUE(Submit().get().ok());
  ASSERT_TRUE(Submit().get().ok());
  const auto take = [&] {
    std::promise<std::optional<TaskAssignment>> promise;
    engine_->Take("w", "node", {{"command", "*"}},
                  [&](absl::StatusOr<std::optional<TaskAssignment>> given) { promise.set_value(*given); });
    return promise.get_future().get();
  };
  const TaskAssignment given = take().value();
  std::promise<bool> waited;
  engine_->Await("w", "node", {{"model", "*"}}, std::chrono::hours(1),
                 [&](const absl::StatusOr<std::optional<TaskAssignment>>& none) {
                   waited.set_value(none.ok() && !none->has_value());
                 });
  engine_->Drain();
  EXPECT_TRUE(waited.get_future().get());
  EXPECT_EQ(Submit().get().status().code(), absl::StatusCode::kUnavailable);
  EXPECT_FALSE(take().has_value());
  std::promise<absl::Status> ended;
  engine_->Succeed(given.token, {}, "", [&](const absl::Status& s) { ended.set_value(s); });
  EXPECT_TRUE(ended.get_future().get().ok());
  EXPECT_TRUE(engine_->figures().draining);
}

TEST_F(TaskEngineFaultsTest, AStoreThatTakesTooLittleAtOnceIsRefused) {
  MemoryRecords few(50);
  EXPECT_EQ(TaskEngine::Start(few, {}).status().code(), absl::StatusCode::kFailedPrecondition);
  MemoryRecords enough(128);
  EXPECT_TRUE(TaskEngine::Start(enough, {}).ok());
}

}  // namespace
}  // namespace omni
