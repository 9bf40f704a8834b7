// What a server streams to a client: the same events however it is cut, and answers or an error that can be
// shown.
#include <string>
#include <vector>

#include "cluster/http/openai_client.h"
#include "cluster/http/sse_parser.h"
#include "tests/fuzz/fuzz.h"

namespace omni::fuzz {

const int kRuns = 60000;

namespace {

constexpr size_t kMost = 2000;  // bytes of an event

struct Told {
  std::vector<std::string> events;
  bool ok = true;
};

Told Parse(std::string_view bytes, size_t piece) {
  Told told;
  SseParser parser(kMost);
  for (; !bytes.empty() && told.ok; bytes.remove_prefix(std::min(piece, bytes.size()))) {
    const absl::Status status = parser.Push(bytes.substr(0, piece), [&](std::string_view data) {
      Require(data.size() <= kMost, "an event is not longer than it may be");
      told.events.emplace_back(data);
      return data != "[DONE]";
    });
    told.ok = status.ok();
    if (!status.ok()) RequireReadable(status);
  }
  return told;
}

}  // namespace

std::vector<std::string> Seeds() {
  const std::string piece = R"(data: {"model":"m","choices":[{"text":"one","finish_reason":null}]})"
                            "\n\n";
  return {
      "\xef\xbb\xbf"
      ": hello\r\n\r\n" +
          piece + "data: [DONE]\n\n",
      "event: x\rid: 1\rdata: a\rdata: b\r\rdata\n\nretry: 5\n\n",
      R"(data: {"choices":[{"delta":{"content":"a"},"finish_reason":"stop"}],"usage":{"prompt_tokens":7,)"
      R"("completion_tokens":-2}})"
      "\n\n",
      R"(data: {"error":{"message":"m","code":null}})"
      "\n\n",
      "data: {\"error\":\"m\"}\n\n"};
}

}  // namespace omni::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace omni;
  using namespace omni::fuzz;
  const std::string_view bytes = View(data, size);
  const Told whole = Parse(bytes, std::max<size_t>(size, 1));
  const Told cut = Parse(bytes, 1 + size % 7);
  Require(whole.ok == cut.ok && whole.events == cut.events, "events do not depend on how the stream is cut");
  RemoteAnswer answer;
  std::string text;
  for (const std::string& event : whole.events) {
    const absl::StatusOr<bool> more = ReadAnswerEvent(event, text, answer);
    if (!more.ok()) {
      Require(!more.status().message().empty() || event.find("error") != event.npos,
              "an error says what it is");
      break;
    }
    if (!*more) break;
  }
  Require(answer.tokens.value_or(0) >= 0 && answer.prompt_tokens.value_or(0) >= 0, "counts are counts");
  return 0;
}
