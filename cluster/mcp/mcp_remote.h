// The tools of the Model Context Protocol as another process does them, over gRPC.
#pragma once

#include <memory>
#include <string>

#include <absl/status/statusor.h>

#include "cluster/cluster_client.h"
#include "cluster/mcp/mcp_backend.h"
#include "cluster/tasks/task_client.h"

namespace omni {

class McpRemote final : public McpBackend {
 public:
  // ClusterClient's errors. Whose tasks are meant is the matter of the key that the options have.
  static absl::StatusOr<std::unique_ptr<McpRemote>> Make(const ClusterClientOptions& options);

  absl::StatusOr<std::string> Task(const McpAsker& asker, const std::string& method,
                                   const std::string& request) override;
  absl::Status Watch(const McpAsker& asker, const TaskId& id, int64_t after, const OnEvent& on_event,
                     const std::stop_token& stop) override;
  absl::StatusOr<Answer> Generate(
      const McpAsker& asker, const Asked& asked,
      const std::function<void(int64_t tokens, const std::string& text)>& on_token,
      const std::stop_token& stop) override;

 private:
  McpRemote(std::unique_ptr<RemoteTasks> tasks, std::unique_ptr<ClusterClient> client)
      : tasks_(std::move(tasks)), client_(std::move(client)) {}
  const std::unique_ptr<RemoteTasks> tasks_;
  const std::unique_ptr<ClusterClient> client_;
};

}  // namespace omni
