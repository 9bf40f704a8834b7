// Where generated text ends.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace omni {

// Finds stop strings in streamed text and holds back what might become one. Bytes that would split a UTF-8
// character are held back too, so that every emitted piece is whole characters where the text is valid UTF-8.
// The stop string that completes first ends the text before itself (of several that complete together, the
// longest), so what is shown in all does not depend on how the text was cut into pushes. Empty stop strings
// are ignored.
class StopMatcher {
 public:
  explicit StopMatcher(std::vector<std::string> stops);
  std::string Push(std::string_view bytes);  // what may be shown now; nothing once stopped
  std::string Flush();                       // the rest, at the end of generation
  bool stopped() const { return stopped_; }

 private:
  size_t MatchedAtEnd() const;  // bytes of the longest stop string that held_ ends with, or 0
  size_t HeldSuffix() const;    // bytes at held_'s end that may not be shown yet

  std::vector<std::string> stops_;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace omni
