#include "engine/base/log_stderr.h"

#include <poll.h>
#include <unistd.h>

#include <cstdio>
#include <utility>

#include <spdlog/logger.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/stdout_sinks.h>

#include "engine/base/log_text.h"

namespace omni {
namespace {

constexpr size_t kMostPrefix = 96;  // what the patterns below put around a payload

const char* Pattern(LogFormat format) {
  return format == LogFormat::kText ? "omni: %l: %v" : R"({"ts":"%Y-%m-%dT%H:%M:%S.%eZ","level":"%l",%v)";
}

spdlog::level::level_enum SpdlogLevel(LogLevel level) {
  switch (level) {
    case LogLevel::kError:
      return spdlog::level::err;
    case LogLevel::kWarning:
      return spdlog::level::warn;
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kDebug:
      return spdlog::level::debug;
  }
  return spdlog::level::err;
}

// Whether stderr takes a line now: it is open, somebody reads it, and it has room.
bool StderrTakesLine() {
  pollfd stderr_now = {.fd = STDERR_FILENO, .events = POLLOUT, .revents = 0};
  return ::poll(&stderr_now, 1, 0) == 1 && stderr_now.revents == POLLOUT;
}

}  // namespace

StderrLog::StderrLog()
    : logger_(std::make_unique<spdlog::logger>("omni", std::make_shared<spdlog::sinks::stderr_sink_st>())) {
  logger_->set_level(spdlog::level::trace);               // whoever calls Write has chosen already
  logger_->set_error_handler([](const std::string&) {});  // there is nowhere to say it
  set_format(LogFormat::kText);
}

StderrLog::~StderrLog() = default;

void StderrLog::set_format(LogFormat format) {
  format_ = format;
  logger_->set_formatter(
      std::make_unique<spdlog::pattern_formatter>(Pattern(format), spdlog::pattern_time_type::utc, "\n"));
}

void StderrLog::Write(const LogRecord& record) {
  if (!StderrTakesLine()) {
    ++lost_;
    return;
  }
  if (before_line_ != nullptr) before_line_();
  if (lost_ > 0) {
    const LogField lines("lines", std::exchange(lost_, 0));
    WriteLine({.level = LogLevel::kWarning,
               .event = "log_lines_lost",
               .sentence = "{lines} lines of the log were lost: standard error did not take them",
               .fields = {&lines, 1},
               .time = record.time});
    if (!StderrTakesLine()) {
      ++lost_;
      return;
    }
  }
  WriteLine(record);
}

void StderrLog::WriteLine(const LogRecord& record) {
  logger_->log(record.time, spdlog::source_loc{}, SpdlogLevel(record.level),
               LogPayload(format_, record, kMaxLine - kMostPrefix));
}

}  // namespace omni
