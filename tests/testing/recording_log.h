// A log that a test reads instead of stderr.
#pragma once

#include <limits>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "engine/base/log_output.h"

namespace omni::testing {

// While alive, it gets every line of every level, without a limit. One at a time.
class RecordingLog : public LogSink {
 public:
  struct Line {
    LogLevel level = LogLevel::kInfo;
    std::string event, message;
    std::vector<std::string> fields;  // the keys, in the order given
  };

  explicit RecordingLog(const LogOptions& options = {.level = LogLevel::kDebug,
                                                     .per_second = std::numeric_limits<int>::max()}) {
    ConfigureLog(options);
    SetLogSink(this);
  }
  ~RecordingLog() override {
    SetLogSink(nullptr);
    ConfigureLog(before_);
  }
  RecordingLog(const RecordingLog&) = delete;
  RecordingLog& operator=(const RecordingLog&) = delete;

  void Write(const LogRecord& record) override {
    Line line{record.level, std::string(record.event), LogMessage(record), {}};
    for (const LogField& field : record.fields) line.fields.emplace_back(field.key);
    const std::lock_guard lock(mutex_);
    lines_.push_back(std::move(line));
  }

  std::vector<Line> lines() const {
    const std::lock_guard lock(mutex_);
    return lines_;
  }
  // Of the lines of one event: what they say.
  std::vector<std::string> Messages(std::string_view event) const {
    std::vector<std::string> messages;
    for (const Line& line : lines()) {
      if (line.event == event) messages.push_back(line.message);
    }
    return messages;
  }

 private:
  const LogOptions before_ = CurrentLogOptions();
  mutable std::mutex mutex_;
  std::vector<Line> lines_;
};

}  // namespace omni::testing
