// The Model Context Protocol over lines: one message each, as by the standard input and output of a process.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "cluster/mcp/mcp_server.h"

namespace omni {

class McpStdio {
 public:
  static constexpr size_t kMostLine = 4 << 20;  // bytes

  // `write` gets one line, without its end, from any thread, one at a time.
  McpStdio(McpServer& server, std::function<void(const std::string& line)> write);
  ~McpStdio();  // nothing is written after it

  // From one thread.
  void OnLine(std::string_view line);
  void OnLongLine();  // one of more than kMostLine
  // Calls that have not been answered. Thread-safe.
  size_t under_way() const;

 private:
  struct Shared;
  void Cancel(const McpMessage& message);

  McpServer& server_;
  const std::shared_ptr<Shared> shared_;
  bool introduced_ = false;  // by initialize
  uint64_t requests_ = 0;
};

}  // namespace omni
