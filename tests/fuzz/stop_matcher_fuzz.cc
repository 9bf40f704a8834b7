// Stop strings in streamed text against a plain search, however the text is cut.
#include "engine/text/stop_matcher.h"

#include <algorithm>

#include "tests/fuzz/fuzz.h"

namespace omni::fuzz {

const int kRuns = 100000;

namespace {

struct Found {
  size_t end = std::string_view::npos;  // of the text that may be shown
  bool stopped = false;
};

// The first place where a stop string is complete; of several there, the longest.
Found Search(std::string_view text, const std::vector<std::string>& stops) {
  for (size_t end = 1; end <= text.size(); ++end) {
    size_t longest = 0;
    for (const std::string& stop : stops) {
      if (text.substr(0, end).ends_with(stop)) longest = std::max(longest, stop.size());
    }
    if (longest > 0) return {end - longest, true};
  }
  return {text.size(), false};
}

}  // namespace

std::vector<std::string> Seeds() {
  using namespace std::string_literals;
  // Number of stops, their lengths and bytes; then pushes: a length each, and bytes.
  return {"\x01\x03"s + "END" + "\x04xxEN\x06" + "DyENDz",
          "\x02\x03"s + "aab\x02" + "bc\x05" + "aaaab\x03" + "abc",
          "\x01\x02\xa9!\x02\xc3\xa9\x01?\x03\xc3\xa9!"s,
          "\x00\x04\xf0\x9f\x98\x80\x01\xf0\x05\x9f\x98\x80zz"s,
          "\x03\x00\x01"s + "a\x09" + "aaaaaaaab" + "\x20" + "aaaaaaaaaaaaaaaa"};
}

}  // namespace omni::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace omni;
  using namespace omni::fuzz;
  Input input(data, std::min<size_t>(size, 2000));
  std::vector<std::string> stops(input.Byte() % 5);
  for (std::string& stop : stops) stop = input.Bytes(input.Byte() % 40);
  size_t longest = 1;
  for (const std::string& stop : stops) longest = std::max(longest, stop.size());
  StopMatcher matcher(stops);
  std::string text, shown;
  while (!input.rest().empty()) {
    const std::string_view piece = input.Bytes(input.Byte() % 40);
    text += piece;
    shown += matcher.Push(piece);
    const Found now = Search(text, stops);
    Require(matcher.stopped() == now.stopped, "a stop is found as soon as it is complete");
    Require(shown.size() <= now.end && text.starts_with(shown), "what is shown is the text before the stop");
    Require(shown.size() + (now.stopped ? 0 : longest - 1 + 3) >= now.end,
            "no more is held than might become a stop");
  }
  shown += matcher.Flush();
  const Found all = Search(text, stops);
  Require(shown == std::string_view(text).substr(0, all.end), "all that was shown is all before the stop");
  Require(matcher.Flush().empty(), "nothing is shown twice");
  return 0;
}
