#include "cluster/tasks/acp_session.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <system_error>
#include <utility>

#include <absl/strings/str_cat.h>

#include "engine/base/json.h"
#include "store/file/files.h"

namespace omni {
namespace {

using Json = nlohmann::json;
constexpr int kProtocol = 1;
constexpr size_t kDepth = 64;                // of an agent's messages
constexpr int64_t kMostFileBytes = 4 << 20;  // that it may have read or written for it
constexpr size_t kMostUnread = 32 << 20;
constexpr int kNoSuchMethod = -32601, kRefused = -32603;
constexpr char kErrorProtocol[] = "protocol", kErrorAgent[] = "agent";

std::string TextAt(const Json& json, const char* key) {
  if (!json.is_object()) return "";
  const auto at = json.find(key);
  return at != json.end() && at->is_string() ? at->get<std::string>() : "";
}
const Json& At(const Json& json, const char* key) {
  static const Json none;
  if (!json.is_object()) return none;
  const auto at = json.find(key);
  return at == json.end() ? none : *at;
}

TaskOutcome NotTheProtocol(std::string_view what) {
  return TaskOutcome::Failed(kErrorProtocol,
                             absl::StrCat("the agent does not keep to the Agent Client Protocol: ",
                                          absl::string_view(what.data(), what.size())));
}

}  // namespace

AcpSession::AcpSession(TaskAttempt& attempt, const AgentConfig& agent, AcpWork work)
    : StreamTalk(attempt, agent.program, "text"), attempt_(attempt), agent_(agent), work_(std::move(work)) {
  Ask("initialize",
      {{"protocolVersion", kProtocol},
       {"clientCapabilities",
        {{"fs", {{"readTextFile", agent_.files}, {"writeTextFile", agent_.files}}}, {"terminal", false}}}});
}

void AcpSession::Say(const Json& message) { to_say += JsonText(message) + "\n"; }
void AcpSession::Ask(const char* method, Json params) {
  Say({{"jsonrpc", "2.0"}, {"id", ++asked_}, {"method", method}, {"params", std::move(params)}});
}

bool AcpSession::OnStop() {
  if (step_ != Step::kPrompt || cancelled_) return false;
  cancelled_ = true;
  Say({{"jsonrpc", "2.0"}, {"method", "session/cancel"}, {"params", {{"sessionId", session_}}}});
  return true;
}

std::optional<TaskOutcome> AcpSession::OnOut(std::string_view bytes) {
  while (!bytes.empty() && !finished.has_value()) {
    const size_t end = bytes.find('\n');
    line_ += bytes.substr(0, end);
    if (line_.size() > kMostLine)
      return NotTheProtocol(absl::StrCat("a line has more than ", kMostLine, " bytes"));
    if (end == std::string_view::npos) return std::nullopt;
    bytes.remove_prefix(end + 1);
    const std::string line = std::exchange(line_, "");
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    if (std::optional<TaskOutcome> outcome = OnLine(line); outcome.has_value()) return outcome;
  }
  return std::nullopt;
}

std::optional<TaskOutcome> AcpSession::OnLine(std::string_view line) {
  const absl::StatusOr<Json> message = ParseJson<Json>(line, kDepth);
  if (!message.ok()) return NotTheProtocol(absl::StrCat("a line ", message.status().message()));
  if (!message->is_object()) return NotTheProtocol("a line is no object");
  const std::string method = TextAt(*message, "method");
  if (method.empty()) return OnAnswer(*message);
  if (message->contains("id")) {
    OnAsked(*message);
    if (to_say.size() > kMostUnread) return NotTheProtocol("it asks and does not read the answers");
  } else if (method == "session/update") {
    return OnUpdate(At(At(*message, "params"), "update"));
  }
  return std::nullopt;
}

std::optional<TaskOutcome> AcpSession::OnAnswer(const Json& message) {
  const Json& id = At(message, "id");
  if (!id.is_number_integer() || id.get<int64_t>() != asked_) return std::nullopt;  // of no request of ours
  if (const Json& error = At(message, "error"); !error.is_null())
    return TaskOutcome::Failed(kErrorAgent, Quoted(TextAt(error, "message")));
  const Json& result = At(message, "result");
  if (step_ == Step::kGreeting) {
    if (At(result, "protocolVersion") != kProtocol) return NotTheProtocol("it speaks another version than 1");
    step_ = Step::kSession;
    Json params = {{"cwd", work_.folder}, {"mcpServers", Json::array()}};
    if (!agent_.alias.empty()) params["agentAlias"] = agent_.alias;
    if (work_.session.empty()) {
      Ask("session/new", std::move(params));
      return std::nullopt;
    }
    if (At(At(result, "agentCapabilities"), "loadSession") != true)
      return TaskOutcome::Failed(kErrorInvalid, "this agent cannot go on with a session");
    loads_ = true;
    params["sessionId"] = work_.session;
    Ask("session/load", std::move(params));
    return std::nullopt;
  }
  if (step_ == Step::kSession) return Prompt(result);
  const std::string reason = TextAt(result, "stopReason");
  if (reason == "cancelled") {
    finished = TaskOutcome::Failed(kErrorAgent, "the agent has cancelled its turn");
  } else if (reason == "refusal") {
    finished = TaskOutcome::Failed("refusal", "the agent refuses to do it");
  } else if (reason == "max_tokens" || reason == "max_turn_requests") {
    finished = TaskOutcome::Failed("agent-limit", absl::StrCat("the agent has met its own limit, ", reason));
  } else if (reason == "end_turn") {
    finished = TaskOutcome::Succeeded(text_);
  } else {
    return NotTheProtocol("its answer to a prompt has no stopReason that is known");
  }
  return std::nullopt;
}

std::optional<TaskOutcome> AcpSession::Prompt(const Json& result) {
  session_ = loads_ ? work_.session : TextAt(result, "sessionId");
  if (session_.empty()) return NotTheProtocol("its new session has no id");
  loads_ = false;
  step_ = Step::kPrompt;
  if (std::optional<TaskOutcome> outcome = Pass("session", session_); outcome.has_value()) return outcome;
  Json text = {{"type", "text"}, {"text", work_.message}};
  Ask("session/prompt", {{"sessionId", session_}, {"prompt", Json::array({std::move(text)})}});
  return std::nullopt;
}

std::optional<TaskOutcome> AcpSession::OnUpdate(const Json& update) {
  if (loads_) return std::nullopt;
  const std::string kind = TextAt(update, "sessionUpdate");
  const std::string text = TextAt(At(update, "content"), "text");
  if (kind == "agent_message_chunk" && !text.empty()) {
    text_ += text.substr(0, kMostResult - std::min(kMostResult, text_.size()));
    return Pass("text", text);
  }
  if (kind == "agent_thought_chunk" && !text.empty()) return Pass("thoughts", text);
  attempt_.Progress(JsonText(update));
  return std::nullopt;
}

void AcpSession::OnAsked(const Json& message) {
  const std::string method = TextAt(message, "method");
  const Json& params = At(message, "params");
  Json answer = {{"jsonrpc", "2.0"}, {"id", At(message, "id")}};
  std::string refused;
  std::optional<Json> result;
  if (method == "session/request_permission") {
    result = Permit(params);
  } else if (method == "fs/read_text_file") {
    result = ReadFile(params, refused);
  } else if (method == "fs/write_text_file") {
    result = WriteFile(params, refused);
  }
  if (result.has_value()) {
    answer["result"] = *std::move(result);
  } else if (refused.empty()) {
    answer["error"] = {{"code", kNoSuchMethod}, {"message", "there is no such method here"}};
  } else {
    answer["error"] = {{"code", kRefused}, {"message", refused}};
  }
  Say(answer);
}

Json AcpSession::Permit(const Json& params) const {
  const Json& options = At(params, "options");
  // Once: what it asks later, it is to ask again.
  for (const char* kind :
       {agent_.allow ? "allow_once" : "reject_once", agent_.allow ? "allow_always" : "reject_always"}) {
    if (!options.is_array() || cancelled_) break;
    for (const Json& option : options)
      if (TextAt(option, "kind") == kind)
        return {{"outcome", {{"outcome", "selected"}, {"optionId", TextAt(option, "optionId")}}}};
  }
  return {{"outcome", {{"outcome", "cancelled"}}}};
}

std::optional<std::string> AcpSession::Within(const Json& params, bool exists) const {
  const std::filesystem::path path = TextAt(params, "path");
  std::error_code error, none;
  if (!path.is_absolute() || !path.has_filename()) return std::nullopt;
  const std::filesystem::path folder = std::filesystem::canonical(work_.folder, error);
  const std::filesystem::path real =
      exists ? std::filesystem::canonical(path, error)
             : std::filesystem::canonical(path.parent_path(), error) / path.filename();
  const std::filesystem::file_type type = std::filesystem::symlink_status(real, none).type();
  const bool fresh = !exists && type == std::filesystem::file_type::not_found;
  if (error || (!fresh && type != std::filesystem::file_type::regular)) return std::nullopt;
  const auto [end, ignored] = std::mismatch(folder.begin(), folder.end(), real.begin(), real.end());
  if (end != folder.end()) return std::nullopt;
  return real.string();
}

std::optional<Json> AcpSession::ReadFile(const Json& params, std::string& refused) const {
  refused = "files are not read for it here";
  if (!agent_.files) return std::nullopt;
  const std::optional<std::string> path = Within(params, /*exists=*/true);
  refused = "there is no such file in its folder";
  if (!path.has_value()) return std::nullopt;
  const absl::StatusOr<std::string> text = ReadText(*path, kMostFileBytes);
  if (!text.ok()) {
    refused = std::string(text.status().message());
    return std::nullopt;
  }
  const Json& line = At(params, "line");
  const Json& limit = At(params, "limit");
  if (!line.is_number_unsigned() && !limit.is_number_unsigned()) return Json{{"content", *text}};
  uint64_t skip = line.is_number_unsigned() ? line.get<uint64_t>() : 1;
  uint64_t most = limit.is_number_unsigned() ? limit.get<uint64_t>() : UINT64_MAX;
  std::istringstream lines(*text);
  std::string content;
  for (std::string one; most > 0 && std::getline(lines, one);) {
    if (skip > 1) {
      --skip;
      continue;
    }
    content += one + "\n";
    --most;
  }
  return Json{{"content", content}};
}

std::optional<Json> AcpSession::WriteFile(const Json& params, std::string& refused) const {
  refused = "files are not written for it here";
  if (!agent_.files) return std::nullopt;
  const std::optional<std::string> path = Within(params, /*exists=*/false);
  refused = "that is no file in its folder";
  if (!path.has_value()) return std::nullopt;
  const std::string content = TextAt(params, "content");
  refused = absl::StrCat("a file that is written for it has ", kMostFileBytes, " bytes at most");
  if (static_cast<int64_t>(content.size()) > kMostFileBytes) return std::nullopt;
  std::ofstream file(*path, std::ios::binary | std::ios::trunc);
  file << content;
  file.close();
  refused = "it could not be written";
  if (!file) return std::nullopt;
  return Json(nullptr);
}

}  // namespace omni
