#include "cluster/mcp/mcp_server.h"

#include <chrono>
#include <mutex>
#include <optional>
#include <set>
#include <stop_token>
#include <utility>

#include <absl/strings/str_cat.h>

#include "cluster/executor.h"
#include "cluster/mcp/mcp_tools.h"
#include "engine/base/quoted.h"

namespace omni {
namespace {

using Json = nlohmann::json;
using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kBetweenProgress{50};
constexpr int kListedForMs = 60'000;  // as long as a client may keep what there is
constexpr char kInstructions[] =
    "Omni runs a language model (generate) and work that lasts: submit_task hands it in and gives its id at "
    "once, watch_task tells what happens to it, from any event on.";

McpError WrongParams(const McpMessage& request, const std::string& what) {
  return {McpError::kInvalidParams, what, nullptr, request.id};
}

}  // namespace

// One call of a tool. Between whoever asked, who may let it go, and the thread that does it.
class ToolCall {
 public:
  explicit ToolCall(McpServer::Tell tell) : tell_(std::move(tell)) {}
  void Say(const Json& message, bool last) {
    const std::lock_guard lock(mutex_);
    if (tell_ == nullptr) return;
    if (!last) return tell_(message, false);
    const McpServer::Tell tell = std::exchange(tell_, nullptr);
    tell(message, true);
  }
  // By whoever asked, who may be saying something at this very moment.
  void Leave() {
    stop_.request_stop();
    const std::lock_guard lock(mutex_);
    tell_ = nullptr;
  }
  void Stop() { stop_.request_stop(); }
  std::stop_token stop() const { return stop_.get_token(); }

 private:
  std::stop_source stop_;
  std::recursive_mutex mutex_;  // what is told may let the call go
  McpServer::Tell tell_;
};

struct McpServer::Impl {
  Impl(McpBackend& b, McpServerOptions o) : backend(b), options(std::move(o)), threads(options.most_calls) {}

  Json Identity() const { return {{"name", "omni"}, {"title", "Omni"}, {"version", options.version}}; }
  // A result as its era has it.
  Json Whole(const McpMessage& request, bool stateless, Json result, bool kept = false) const {
    if (stateless) {
      result["resultType"] = "complete";
      result["_meta"][kMcpServerKey] = Identity();
      if (kept) {
        result["ttlMs"] = kListedForMs;
        result["cacheScope"] = "private";
      }
    }
    return McpResult(request.id, std::move(result));
  }
  Json Discover() const {
    return {{"supportedVersions", Json::array({kMcpStateless})},
            {"capabilities", {{"tools", Json::object()}}},
            {"instructions", kInstructions}};
  }
  Json Initialize(const McpMessage& request) const {
    const Json asked = request.params.value("protocolVersion", Json());
    const bool known = asked.is_string() && IsMcpHandshake(asked.get_ref<const std::string&>());
    return {{"protocolVersion", known ? asked.get<std::string>() : kMcpHandshakes[0]},
            {"capabilities", {{"tools", {{"listChanged", false}}}}},
            {"serverInfo", Identity()},
            {"instructions", kInstructions}};
  }
  static Json List(const McpAsker& asker) {
    Json tools = Json::array();
    for (const McpTool& tool : McpTools())
      if (asker.scopes.Has(tool.scope)) tools.push_back(tool.listed);
    return {{"tools", std::move(tools)}};
  }
  Call Begin(const McpMessage& request, bool stateless, const McpAsker& asker, Tell tell);
  void Do(ToolCall& call, const McpMessage& request, bool stateless, const McpAsker& asker,
          const McpTool& tool);

  McpBackend& backend;
  const McpServerOptions options;
  std::mutex mutex;
  std::set<std::shared_ptr<ToolCall>> calls;
  bool stopped = false;  // and none begins
  Executor threads;      // goes first
};

McpServer::McpServer(McpBackend& backend, McpServerOptions options)
    : impl_(std::make_unique<Impl>(backend, std::move(options))) {}
McpServer::~McpServer() { StopCalls(); }

void McpServer::StopCalls() {
  const std::lock_guard lock(impl_->mutex);
  impl_->stopped = true;
  for (const auto& call : impl_->calls) call->Stop();
}

McpServer::Call McpServer::Answer(const McpMessage& request, bool stateless, const McpAsker& asker,
                                  Tell tell) {
  const auto refuse = [&](const McpError& error) {
    tell(error.ToJson(), true);
    return nullptr;
  };
  if (stateless) {
    if (const std::optional<McpError> wrong = CheckMcpMeta(request); wrong.has_value()) return refuse(*wrong);
  }
  const std::string& method = request.method;
  if (method == "tools/call") return impl_->Begin(request, stateless, asker, std::move(tell));
  if (method == "tools/list") {
    if (request.params.contains("cursor"))
      return refuse(WrongParams(request, "params.cursor: all tools are on one page"));
    tell(impl_->Whole(request, stateless, impl_->List(asker), true), true);
  } else if (stateless && method == "server/discover") {
    tell(impl_->Whole(request, stateless, impl_->Discover(), true), true);
  } else if (!stateless && method == "initialize") {
    tell(impl_->Whole(request, stateless, impl_->Initialize(request)), true);
  } else if (!stateless && method == "ping") {
    tell(impl_->Whole(request, stateless, Json::object()), true);
  } else {
    return refuse({McpError::kMethodNotFound, absl::StrCat("there is no method ", Quoted(method)), nullptr,
                   request.id});
  }
  return nullptr;
}

McpServer::Call McpServer::Impl::Begin(const McpMessage& request, bool stateless, const McpAsker& asker,
                                       Tell tell) {
  const auto refuse = [&](const McpError& error) {
    tell(error.ToJson(), true);
    return nullptr;
  };
  const auto name = request.params.find("name");
  if (name == request.params.end() || !name->is_string())
    return refuse(WrongParams(request, "params.name is no text"));
  const McpTool* const tool = FindMcpTool(name->get_ref<const std::string&>());
  if (tool == nullptr) {
    return refuse(
        WrongParams(request, absl::StrCat("Unknown tool: ", Quoted(name->get_ref<const std::string&>()))));
  }
  const auto arguments = request.params.find("arguments");
  if (arguments != request.params.end() && !arguments->is_object())
    return refuse(WrongParams(request, "params.arguments is no object"));
  auto call = std::make_shared<ToolCall>(std::move(tell));
  {
    const std::lock_guard lock(mutex);
    if (stopped || calls.size() >= options.most_calls) {
      const char* const why =
          stopped ? "the server ends" : "too many calls are under way at present; ask again later";
      call->Say(McpError{McpError::kBusy, why, nullptr, request.id}.ToJson(), true);
      return nullptr;
    }
    calls.insert(call);
  }
  threads.Post([this, call, request, stateless, asker, tool] {
    Do(*call, request, stateless, asker, *tool);
    const std::lock_guard lock(mutex);
    calls.erase(call);
  });
  return {call.get(), [call](void*) { call->Leave(); }};
}

void McpServer::Impl::Do(ToolCall& call, const McpMessage& request, bool stateless, const McpAsker& asker,
                         const McpTool& tool) {
  const Json* const token = request.progress_token();
  Clock::time_point last;
  double told = 0;
  const McpProgress progress = [&](double now, double total, const std::string& text) {
    // What is told has to grow, and nobody wants to be told of every token.
    if (token == nullptr || now <= told || Clock::now() - last < kBetweenProgress) return;
    last = Clock::now();
    told = now;
    Json params = {{"progressToken", *token}, {"progress", now}};
    if (total > 0) params["total"] = total;
    if (!text.empty()) params["message"] = text;
    call.Say({{"jsonrpc", "2.0"}, {"method", "notifications/progress"}, {"params", std::move(params)}},
             false);
  };
  McpToolAnswer answer;
  if (!asker.scopes.Has(tool.scope)) {
    answer.text =
        absl::StrCat("PERMISSION_DENIED: ", tool.name, " wants a key with the scope ", ScopeName(tool.scope));
    answer.failed = true;
  } else {
    answer = DoMcpTool(backend, asker, tool, request.params.value("arguments", Json::object()), progress,
                       call.stop());
  }
  Json result = {{"content", Json::array({{{"type", "text"}, {"text", answer.text}}})}};
  if (!answer.structured.is_null()) result["structuredContent"] = std::move(answer.structured);
  if (answer.failed) result["isError"] = true;
  call.Say(Whole(request, stateless, std::move(result)), true);
}

}  // namespace omni
