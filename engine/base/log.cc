#include "engine/base/log.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <utility>

#include "engine/base/log_output.h"
#include "engine/base/log_rate_limit.h"
#include "engine/base/log_stderr.h"

namespace omni {
namespace {

using SteadyClock = std::chrono::steady_clock;

// Of the log or its tap, whichever wants more. Beside the state, so that a line which is not wanted costs a
// load.
constinit std::atomic<LogLevel> wanted_level{LogOptions().level};

// Lines that somebody counts, one for each request, and can switch off: they have no limit.
bool IsRecord(std::string_view event) { return event == "http_request" || event == "grpc_request"; }

struct State {
  std::mutex mutex;  // guards all that follows
  LogOptions options;
  LogRateLimit limit{LogOptions().per_second};
  StderrLog to_stderr;
  LogSink* sink = nullptr;  // null: to_stderr
  LogSink* tap = nullptr;
  LogLevel tap_level = LogLevel::kError;

  void Write(const LogRecord& record) {
    if (tap != nullptr && record.level <= tap_level && !IsRecord(record.event)) tap->Write(record);
    if (record.level > options.level) return;
    if (sink != nullptr) {
      sink->Write(record);
    } else {
      to_stderr.Write(record);
    }
  }
  void ChooseLevel() {
    wanted_level.store(tap != nullptr ? std::max(options.level, tap_level) : options.level,
                       std::memory_order_relaxed);
  }
};

// Never destroyed: threads may log while the program ends.
State& TheState() {
  static State& state = *new State;
  return state;
}

// With the mutex held.
void WriteLeftOut(State& state, SteadyClock::time_point now) {
  for (const LogRateLimit::LeftOut& left_out : state.limit.TakeLeftOut(now)) {
    const LogField fields[] = {{"of", left_out.event}, {"lines", left_out.lines}};
    state.Write({.level = left_out.level,
                 .event = "log_left_out",
                 .sentence = "{lines} more lines of {of} were left out",
                 .fields = fields,
                 .time = std::chrono::system_clock::now()});
  }
}

}  // namespace

bool LogEnabled(LogLevel level) noexcept { return level <= wanted_level.load(std::memory_order_relaxed); }

void Log(LogLevel level, LogLiteral event, LogLiteral sentence,
         std::initializer_list<LogField> fields) noexcept {
  if (!LogEnabled(level)) return;
  try {
    State& state = TheState();
    const std::lock_guard lock(state.mutex);
    const auto now = SteadyClock::now();
    WriteLeftOut(state, now);
    if (!IsRecord(event.text) && !state.limit.Admit(event.text, level, now)) return;
    state.Write({.level = level,
                 .event = event.text,
                 .sentence = sentence.text,
                 .fields = {fields.begin(), fields.size()},
                 .time = std::chrono::system_clock::now()});
  } catch (...) {
    // Out of memory, most likely: whoever logs has a way to go on, and the line has none.
  }
}

void FlushLog() {
  State& state = TheState();
  const std::lock_guard lock(state.mutex);
  WriteLeftOut(state, SteadyClock::time_point::max());
}

void ConfigureLog(const LogOptions& options) {
  State& state = TheState();
  const std::lock_guard lock(state.mutex);
  state.options = options;
  state.limit.set_per_window(std::max(1, options.per_second));
  state.to_stderr.set_format(options.format);
  state.ChooseLevel();
}

LogOptions CurrentLogOptions() {
  State& state = TheState();
  const std::lock_guard lock(state.mutex);
  return state.options;
}

LogSink* SetLogSink(LogSink* sink) {
  State& state = TheState();
  const std::lock_guard lock(state.mutex);
  return std::exchange(state.sink, sink);
}

LogSink* SetLogTap(LogSink* tap, LogLevel level) {
  State& state = TheState();
  const std::lock_guard lock(state.mutex);
  state.tap_level = level;
  LogSink* before = std::exchange(state.tap, tap);
  state.ChooseLevel();
  return before;
}

void SetBeforeLogLine(void (*before)()) {
  State& state = TheState();
  const std::lock_guard lock(state.mutex);
  state.to_stderr.set_before_line(before);
}

LogPause::LogPause() { TheState().mutex.lock(); }
LogPause::~LogPause() { TheState().mutex.unlock(); }

std::string_view LogLevelName(LogLevel level) {
  switch (level) {
    case LogLevel::kError:
      return "error";
    case LogLevel::kWarning:
      return "warning";
    case LogLevel::kInfo:
      return "info";
    case LogLevel::kDebug:
      return "debug";
  }
  return "unknown";
}

std::optional<LogLevel> LogLevelNamed(std::string_view name) {
  for (const LogLevel level : {LogLevel::kError, LogLevel::kWarning, LogLevel::kInfo, LogLevel::kDebug}) {
    if (LogLevelName(level) == name) return level;
  }
  return std::nullopt;
}

std::optional<LogFormat> LogFormatNamed(std::string_view name) {
  if (name == "text") return LogFormat::kText;
  if (name == "json") return LogFormat::kJson;
  return std::nullopt;
}

}  // namespace omni
