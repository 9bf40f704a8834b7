#include "cluster/mcp/mcp_remote.h"

#include <utility>

namespace omni {

absl::StatusOr<std::unique_ptr<McpRemote>> McpRemote::Make(const ClusterClientOptions& options) {
  absl::StatusOr<std::unique_ptr<RemoteTasks>> tasks = RemoteTasks::Make(options);
  if (!tasks.ok()) return tasks.status();
  absl::StatusOr<std::unique_ptr<ClusterClient>> client = ClusterClient::Make(options);
  if (!client.ok()) return client.status();
  return std::unique_ptr<McpRemote>(new McpRemote(*std::move(tasks), *std::move(client)));
}

absl::StatusOr<std::string> McpRemote::Task(const McpAsker&, const std::string& method,
                                            const std::string& request) {
  return tasks_->Call(method, request);
}

absl::Status McpRemote::Watch(const McpAsker&, const TaskId& id, int64_t after, const OnEvent& on_event,
                              const std::stop_token& stop) {
  return tasks_->Watch(id, after, on_event, stop);
}

absl::StatusOr<McpBackend::Answer> McpRemote::Generate(
    const McpAsker&, const Asked& asked,
    const std::function<void(int64_t tokens, const std::string& text)>& on_token,
    const std::stop_token& stop) {
  ClusterClient::Request request;
  request.prompt = asked.prompt;
  request.max_tokens = asked.max_tokens;
  request.sampler = asked.sampler;
  request.stops = asked.stops;
  request.stop_at_end_of_text = asked.stop_at_end_of_text;
  request.cancel = stop;
  int64_t tokens = 0;
  const absl::StatusOr<ClusterClient::Answer> answer =
      client_->Generate(request, [&](const GenerateEvent& event) {
        if (event.is_token) on_token(++tokens, event.text);
        return !stop.stop_requested();
      });
  if (!answer.ok()) return answer.status();
  return Answer{answer->text, answer->reason, answer->prompt_tokens, std::ssize(answer->tokens)};
}

}  // namespace omni
