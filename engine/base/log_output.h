// Where the log goes, and which of it. For main functions, whatever else writes to stderr, and tests.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "engine/base/log.h"

namespace omni {

// kText: "omni: warning: SENTENCE (KEY=VALUE, ...)" on one line, control characters escaped as in C. kJson:
// an object a line,
//   {"ts":"2026-01-31T12:00:00.000Z","level":"warning","event":NAME,"message":SENTENCE,"fields":{...}}
// in UTF-8; other bytes are replaced by U+FFFD. Durations are in milliseconds: "30000 ms", and
// "timeout_ms":30000.
enum class LogFormat : int { kText, kJson };

struct LogOptions {
  LogLevel level = LogLevel::kWarning;  // lines of this level and those before it are written
  LogFormat format = LogFormat::kText;
  // Lines of one event within a second, at least 1. How many were left out is said in a line of its own
  // (log_left_out) once the second is over and another line is written, or when FlushLog is called.
  int per_second = 10;
};

// Without a call LogOptions' defaults hold. Thread-safe.
void ConfigureLog(const LogOptions& options);
LogOptions CurrentLogOptions();

std::string_view LogLevelName(LogLevel level);                   // "error", "warning", "info", "debug"
std::optional<LogLevel> LogLevelNamed(std::string_view name);    // of exactly these names
std::optional<LogFormat> LogFormatNamed(std::string_view name);  // "text", "json"

// Says what was left out and not said yet: to be called before the program ends.
void FlushLog();

// For those who write to stderr beside the log, such as a status line: while one is alive no line of the log
// is written. Its owner must not log.
class LogPause {
 public:
  LogPause();
  ~LogPause();
  LogPause(const LogPause&) = delete;
  LogPause& operator=(const LogPause&) = delete;
};

// Called, while the log is paused for others, before each line on stderr: clears what stands in its way.
// Null: nothing.
void SetBeforeLogLine(void (*before)());

// One line, valid during the call it is an argument of.
struct LogRecord {
  LogLevel level = LogLevel::kInfo;
  std::string_view event, sentence;
  std::span<const LogField> fields;
  std::chrono::system_clock::time_point time;
};

// The sentence with its fields, as the text form has it after the level, before anything is escaped.
std::string LogMessage(const LogRecord& record);

class LogSink {
 public:
  virtual ~LogSink() = default;
  // One call at a time, with the log's lock held: must not log. May throw; the line is then lost.
  virtual void Write(const LogRecord& record) = 0;
};

// Lines go to `sink` from now on, until it is replaced; null: to stderr. Returns the sink before.
LogSink* SetLogSink(LogSink* sink);

// Beside where lines go, `tap` is told of every event of this level and those before it, whatever the log's
// own level is, but of no single requests (http_request, grpc_request); the limit of LogOptions counts for
// both together. Until it is replaced; null: nobody. Returns the tap before.
LogSink* SetLogTap(LogSink* tap, LogLevel level = LogLevel::kInfo);

}  // namespace omni
