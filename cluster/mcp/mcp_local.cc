#include "cluster/mcp/mcp_local.h"

#include <algorithm>
#include <condition_variable>
#include <future>
#include <optional>
#include <utility>

#include <absl/strings/str_cat.h>

#include "cluster/tasks/task_calls.h"
#include "cluster/tasks/task_json.h"
#include "cluster/tasks/task_messages.h"
#include "engine/base/quoted.h"
#include "engine/text/prompt.h"

namespace omni {
namespace {

namespace pb = ::omni::tasks::v1;

constexpr int kBatchEvents = 64;
constexpr size_t kBatchBytes = 128 << 10;

TaskClient Client(const McpAsker& asker) { return {asker.caller, asker.scopes.Has(Scope::kAdmin)}; }

// `answer(request, response)`, from JSON to JSON.
template <typename Request, typename Response, typename F>
absl::StatusOr<std::string> Answered(const std::string& json, const F& answer) {
  Request request;
  if (absl::Status s = ReadTaskJson(json, &request); !s.ok()) return s;
  Response response;
  if (absl::Status s = answer(request, response); !s.ok()) return s;
  return TaskJson(response);
}

}  // namespace

struct McpLocal::Watcher {
  std::mutex mutex;
  std::condition_variable_any changed;
  bool news = false;
};

McpLocal::McpLocal(TaskEngine* engine, InferenceBackend& model, McpLocalOptions options)
    : engine_(engine), model_(model), options_(std::move(options)) {
  if (engine_ != nullptr) engine_->AddListener(this);
}
McpLocal::~McpLocal() {
  if (engine_ != nullptr) engine_->RemoveListener(this);
}

absl::Status McpLocal::Serving() const {
  if (absl::Status s = options_.serving == nullptr ? absl::OkStatus() : options_.serving(); !s.ok()) return s;
  return engine_ != nullptr ? absl::OkStatus() : absl::UnavailableError("this node keeps no tasks");
}

absl::StatusOr<std::string> McpLocal::Task(const McpAsker& asker, const std::string& method,
                                           const std::string& request) {
  if (absl::Status s = Serving(); !s.ok()) return s;
  const TaskClient by = Client(asker);
  const TaskReader& reader = engine_->reader();
  if (method == "SubmitTask") {
    return Answered<pb::SubmitTaskRequest, pb::SubmitTaskResponse>(
        request, [&](const auto& asked, auto& response) {
          std::promise<absl::Status> told;
          SubmitTaskCall(*engine_, by, asked, "spec", response,
                         [&told](const absl::Status& status) { told.set_value(status); });
          return told.get_future().get();
        });
  }
  if (method == "GetTask") {
    return Answered<pb::GetTaskRequest, pb::Task>(
        request, [&](const auto& asked, auto& task) { return GetTaskCall(reader, by, asked, task); });
  }
  if (method == "ListTasks") {
    return Answered<pb::ListTasksRequest, pb::ListTasksResponse>(
        request,
        [&](const auto& asked, auto& response) { return ListTasksCall(reader, by, asked, response); });
  }
  if (method == "CancelTask") {
    return Answered<pb::CancelTaskRequest, pb::Task>(request, [&](const auto& asked, auto& task) {
      std::promise<absl::StatusOr<TaskState>> told;
      engine_->Cancel(by, asked.id(),
                      [&told](absl::StatusOr<TaskState> state) { told.set_value(std::move(state)); });
      const absl::StatusOr<TaskState> state = told.get_future().get();
      if (state.ok()) TellTask(*state, task);
      return state.status();
    });
  }
  if (method != "ListExecutors")
    return absl::UnimplementedError(absl::StrCat("there is no ", Quoted(method)));
  pb::ListExecutorsResponse response;
  ListExecutorsCall(options_.places(), response);
  return TaskJson(response);
}

void McpLocal::OnChanged(const std::set<TaskId>& tasks) {
  const std::lock_guard lock(mutex_);
  if (watchers_.empty()) return;
  for (const TaskId& id : tasks) {
    const auto [begin, end] = watchers_.equal_range(id);
    for (auto it = begin; it != end; ++it) {
      const std::lock_guard one(it->second->mutex);
      it->second->news = true;
      it->second->changed.notify_all();
    }
  }
}

absl::Status McpLocal::Watch(const McpAsker& asker, const TaskId& id, int64_t after, const OnEvent& on_event,
                             const std::stop_token& stop) {
  if (absl::Status s = Serving(); !s.ok()) return s;
  const TaskClient by = Client(asker);
  Watcher watcher;
  std::multimap<TaskId, Watcher*>::iterator place;
  {
    const std::lock_guard lock(mutex_);
    place = watchers_.emplace(id, &watcher);
  }
  struct Leave {
    McpLocal& local;
    std::multimap<TaskId, Watcher*>::iterator place;
    ~Leave() {
      const std::lock_guard lock(local.mutex_);
      local.watchers_.erase(place);
    }
  } const leave{*this, place};
  const TaskReader& reader = engine_->reader();
  while (!stop.stop_requested()) {
    const absl::StatusOr<std::vector<TaskEvent>> events =
        reader.Events(by, id, after, kBatchEvents, kBatchBytes);
    if (!events.ok()) return events.status();
    for (const TaskEvent& event : *events) {
      pb::TaskEvent message;
      TellEvent(id, event, message);
      after = event.number;
      if (!on_event(event, TaskJson(message))) return absl::OkStatus();
    }
    if (!events->empty()) continue;
    const absl::StatusOr<TaskState> state = reader.Find(by, id);
    if (!state.ok()) return state.status();
    if (after > state->last_event) {
      return absl::OutOfRangeError(absl::StrCat("the task has ", state->last_event,
                                                " events so far, and the client says it has ", after));
    }
    if (after < state->last_event) continue;  // one came meanwhile
    if (IsOver(state->status)) return absl::OkStatus();
    std::unique_lock lock(watcher.mutex);
    watcher.changed.wait(lock, stop, [&] { return watcher.news; });
    watcher.news = false;
  }
  return absl::OkStatus();
}

absl::StatusOr<McpBackend::Answer> McpLocal::Generate(
    const McpAsker& asker, const Asked& asked,
    const std::function<void(int64_t tokens, const std::string& text)>& on_token,
    const std::stop_token& stop) {
  if (absl::Status s = model_.Serving(); !s.ok()) return s;
  GenerateRequest request;
  request.prompt = PromptTokens(model_.tokenizer(), asked.prompt);
  request.max_tokens = std::min(asked.max_tokens, options_.most_tokens);
  request.sampler = asked.sampler;
  request.stops = asked.stops;
  request.stop_at_end_of_text = asked.stop_at_end_of_text;
  request.caller = asker.caller;
  const int64_t prompt_tokens = std::ssize(request.prompt);
  absl::StatusOr<std::unique_ptr<SessionHandle>> handle = model_.Submit(std::move(request), {});
  if (!handle.ok()) return handle.status();
  Answer answer;
  answer.prompt_tokens = prompt_tokens;
  bool counted = false, cancelled = false;
  while (true) {
    SessionChannel::Taken taken = (*handle)->Wait(cancelled ? std::stop_token() : stop);
    if (stop.stop_requested() && !std::exchange(cancelled, true)) (*handle)->Cancel();
    for (const GenerateEvent& event : taken.events) {
      if (asker.permit != nullptr) {
        if (!std::exchange(counted, true)) asker.permit->OnTokens(prompt_tokens);
        if (event.is_token) asker.permit->OnTokens(1);
      }
      if (event.is_token) on_token(++answer.tokens, event.text);
    }
    if (taken.result.has_value()) {
      if (!taken.result->ok()) return taken.result->status();
      answer.text = (*taken.result)->text;
      answer.reason = StopReasonName((*taken.result)->reason);
      return answer;
    }
    if (asker.permit == nullptr) continue;
    if (absl::Status s = asker.permit->InTime(); !s.ok()) return s;
  }
}

}  // namespace omni
