// The Model Context Protocol's messages: whatever the bytes, a message, or an error to answer with; and
// whatever the message, at most one answer, which is JSON-RPC.
#include <thread>
#include <variant>

#include <nlohmann/json.hpp>

#include "cluster/mcp/mcp_message.h"
#include "cluster/mcp/mcp_stdio.h"
#include "tests/cluster/mcp/fake_backend.h"
#include "tests/fuzz/fuzz.h"

namespace omni::fuzz {

const int kRuns = 8000;

std::vector<std::string> Seeds() {
  const std::string meta = R"("_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28",)"
                           R"("io.modelcontextprotocol/clientCapabilities":{},"progressToken":"p"})";
  return {R"({"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25"}})",
          R"({"jsonrpc":"2.0","method":"notifications/initialized"})",
          R"({"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}})",
          R"({"jsonrpc":"2.0","id":"a","method":"tools/list","params":{)" + meta + "}}",
          R"({"jsonrpc":"2.0","id":-1,"method":"server/discover","params":{)" + meta + "}}",
          R"({"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"generate","arguments":)"
          R"({"prompt":"the sea","max_tokens":18446744073709551615,"temperature":1e300,"stop":["a"]},)" +
              meta + "}}",
          R"({"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"submit_task","arguments":)"
          R"({"work":{"model":{"prompt":"x"}},"idempotency_key":"k","labels":{"a":"b"}},)" +
              meta + "}}",
          R"({"jsonrpc":"2.0","id":4,"method":"tools/call","params":{"name":"watch_task","arguments":)"
          R"({"id":"x","after":-9223372036854775808,"wait_seconds":1},)" +
              meta + "}}",
          R"({"jsonrpc":"2.0","id":5,"method":"tools/call","params":{"name":"list_tasks","arguments":)"
          R"({"statuses":["failed"],"page_size":5},)" +
              meta + "}}",
          R"({"jsonrpc":"2.0","id":6,"result":{}})",
          "[]",
          R"({"jsonrpc":"2.0","id":{},"method":"ping"})"};
}

}  // namespace omni::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace omni;
  using namespace omni::fuzz;
  const std::string_view bytes = View(data, size);
  const auto read = ReadMcp(bytes);
  bool wants_answer = true;
  if (const auto* error = std::get_if<McpError>(&read)) {
    const nlohmann::json told = error->ToJson();
    Require(told["error"]["code"].is_number() && told["error"]["message"].is_string(), "an error says what");
    Require(error->http() >= 400, "it is no success");
  } else {
    const auto& message = std::get<McpMessage>(read);
    Require(message.params.is_object(), "params are an object");
    Require(
        (message.kind == McpMessage::Kind::kRequest) <= (message.id.is_string() || message.id.is_number()),
        "a request has an id");
    wants_answer = message.kind == McpMessage::Kind::kRequest;
  }
  testing::FakeBackend backend;
  int answers = 0;
  {
    McpServer server(backend, {"1", 1});
    McpStdio session(server, [&](const std::string& line) {
      const nlohmann::json told = nlohmann::json::parse(line, nullptr, false);
      Require(told.is_object() && told["jsonrpc"] == "2.0", "what is told is JSON-RPC");
      answers += told.contains("error") || told.contains("result");
    });
    session.OnLine(R"({"jsonrpc":"2.0","id":"fuzz","method":"initialize"})");
    Require(answers == 1, "it is introduced");
    session.OnLine(bytes);
    server.StopCalls();
    while (session.under_way() > 0) std::this_thread::yield();
  }
  const bool blank = bytes.find_first_not_of(" \t\r\n\v\f") == bytes.npos;
  Require(answers == 1 + (wants_answer && !blank), "one answer for a request, and none for others");
  return 0;
}
