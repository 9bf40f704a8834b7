// A stream of server-sent events, taken apart as it comes. Nothing here knows of sockets.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>

#include <absl/status/status.h>

namespace omni {

// Lines end with LF, CR or CRLF, an event with an empty one. Of an event its data is told, lines joined by
// LF; comments and other fields are passed over, and an event without data is none. What has come after the
// last empty line is no event.
class SseParser {
 public:
  // What an event may have in bytes, and a line.
  explicit SseParser(size_t most_bytes = size_t{1} << 20) : most_bytes_(most_bytes) {}

  // Calls on_event with each event that is complete now, until it returns false: then the rest is dropped,
  // and so is all that is pushed afterwards. ResourceExhausted: an event is longer than it may be.
  absl::Status Push(std::string_view bytes, const std::function<bool(std::string_view data)>& on_event);

 private:
  // The end of a line: false once on_event wants no more.
  bool EndLine(const std::function<bool(std::string_view data)>& on_event);

  const size_t most_bytes_;
  std::string line_, data_;
  bool has_data_ = false;
  bool after_cr_ = false;   // an LF that comes next belongs to it
  bool first_line_ = true;  // a byte order mark may stand before it
  bool over_ = false;
};

}  // namespace omni
