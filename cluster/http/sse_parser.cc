#include "cluster/http/sse_parser.h"

#include <utility>

#include <absl/strings/str_cat.h>

namespace omni {

absl::Status SseParser::Push(std::string_view bytes,
                             const std::function<bool(std::string_view data)>& on_event) {
  while (!bytes.empty() && !over_) {
    if (std::exchange(after_cr_, false) && bytes.front() == '\n') {
      bytes.remove_prefix(1);
      continue;
    }
    const size_t end = bytes.find_first_of("\r\n");
    const std::string_view piece = bytes.substr(0, end);
    if (line_.size() + piece.size() + data_.size() > most_bytes_) {
      over_ = true;
      return absl::ResourceExhaustedError(
          absl::StrCat("an event of the stream is longer than ", most_bytes_, " bytes"));
    }
    line_ += piece;
    if (end == bytes.npos) break;
    after_cr_ = bytes[end] == '\r';
    bytes.remove_prefix(end + 1);
    over_ = !EndLine(on_event);
  }
  return absl::OkStatus();
}

bool SseParser::EndLine(const std::function<bool(std::string_view data)>& on_event) {
  std::string_view line = line_;
  constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf", kData = "data";
  if (std::exchange(first_line_, false) && line.starts_with(kByteOrderMark))
    line.remove_prefix(kByteOrderMark.size());
  bool wanted = true;
  if (line.empty()) {
    if (has_data_) wanted = on_event(data_);
    data_.clear();
    has_data_ = false;
  } else if (line.substr(0, line.find(':')) == kData) {
    line.remove_prefix(kData.size());
    if (line.starts_with(':')) line.remove_prefix(1);
    if (line.starts_with(' ')) line.remove_prefix(1);
    if (std::exchange(has_data_, true)) data_ += '\n';
    data_ += line;
  }
  line_.clear();
  return wanted;
}

}  // namespace omni
