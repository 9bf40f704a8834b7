// What an operator wants to know and no caller waits for: restarts, retries, fall-backs, refusals.
//
//   LogWarning("region_restarted", "region {region} was begun afresh: no answer within {timeout}",
//              {{"region", 3}, {"timeout", std::chrono::seconds(30)}});
//
// writes, on stderr, "omni: warning: region 3 was begun afresh: no answer within 30000 ms", or the same as
// JSON. docs/operations.md, "Log", lists every event; a test compares that list with the source.
//
// Never into a field: prompts, generated text, keys.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string_view>
#include <type_traits>
#include <variant>

namespace omni {

enum class LogLevel : int {
  kError,    // something was given up
  kWarning,  // something went on, but slower or otherwise than asked
  kInfo,     // what was decided
  kDebug     // what only somebody who looks for a fault wants to know
};

// A text of the source, and of nobody else: events are counted by name, and their number is that of the
// source.
struct LogLiteral {
  consteval LogLiteral(const char* literal) : text(literal) {
    bool open = false;
    for (const char c : text) {
      if (c == (open ? '{' : '}')) throw "the braces around a field's name are not closed, or not opened";
      if (c == '{' || c == '}') open = !open;
    }
    if (open) throw "the braces around a field's name are not closed";
  }

  std::string_view text;
};

struct LogDuration {
  int64_t nanoseconds = 0;
};

using LogValue = std::variant<bool, int64_t, double, LogDuration, std::string_view>;

// A key and what belongs to it: text, an integer, a floating-point number, a bool or a std::chrono::duration.
// Text is referred to, not copied: a field lives as long as the call it is an argument of.
struct LogField {
  template <typename T>
  LogField(std::string_view name, const T& from) : key(name), value(ValueOf(from)) {}

  std::string_view key;  // [a-z_]+
  LogValue value;

 private:
  template <typename T>
  static LogValue ValueOf(const T& from) {
    if constexpr (std::is_same_v<T, bool>) {
      return from;
    } else if constexpr (std::is_integral_v<T>) {
      return static_cast<int64_t>(from);
    } else if constexpr (std::is_floating_point_v<T>) {
      return static_cast<double>(from);
    } else if constexpr (requires { typename T::period; }) {
      constexpr int64_t kBillion = 1'000'000'000;
      using Period = typename T::period;
      static_assert(kBillion % Period::den == 0, "a duration of whole nanoseconds");
      return LogDuration{static_cast<int64_t>(from.count() * (kBillion / Period::den * Period::num))};
    } else if constexpr (std::is_convertible_v<const T&, std::string_view>) {
      return std::string_view(from);
    } else {
      return std::string_view(from.data(), from.size());  // other kinds of string view
    }
  }
};

// Writes a line if the log's level includes `level` and the event is within its limit
// (engine/base/log_output.h). Each {key} of the sentence is replaced by that field's value; fields it does
// not name follow as key=value. Does not throw, and does not wait for a reader of stderr: a line that it
// cannot take is left out and counted. Thread-safe.
void Log(LogLevel level, LogLiteral event, LogLiteral sentence,
         std::initializer_list<LogField> fields = {}) noexcept;

inline void LogError(LogLiteral event, LogLiteral sentence,
                     std::initializer_list<LogField> fields = {}) noexcept {
  Log(LogLevel::kError, event, sentence, fields);
}
inline void LogWarning(LogLiteral event, LogLiteral sentence,
                       std::initializer_list<LogField> fields = {}) noexcept {
  Log(LogLevel::kWarning, event, sentence, fields);
}
inline void LogInfo(LogLiteral event, LogLiteral sentence,
                    std::initializer_list<LogField> fields = {}) noexcept {
  Log(LogLevel::kInfo, event, sentence, fields);
}
inline void LogDebug(LogLiteral event, LogLiteral sentence,
                     std::initializer_list<LogField> fields = {}) noexcept {
  Log(LogLevel::kDebug, event, sentence, fields);
}

// Whether such a line would be written: for callers to whom the fields themselves cost something.
bool LogEnabled(LogLevel level) noexcept;

}  // namespace omni
