// The tools of the Model Context Protocol as this process does them: with its task engine and its model.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "actors/task/task_engine.h"
#include "cluster/inference_backend.h"
#include "cluster/mcp/mcp_backend.h"
#include "cluster/tasks/task_places.h"

namespace omni {

struct McpLocalOptions {
  std::function<absl::Status()> serving;            // whether tasks are kept here at present
  std::function<std::vector<TaskPlaces>()> places;  // who does them
  int64_t most_tokens = int64_t{1} << 40;           // of one text
};

class McpLocal final : public McpBackend, public TaskListener {
 public:
  // The engine and the model outlive it. engine null: tasks are never kept here.
  McpLocal(TaskEngine* engine, InferenceBackend& model, McpLocalOptions options);
  ~McpLocal() override;  // when nobody calls it any more

  absl::StatusOr<std::string> Task(const McpAsker& asker, const std::string& method,
                                   const std::string& request) override;
  absl::Status Watch(const McpAsker& asker, const TaskId& id, int64_t after, const OnEvent& on_event,
                     const std::stop_token& stop) override;
  absl::StatusOr<Answer> Generate(
      const McpAsker& asker, const Asked& asked,
      const std::function<void(int64_t tokens, const std::string& text)>& on_token,
      const std::stop_token& stop) override;

  void OnChanged(const std::set<TaskId>& tasks) override;  // of any thread

 private:
  struct Watcher;
  absl::Status Serving() const;

  TaskEngine* const engine_;
  InferenceBackend& model_;
  const McpLocalOptions options_;
  std::mutex mutex_;
  std::multimap<TaskId, Watcher*> watchers_;
};

}  // namespace omni
