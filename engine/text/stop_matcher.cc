#include "engine/text/stop_matcher.h"

#include <algorithm>
#include <cstdint>
#include <utility>

namespace omni {
namespace {

// Bytes at the end of `text` that begin a UTF-8 character and do not complete it (RFC 3629; 0 to 3).
size_t IncompleteCharacter(std::string_view text) {
  for (size_t n = 1; n <= std::min<size_t>(3, text.size()); ++n) {
    const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[text.size() - n + i]); };
    const uint8_t lead = byte(0);
    if (lead >= 0x80 && lead < 0xc0) continue;
    const size_t length = lead >= 0xc2 && lead < 0xe0   ? 2
                          : lead >= 0xe0 && lead < 0xf0 ? 3
                          : lead >= 0xf0 && lead < 0xf5 ? 4
                                                        : 1;
    if (length <= n) return 0;
    // Some leads narrow the range of the byte after them: overlong forms, surrogates, and what is past
    // U+10FFFF.
    const uint8_t min = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
    const uint8_t max = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
    return n > 1 && (byte(1) < min || byte(1) > max) ? 0 : n;
  }
  return 0;
}

}  // namespace

StopMatcher::StopMatcher(std::vector<std::string> stops) : stops_(std::move(stops)) {
  std::erase_if(stops_, [](const std::string& s) { return s.empty(); });
}

size_t StopMatcher::MatchedAtEnd() const {
  size_t longest = 0;
  for (const std::string& stop : stops_) {
    if (held_.ends_with(stop)) longest = std::max(longest, stop.size());
  }
  return longest;
}

size_t StopMatcher::HeldSuffix() const {
  size_t suffix = 0;
  for (const std::string& stop : stops_) {
    for (size_t n = std::min(stop.size() - 1, held_.size()); n > suffix; --n) {
      if (held_.ends_with(std::string_view(stop).substr(0, n))) suffix = n;
    }
  }
  return suffix + IncompleteCharacter(std::string_view(held_).substr(0, held_.size() - suffix));
}

std::string StopMatcher::Push(std::string_view bytes) {
  if (stopped_) return "";
  for (char c : bytes) {
    held_ += c;
    if (const size_t matched = MatchedAtEnd(); matched > 0) {
      stopped_ = true;
      held_.resize(held_.size() - matched);
      return std::exchange(held_, {});
    }
  }
  std::string shown = held_.substr(0, held_.size() - HeldSuffix());
  held_.erase(0, shown.size());
  return shown;
}

std::string StopMatcher::Flush() { return std::exchange(held_, {}); }

}  // namespace omni
