// The log on stderr.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "engine/base/log_output.h"

namespace spdlog {
class logger;
}

namespace omni {

class StderrLog : public LogSink {
 public:
  StderrLog();
  ~StderrLog() override;
  void set_format(LogFormat format);
  void set_before_line(void (*before)()) { before_line_ = before; }

  // At most kMaxLine bytes, the end of line included, which a pipe takes whole or not at all. A line that
  // stderr cannot take at once (nobody reads the pipe, the terminal is stopped) is lost; how many were is
  // said (log_lines_lost) as soon as stderr takes a line again.
  void Write(const LogRecord& record) override;

  static constexpr size_t kMaxLine = 4096;

 private:
  void WriteLine(const LogRecord& record);

  LogFormat format_ = LogFormat::kText;
  void (*before_line_)() = nullptr;
  std::unique_ptr<spdlog::logger> logger_;
  int64_t lost_ = 0;
};

}  // namespace omni
