#include "engine/base/log.h"

#include <chrono>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/base/log_output.h"
#include "tests/testing/recording_log.h"

namespace omni {
namespace {

using ::testing::ElementsAre;
using testing::RecordingLog;

void LogEachLevel() {
  LogError("an_error", "e");
  LogWarning("a_warning", "w");
  LogInfo("an_info", "i");
  LogDebug("a_debug", "d");
}

std::vector<std::string> Events(const RecordingLog& log) {
  std::vector<std::string> events;
  for (const RecordingLog::Line& line : log.lines()) events.push_back(line.event);
  return events;
}

TEST(Log, WritesLinesOfItsLevelAndOfTheWorseOnes) {
  const std::vector<std::string> all = {"an_error", "a_warning", "an_info", "a_debug"};
  for (const LogLevel level : {LogLevel::kError, LogLevel::kWarning, LogLevel::kInfo, LogLevel::kDebug}) {
    const RecordingLog log({.level = level});
    LogEachLevel();
    const auto wanted = static_cast<size_t>(level) + 1;
    EXPECT_EQ(Events(log), std::vector<std::string>(all.begin(), all.begin() + static_cast<long>(wanted)));
    EXPECT_TRUE(LogEnabled(level));
    EXPECT_EQ(LogEnabled(LogLevel::kDebug), level == LogLevel::kDebug);
  }
}

TEST(Log, SaysWarningsAndErrorsWhereNothingElseIsAskedFor) {
  EXPECT_EQ(CurrentLogOptions().level, LogLevel::kWarning);
  EXPECT_EQ(CurrentLogOptions().format, LogFormat::kText);
  ::testing::internal::CaptureStderr();
  LogEachLevel();
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "omni: error: e\nomni: warning: w\n");
}

TEST(Log, GivesASinkLevelEventSentenceAndFields) {
  const RecordingLog log;
  LogWarning("region_restarted", "region {region} was begun afresh", {{"region", 3}, {"why", "no answer"}});
  const std::vector<RecordingLog::Line> lines = log.lines();
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_EQ(lines[0].level, LogLevel::kWarning);
  EXPECT_EQ(lines[0].event, "region_restarted");
  EXPECT_EQ(lines[0].message, "region 3 was begun afresh (why=no answer)");
  EXPECT_THAT(lines[0].fields, ElementsAre("region", "why"));
}

TEST(Log, GoesToStderrAgainOnceASinkIsGone) {
  { const RecordingLog log; }
  ::testing::internal::CaptureStderr();
  LogWarning("a_warning", "w");
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "omni: warning: w\n");
}

// Whatever the clock does meanwhile, every line is either written or counted.
TEST(Log, WhatIsLeftOutOfARepeatedEventIsCounted) {
  constexpr int kLines = 1000, kMost = 3;
  const RecordingLog log({.level = LogLevel::kDebug, .per_second = kMost});
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < kLines; ++i) LogInfo("repeated", "again");
  FlushLog();
  const auto seconds =
      std::chrono::ceil<std::chrono::seconds>(std::chrono::steady_clock::now() - start).count();
  int64_t written = 0, left_out = 0;
  for (const RecordingLog::Line& line : log.lines()) {
    if (line.event == "repeated") {
      ++written;
    } else {
      ASSERT_EQ(line.event, "log_left_out");
      EXPECT_EQ(line.level, LogLevel::kInfo);
      EXPECT_THAT(line.message, ::testing::EndsWith(" more lines of repeated were left out"));
      left_out += std::stoll(line.message);
    }
  }
  EXPECT_EQ(written + left_out, kLines);
  EXPECT_LE(written, kMost * (seconds + 1));
}

TEST(Log, NothingLeftOutIsNotMentioned) {
  const RecordingLog log;
  LogInfo("once", "x");
  FlushLog();
  EXPECT_THAT(Events(log), ElementsAre("once"));
}

TEST(Log, ASinkThatThrowsLosesItsLineAndNothingElse) {
  class Throwing : public LogSink {
   public:
    void Write(const LogRecord&) override { throw std::runtime_error("full"); }
  } throwing;
  const RecordingLog log;
  LogSink* const before = SetLogSink(&throwing);
  LogInfo("lost", "x");
  EXPECT_EQ(SetLogSink(before), &throwing);
  LogInfo("kept", "x");
  EXPECT_THAT(Events(log), ElementsAre("kept"));
}

TEST(Log, ThreadsMayLogAndConfigureAtTheSameTime) {
  constexpr int kThreads = 4, kLines = 200;
  const RecordingLog log;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([t] {
      for (int i = 0; i < kLines; ++i) {
        LogWarning("line", "{thread} {line}", {{"thread", t}, {"line", i}});
        ConfigureLog({.level = LogLevel::kDebug, .per_second = 1 << 30});
        FlushLog();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(log.Messages("line").size(), size_t{kThreads} * kLines);
}

// Without the lock steps of one of the two are lost.
TEST(Log, WritesNoLineWhileItIsPaused) {
  constexpr int kSteps = 20000;
  class Counting : public LogSink {
   public:
    void Write(const LogRecord&) override { steps = steps + 1; }
    volatile int64_t steps = 0;
  } counting;
  const RecordingLog log;
  LogSink* const before = SetLogSink(&counting);
  std::thread other([] {
    for (int i = 0; i < kSteps; ++i) LogInfo("line", "x");
  });
  for (int i = 0; i < kSteps; ++i) {
    const LogPause pause;
    counting.steps = counting.steps + 1;
  }
  other.join();
  SetLogSink(before);
  EXPECT_EQ(counting.steps, 2 * kSteps);
}

class Heard : public LogSink {
 public:
  void Write(const LogRecord& record) override { messages.push_back(LogMessage(record)); }
  std::vector<std::string> messages;
};

TEST(Log, ATapIsToldOfMoreThanIsWritten) {
  const RecordingLog log({.level = LogLevel::kWarning, .per_second = 100});
  Heard tap;
  EXPECT_EQ(SetLogTap(&tap), nullptr);
  EXPECT_TRUE(LogEnabled(LogLevel::kInfo));
  EXPECT_FALSE(LogEnabled(LogLevel::kDebug));
  LogDebug("tapped", "a");
  LogInfo("tapped", "b");
  LogInfo("http_request", "one of many");
  LogWarning("tapped", "c");
  EXPECT_EQ(SetLogTap(nullptr), &tap);
  EXPECT_FALSE(LogEnabled(LogLevel::kInfo));
  LogInfo("tapped", "d");
  LogWarning("tapped", "e");
  EXPECT_THAT(tap.messages, ::testing::ElementsAre("b", "c"));
  EXPECT_THAT(log.Messages("tapped"), ::testing::ElementsAre("c", "e"));
}

TEST(Log, ATapOfLessHidesNothing) {
  const RecordingLog log;
  Heard tap;
  SetLogTap(&tap, LogLevel::kError);
  LogDebug("tapped", "a");
  SetLogTap(nullptr);
  EXPECT_THAT(log.Messages("tapped"), ::testing::ElementsAre("a"));
  EXPECT_THAT(tap.messages, ::testing::IsEmpty());
}

TEST(Log, WhatIsLeftOutOfAnEventThatOnlyTheTapHearsIsNotWritten) {
  const RecordingLog log({.level = LogLevel::kWarning, .per_second = 1});
  Heard tap;
  SetLogTap(&tap);
  for (int i = 0; i < 3; ++i) LogInfo("tapped_often", "a");
  FlushLog();
  SetLogTap(nullptr);
  EXPECT_EQ(tap.messages.size(), 2u);  // one, and that others were left out
  EXPECT_TRUE(log.lines().empty());
}

TEST(LogOutput, NamesLevelsAndFormatsBothWays) {
  for (const LogLevel level : {LogLevel::kError, LogLevel::kWarning, LogLevel::kInfo, LogLevel::kDebug})
    EXPECT_EQ(LogLevelNamed(LogLevelName(level)), level);
  EXPECT_EQ(LogLevelNamed("Warning"), std::nullopt);
  EXPECT_EQ(LogLevelNamed(""), std::nullopt);
  EXPECT_EQ(LogFormatNamed("text"), LogFormat::kText);
  EXPECT_EQ(LogFormatNamed("json"), LogFormat::kJson);
  EXPECT_EQ(LogFormatNamed("yaml"), std::nullopt);
}

}  // namespace
}  // namespace omni
