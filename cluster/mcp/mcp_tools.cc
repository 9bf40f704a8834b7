#include "cluster/mcp/mcp_tools.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <limits>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <absl/strings/ascii.h>
#include <absl/strings/escaping.h>
#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>

#include "cluster/tasks/utf8_pieces.h"
#include "engine/base/json.h"
#include "engine/base/quoted.h"

namespace omni {
namespace {

using Json = nlohmann::json;

constexpr int64_t kMostTokens = 1 << 20;
constexpr int64_t kMostSeconds = 300, kUsualSeconds = 20;
constexpr int64_t kMostEvents = 500, kMostPage = 500;
constexpr size_t kMostEventBytes = 256 << 10;  // of one answer of watch_task

// --- What is listed

Json Text(const char* description) { return {{"type", "string"}, {"description", description}}; }
Json Whole(const char* description, int64_t least, int64_t most) {
  return {{"type", "integer"}, {"description", description}, {"minimum", least}, {"maximum", most}};
}
Json Real(const char* description) { return {{"type", "number"}, {"description", description}}; }
Json Object(const char* description) { return {{"type", "object"}, {"description", description}}; }

Json Listed(const std::string& name, const char* title, const char* description, Json properties,
            const std::vector<std::string>& required, bool reads_only) {
  Json schema = {{"type", "object"}, {"properties", std::move(properties)}, {"additionalProperties", false}};
  if (!required.empty()) schema["required"] = required;
  return {{"name", name},
          {"title", title},
          {"description", description},
          {"inputSchema", std::move(schema)},
          {"annotations", {{"title", title}, {"readOnlyHint", reads_only}, {"openWorldHint", !reads_only}}}};
}

Json Id() { return Text("The task's id"); }

std::vector<McpTool> MakeTools() {
  std::vector<McpTool> tools;
  const auto add = [&](const char* name, Scope scope, const char* title, const char* description,
                       Json properties, const std::vector<std::string>& required, bool reads_only) {
    tools.push_back(
        {name, scope, Listed(name, title, description, std::move(properties), required, reads_only)});
  };
  add("generate", Scope::kInfer, "Generate text",
      "Lets the served model go on with a text, and gives what it said. Cancelling stops within a token.",
      {{"prompt", Text("What the model goes on with")},
       {"max_tokens", Whole("Tokens at most; 128 if it is left out", 1, kMostTokens)},
       {"temperature", Real("0 takes the likeliest token every time")},
       {"top_k", Whole("Of the likeliest so many; 0: off", 0, std::numeric_limits<int32_t>::max())},
       {"top_p", Real("Of the likeliest that together have this probability; 1: off")},
       {"min_p", Real("Of those with this share of the largest probability; 0: off")},
       {"seed", Whole("The same seed draws the same text", 0, std::numeric_limits<int64_t>::max())},
       {"stop",
        {{"type", "array"},
         {"items", {{"type", "string"}}},
         {"description", "The text ends before the first of these"}}}},
      {"prompt"}, true);
  add("submit_task", Scope::kTasks, "Submit a task",
      "Hands in work that lasts: once it is accepted it is done whatever fails meanwhile, and ends once in "
      "its "
      "record. Gives the task with its id, at once.",
      {{"work",
        Object("What is to be done, one of: {\"model\": {\"prompt\", \"max_tokens\"}}, {\"command\": "
               "{\"program\", \"arguments\", \"input\" in base64}}, {\"agent\": {\"agent\", \"message\"}}, "
               "{\"job\": {\"verb\", \"arguments\"}}, {\"adapt\": {\"name\", \"text\" in base64}}, "
               "{\"fan_out\": {\"children\", \"gather\"}}; "
               "list_executors says what is offered")},
       {"idempotency_key", Text("The same key with the same work is the same task")},
       {"context", Text("What it belongs to, by which tasks can be listed")},
       {"labels", Object("Names and texts of the caller's own")},
       {"priority", Whole("Among the caller's own tasks", -100, 100)},
       {"not_before", Text("Begun no sooner, as 2026-12-01T08:00:00Z")},
       {"run_timeout", Text("That an attempt may take, as 60s")},
       {"retry", Object("As of omni.tasks.v1.RetryPolicy: {\"attempts\": 3}")}},
      {"work"}, false);
  add("watch_task", Scope::kTasks, "Watch a task",
      "Waits for a task's events after a number, and gives those that came: until the task is over or the "
      "time "
      "is. To go on, ask again with `after` as the answer's `last`; no event is left out or told twice.",
      {{"id", Id()},
       {"after", Whole("The number of the last event that is known; 0: from the first on", 0,
                       std::numeric_limits<int64_t>::max())},
       {"wait_seconds", Whole("How long to wait at most; 20 if it is left out", 1, kMostSeconds)}},
      {"id"}, true);
  add("get_task", Scope::kTasks, "Look at a task", "A task as it is: its status, its result once it has one.",
      {{"id", Id()}}, {"id"}, true);
  add("list_tasks", Scope::kTasks, "List tasks",
      "The caller's tasks, the one whose status changed last first.",
      {{"statuses",
        {{"type", "array"},
         {"items",
          {{"type", "string"},
           {"enum", {"scheduled", "queued", "running", "waiting", "succeeded", "failed", "cancelled"}}}},
         {"description", "Only these"}}},
       {"context", Text("Only of this context")},
       {"executor", Text("Only of this executor, as model")},
       {"page_size", Whole("Tasks at most; 50 if it is left out", 1, kMostPage)},
       {"page_token", Text("What the page before said as next_page_token")}},
      {}, true);
  add("cancel_task", Scope::kTasks, "Cancel a task",
      "Ends a task that is not over. One that runs is told to stop, and ends as cancelled or, if that came "
      "first, as it did.",
      {{"id", Id()}}, {"id"}, false);
  add("list_executors", Scope::kTasks, "List executors", "Who does the work of tasks here.", Json::object(),
      {}, true);
  return tools;
}

// --- Arguments

// Reads them one by one; the first that is wrong is kept.
class Arguments {
 public:
  Arguments(const Json& given, const McpTool& tool) : given_(given) {
    const Json& schema = tool.listed["inputSchema"];
    for (const auto& [name, value] : given.items()) {
      if (!schema["properties"].contains(name))
        Wrong(absl::StrCat("there is no argument ", Quoted(name), " of ", tool.name));
    }
    for (const Json& name : schema.value("required", Json::array())) {
      if (!given.contains(name.get<std::string>()))
        Wrong(absl::StrCat("the argument ", name.get<std::string>(), " is missing"));
    }
  }
  std::string TextOf(const char* name) {
    const Json* const value = Find(name);
    if (value == nullptr) return "";
    if (!value->is_string()) return Wrong(absl::StrCat(name, " is no text")), "";
    return value->get<std::string>();
  }
  int64_t WholeOf(const char* name, int64_t least, int64_t most, int64_t without) {
    const Json* const value = Find(name);
    if (value == nullptr) return without;
    const bool fits = value->is_number_integer() &&
                      (!value->is_number_unsigned() ||
                       value->get<uint64_t>() <= uint64_t{std::numeric_limits<int64_t>::max()}) &&
                      value->get<int64_t>() >= least && value->get<int64_t>() <= most;
    if (!fits) return Wrong(absl::StrCat(name, " is no whole number from ", least, " to ", most)), without;
    return value->get<int64_t>();
  }
  float RealOf(const char* name, float without) {
    const Json* const value = Find(name);
    if (value == nullptr) return without;
    if (!value->is_number()) return Wrong(absl::StrCat(name, " is no number")), without;
    return value->get<float>();
  }
  std::vector<std::string> TextsOf(const char* name) {
    std::vector<std::string> texts;
    const Json* const value = Find(name);
    if (value == nullptr) return texts;
    if (!value->is_array()) return Wrong(absl::StrCat(name, " is no list of texts")), texts;
    for (const Json& one : *value) {
      if (!one.is_string()) return Wrong(absl::StrCat(name, " is no list of texts")), texts;
      texts.push_back(one.get<std::string>());
    }
    return texts;
  }
  const absl::Status& status() const { return status_; }

 private:
  const Json* Find(const char* name) const {
    const auto found = given_.find(name);
    return found == given_.end() || found->is_null() ? nullptr : &*found;
  }
  void Wrong(const std::string& what) {
    if (status_.ok()) status_ = absl::InvalidArgumentError(what);
  }
  const Json& given_;
  absl::Status status_;
};

// --- Doing it

// Bytes as a text where they are one, else in base64 under another name.
void PutBytes(const std::string& bytes, const char* name, Json* to) {
  std::string pending;
  const std::string text = TakeUtf8(bytes, &pending) + EndUtf8(&pending);
  if (text == bytes) {
    (*to)[name] = text;
  } else {
    (*to)[absl::StrCat(name, "_base64")] = absl::Base64Escape(bytes);
  }
}

// The numbers that protobuf's JSON has as texts, and bytes as what they are.
Json Readable(Json task) {
  int64_t last = 0;
  if (task.contains("last_event") && task["last_event"].is_string() &&
      absl::SimpleAtoi(task["last_event"].get_ref<const std::string&>(), &last))
    task["last_event"] = last;
  if (task.contains("result") && task["result"].is_string()) {
    std::string bytes;
    if (absl::Base64Unescape(task["result"].get_ref<const std::string&>(), &bytes)) {
      task.erase("result");
      if (!bytes.empty()) PutBytes(bytes, "result", &task);
    }
  }
  return task;
}

absl::StatusOr<Json> CallTask(McpBackend& backend, const McpAsker& asker, const char* method,
                              const Json& request) {
  const absl::StatusOr<std::string> answer = backend.Task(asker, method, JsonText(request));
  if (!answer.ok()) return answer.status();
  Json json = Json::parse(*answer, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return absl::InternalError("the answer is no JSON object");
  return json;
}

McpToolAnswer Told(Json structured) {
  std::string text = JsonText(structured, 2);
  return {std::move(structured), std::move(text), false};
}
McpToolAnswer Failed(const absl::Status& status) {
  return {nullptr, absl::StrCat(absl::StatusCodeToString(status.code()), ": ", status.message()), true};
}
McpToolAnswer ToldOr(const absl::StatusOr<Json>& task) {
  return task.ok() ? Told(Readable(*task)) : Failed(task.status());
}

struct Doing {
  McpBackend& backend;
  const McpAsker& asker;
  const Json& given;
  Arguments& arguments;
  const McpProgress& progress;
  const std::stop_token& stop;
};

McpToolAnswer Generate(const Doing& doing) {
  Arguments& from = doing.arguments;
  McpBackend::Asked asked;
  asked.prompt = from.TextOf("prompt");
  asked.max_tokens = from.WholeOf("max_tokens", 1, kMostTokens, asked.max_tokens);
  SamplerSettings& sampler = asked.sampler;
  sampler.temperature = from.RealOf("temperature", sampler.temperature);
  sampler.top_k =
      static_cast<int32_t>(from.WholeOf("top_k", 0, std::numeric_limits<int32_t>::max(), sampler.top_k));
  sampler.top_p = from.RealOf("top_p", sampler.top_p);
  sampler.min_p = from.RealOf("min_p", sampler.min_p);
  sampler.seed = static_cast<uint64_t>(from.WholeOf("seed", 0, std::numeric_limits<int64_t>::max(), 0));
  asked.stops = from.TextsOf("stop");
  if (!from.status().ok()) return Failed(from.status());
  if (absl::Status s = Validate(sampler); !s.ok()) return Failed(s);
  const auto total = static_cast<double>(asked.max_tokens);
  const absl::StatusOr<McpBackend::Answer> answer = doing.backend.Generate(
      doing.asker, asked,
      [&](int64_t tokens, const std::string& text) {
        doing.progress(static_cast<double>(tokens), total, text);
      },
      doing.stop);
  if (!answer.ok()) return Failed(answer.status());
  return {Json{{"text", answer->text},
               {"reason", answer->reason},
               {"prompt_tokens", answer->prompt_tokens},
               {"tokens", answer->tokens}},
          answer->text, false};
}

McpToolAnswer Submit(const Doing& doing) {
  if (!doing.arguments.status().ok()) return Failed(doing.arguments.status());
  Json request = {{"spec", doing.given}};
  if (const std::string key = doing.arguments.TextOf("idempotency_key"); !key.empty())
    request["idempotency_key"] = key;
  if (!doing.arguments.status().ok()) return Failed(doing.arguments.status());
  request["spec"].erase("idempotency_key");
  const absl::StatusOr<Json> answer = CallTask(doing.backend, doing.asker, "SubmitTask", request);
  if (!answer.ok()) return Failed(answer.status());
  Json task = Readable(answer->value("task", Json::object()));
  task["existed"] = answer->value("existed", false);
  return Told(std::move(task));
}

// Asks for a stop after a time, or when another stop is asked for.
class StopAfter {
 public:
  StopAfter(const std::stop_token& other, std::chrono::seconds time)
      : with_other_(other, [this] { stop_.request_stop(); }),
        thread_([this, time](const std::stop_token& over) {
          std::mutex mutex;
          std::unique_lock lock(mutex);
          std::condition_variable_any never;
          never.wait_for(lock, over, time, [] { return false; });
          stop_.request_stop();
        }) {}
  std::stop_token token() const { return stop_.get_token(); }

 private:
  std::stop_source stop_;
  const std::stop_callback<std::function<void()>> with_other_;
  std::jthread thread_;  // goes first
};

McpToolAnswer Watch(const Doing& doing) {
  const TaskId id = doing.arguments.TextOf("id");
  int64_t last = doing.arguments.WholeOf("after", 0, std::numeric_limits<int64_t>::max(), 0);
  const int64_t seconds = doing.arguments.WholeOf("wait_seconds", 1, kMostSeconds, kUsualSeconds);
  if (!doing.arguments.status().ok()) return Failed(doing.arguments.status());
  Json events = Json::array();
  size_t bytes = 0;
  bool full = false;
  absl::Status watched;
  {
    const StopAfter stop(doing.stop, std::chrono::seconds(seconds));
    watched = doing.backend.Watch(
        doing.asker, id, last,
        [&](const TaskEvent& event, const std::string& json) {
          const Json said = Json::parse(json, nullptr, /*allow_exceptions=*/false);
          Json told = {{"number", event.number}, {"attempt", event.attempt}};
          for (const char* same : {"kind", "status", "time", "node", "name", "ready"}) {
            if (said.is_object() && said.contains(same) && said[same] != "") told[same] = said[same];
          }
          if (!event.data.empty()) PutBytes(event.data, "data", &told);
          bytes += event.data.size() + 200;
          doing.progress(static_cast<double>(event.number), 0,
                         absl::StrCat(told.value("kind", ""), event.name.empty() ? "" : " ", event.name));
          last = event.number;
          events.push_back(std::move(told));
          full = std::ssize(events) >= kMostEvents || bytes >= kMostEventBytes;
          return !full;
        },
        stop.token());
    full = full || stop.token().stop_requested();
  }
  if (!watched.ok()) return Failed(watched);
  const absl::StatusOr<Json> task = CallTask(doing.backend, doing.asker, "GetTask", {{"id", id}});
  if (!task.ok()) return Failed(task.status());
  const std::string status = task->value("status", "");
  const bool ended = status == "SUCCEEDED" || status == "FAILED" || status == "CANCELLED";
  const Json readable = Readable(*task);
  const bool all = !full || (ended && readable.value("last_event", int64_t{0}) <= last);
  return Told({{"id", id},
               {"status", status},
               {"events", std::move(events)},
               {"last", last},
               {"over", ended && all}});
}

McpToolAnswer List(const Doing& doing) {
  Json request = Json::object();
  for (const char* name : {"context", "executor", "page_token"}) {
    if (const std::string text = doing.arguments.TextOf(name); !text.empty()) request[name] = text;
  }
  request["page_size"] = doing.arguments.WholeOf("page_size", 1, kMostPage, 50);
  for (const std::string& status : doing.arguments.TextsOf("statuses"))
    request["statuses"].push_back(absl::AsciiStrToUpper(status));
  if (!doing.arguments.status().ok()) return Failed(doing.arguments.status());
  absl::StatusOr<Json> page = CallTask(doing.backend, doing.asker, "ListTasks", request);
  if (!page.ok()) return Failed(page.status());
  for (Json& task : (*page)["tasks"]) task = Readable(std::move(task));
  return Told(*std::move(page));
}

McpToolAnswer OfOne(const Doing& doing, const char* method) {
  const std::string id = doing.arguments.TextOf("id");
  if (!doing.arguments.status().ok()) return Failed(doing.arguments.status());
  return ToldOr(CallTask(doing.backend, doing.asker, method, {{"id", id}}));
}

}  // namespace

const std::vector<McpTool>& McpTools() {
  static const std::vector<McpTool>* const tools = new std::vector<McpTool>(MakeTools());
  return *tools;
}

const McpTool* FindMcpTool(const std::string& name) {
  const std::vector<McpTool>& tools = McpTools();
  const auto found =
      std::find_if(tools.begin(), tools.end(), [&](const McpTool& tool) { return tool.name == name; });
  return found == tools.end() ? nullptr : &*found;
}

McpToolAnswer DoMcpTool(McpBackend& backend, const McpAsker& asker, const McpTool& tool, const Json& given,
                        const McpProgress& progress, const std::stop_token& stop) {
  Arguments arguments(given, tool);
  const Doing doing{backend, asker, given, arguments, progress, stop};
  if (!arguments.status().ok()) return Failed(arguments.status());
  if (tool.name == "generate") return Generate(doing);
  if (tool.name == "submit_task") return Submit(doing);
  if (tool.name == "watch_task") return Watch(doing);
  if (tool.name == "get_task") return OfOne(doing, "GetTask");
  if (tool.name == "list_tasks") return List(doing);
  if (tool.name == "cancel_task") return OfOne(doing, "CancelTask");
  return ToldOr(CallTask(backend, asker, "ListExecutors", Json::object()));
}

}  // namespace omni
