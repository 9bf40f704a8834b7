#include "engine/base/log_stderr.h"

#include <fcntl.h>
#include <unistd.h>

#include <chrono>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace omni {
namespace {

using ::testing::HasSubstr;

// While alive, stderr is a pipe whose other end only Read reads.
class PipedStderr {
 public:
  PipedStderr() {
    int ends[2];
    EXPECT_EQ(::pipe2(ends, O_CLOEXEC), 0);
    from_ = ends[0];
    before_ = ::dup(STDERR_FILENO);
    ::dup2(ends[1], STDERR_FILENO);
    ::close(ends[1]);
    EXPECT_EQ(::fcntl(from_, F_SETFL, O_NONBLOCK), 0);
  }
  ~PipedStderr() {
    ::dup2(before_, STDERR_FILENO);
    ::close(before_);
    CloseReader();
  }

  std::string Read() {
    std::string text;
    char buffer[4096];
    for (ssize_t n; (n = ::read(from_, buffer, sizeof buffer)) > 0;)
      text.append(buffer, static_cast<size_t>(n));
    return text;
  }
  // Until the pipe has no room left for a line.
  void Fill() {
    const std::string block(4096, '.');
    ASSERT_EQ(::fcntl(STDERR_FILENO, F_SETFL, O_NONBLOCK), 0);
    while (::write(STDERR_FILENO, block.data(), block.size()) > 0) {
    }
    ASSERT_EQ(::fcntl(STDERR_FILENO, F_SETFL, 0), 0);
  }
  void CloseReader() {
    if (from_ >= 0) ::close(from_);
    from_ = -1;
  }

 private:
  int from_, before_;
};

// 2026-01-31T12:34:56.789Z
constexpr std::chrono::system_clock::time_point kTime{std::chrono::milliseconds(1769862896789)};

LogRecord Record(const LogField& region, LogLevel level = LogLevel::kWarning) {
  return {.level = level,
          .event = "region_restarted",
          .sentence = "region {region} was begun afresh",
          .fields = {&region, 1},
          .time = kTime};
}

TEST(StderrLog, TextSaysProgramLevelAndSentence) {
  PipedStderr piped;
  StderrLog log;
  const LogField region("region", 3);
  for (const LogLevel level : {LogLevel::kError, LogLevel::kWarning, LogLevel::kInfo, LogLevel::kDebug})
    log.Write(Record(region, level));
  EXPECT_EQ(piped.Read(),
            "omni: error: region 3 was begun afresh\nomni: warning: region 3 was begun afresh\n"
            "omni: info: region 3 was begun afresh\nomni: debug: region 3 was begun afresh\n");
}

TEST(StderrLog, JsonIsAnObjectALineWithTheTimeInUtc) {
  PipedStderr piped;
  StderrLog log;
  log.set_format(LogFormat::kJson);
  const LogField region("region", 3);
  log.Write(Record(region));
  EXPECT_EQ(piped.Read(), R"({"ts":"2026-01-31T12:34:56.789Z","level":"warning","event":"region_restarted",)"
                          R"("message":"region 3 was begun afresh","fields":{"region":3}})"
                          "\n");
}

TEST(StderrLog, ALineFitsIntoAPipeAtOnce) {
  PipedStderr piped;
  StderrLog log;
  const std::string long_text(100000, 'x');
  const LogField region("region", long_text);
  for (const LogFormat format : {LogFormat::kText, LogFormat::kJson}) {
    log.set_format(format);
    log.Write(Record(region));
    const std::string line = piped.Read();
    EXPECT_LE(line.size(), StderrLog::kMaxLine);
    EXPECT_THAT(line, HasSubstr("... was begun afresh"));
  }
}

TEST(StderrLog, DoesNotWaitForAReaderAndSaysLaterWhatWasLost) {
  PipedStderr piped;
  StderrLog log;
  const LogField region("region", 3);
  piped.Fill();
  log.Write(Record(region));
  log.Write(Record(region));  // it would hang here
  EXPECT_EQ(piped.Read().find("region"), std::string::npos);
  log.Write(Record(region));
  log.Write(Record(region));
  EXPECT_EQ(piped.Read(),
            "omni: warning: 2 lines of the log were lost: standard error did not take them\n"
            "omni: warning: region 3 was begun afresh\nomni: warning: region 3 was begun afresh\n");
}

TEST(StderrLog, AReaderThatWentAwayEndsNothing) {
  PipedStderr piped;
  StderrLog log;
  piped.CloseReader();
  const LogField region("region", 3);
  log.Write(Record(region));  // SIGPIPE would end the test here
}

TEST(StderrLog, StderrThatIsClosedEndsNothing) {
  PipedStderr piped;
  StderrLog log;
  ::close(STDERR_FILENO);
  const LogField region("region", 3);
  log.Write(Record(region));
}

TEST(StderrLog, WhatStandsInTheWayIsClearedBeforeTheLine) {
  PipedStderr piped;
  StderrLog log;
  log.set_before_line([] { (void)!::write(STDERR_FILENO, "cleared ", 8); });
  const LogField region("region", 3);
  log.Write(Record(region));
  EXPECT_EQ(piped.Read(), "cleared omni: warning: region 3 was begun afresh\n");
}

}  // namespace
}  // namespace omni
