#include "cluster/tasks/executor_config.h"

#include <unistd.h>

#include <algorithm>
#include <limits>
#include <utility>

#include <absl/strings/str_cat.h>

#include "engine/base/json.h"
#include "store/file/files.h"

namespace omni {
namespace {

using Json = nlohmann::json;

constexpr int64_t kMostBytes = 1LL << 50, kMostSeconds = 366LL * 24 * 3600;
constexpr size_t kMostFile = 1 << 20;

// An object's values, taken one after another; the first problem stays.
class Fields {
 public:
  Fields(const Json& object, std::string where) : object_(object), where_(std::move(where)) {
    if (!object.is_object()) Refuse("", "is no object");
  }

  bool Has(const char* key) {
    known_.insert(key);
    return object_.is_object() && object_.contains(key);
  }
  const Json& At(const char* key) const { return object_.at(key); }
  std::string Where(const std::string& key) const { return where_.empty() ? key : where_ + "." + key; }

  void Number(const char* key, int64_t least, int64_t most, int64_t& value) {
    if (!Has(key)) return;
    const Json& json = At(key);
    if (!json.is_number_integer() || json.get<double>() < static_cast<double>(least) ||
        json.get<double>() > static_cast<double>(most))
      return Refuse(key, absl::StrCat("is no whole number from ", least, " to ", most));
    value = json.get<int64_t>();
  }
  void Bool(const char* key, bool& value) {
    if (!Has(key)) return;
    if (!At(key).is_boolean()) return Refuse(key, "is neither true nor false");
    value = At(key).get<bool>();
  }
  void Text(const char* key, std::string& value) {
    if (!Has(key)) return;
    if (!IsText(At(key))) return Refuse(key, "is no text");
    value = At(key).get<std::string>();
  }
  void Texts(const char* key, std::vector<std::string>& value) {
    if (!Has(key)) return;
    const Json& json = At(key);
    if (!json.is_array() || !std::all_of(json.begin(), json.end(), IsText))
      return Refuse(key, "is no list of texts");
    value = json.get<std::vector<std::string>>();
  }
  void Map(const char* key, std::map<std::string, std::string>& value) {
    if (!Has(key)) return;
    const Json& json = At(key);
    if (!json.is_object() || !std::all_of(json.begin(), json.end(), IsText))
      return Refuse(key, "is no object of texts");
    value = json.get<std::map<std::string, std::string>>();
  }

  void Refuse(const std::string& key, const std::string& why) {
    if (status_.ok()) status_ = absl::InvalidArgumentError(absl::StrCat("'", Where(key), "' ", why));
  }
  void Add(const absl::Status& status) { status_.Update(status); }
  absl::Status Done() {
    if (object_.is_object()) {
      for (const auto& [key, value] : object_.items())
        if (!known_.contains(key)) Refuse(key, "is not known here");
    }
    return status_;
  }

 private:
  // A zero byte would end it early for the program that gets it.
  static bool IsText(const Json& json) {
    return json.is_string() && json.get_ref<const std::string&>().find('\0') == std::string::npos;
  }

  const Json& object_;
  const std::string where_;
  std::set<std::string> known_;
  absl::Status status_;
};

bool IsName(const std::string& name) {
  return !name.empty() && name.size() <= 64 && std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_' || c == '.';
  });
}

void ReadLimits(Fields& fields, ChildLimits& limits, bool address) {
  if (!fields.Has("limits")) {
    if (address) limits.address_bytes = limits.memory_bytes;
    return;
  }
  Fields f(fields.At("limits"), fields.Where("limits"));
  int64_t seconds = limits.time.count() / 1000, grace = limits.grace.count() / 1000;
  f.Number("seconds", 0, kMostSeconds, seconds);
  f.Number("grace_seconds", 0, 3600, grace);
  limits.time = std::chrono::seconds(seconds);
  limits.grace = std::chrono::seconds(grace);
  f.Number("cpu_seconds", 0, kMostSeconds, limits.cpu_seconds);
  f.Number("memory_bytes", 0, kMostBytes, limits.memory_bytes);
  if (address) limits.address_bytes = limits.memory_bytes;
  f.Number("address_bytes", 0, kMostBytes, limits.address_bytes);
  f.Number("disk_bytes", 0, kMostBytes, limits.disk_bytes);
  f.Number("open_files", 0, 1 << 20, limits.open_files);
  f.Number("processes", 0, 1 << 20, limits.processes);
  fields.Add(f.Done());
}

// address: the virtual memory of a process is limited too where nothing is said of it, as some languages'
// runtimes do not bear it.
void ReadProgram(Fields& fields, ProgramConfig& program, bool address) {
  fields.Text("description", program.description);
  int64_t slots = program.slots;
  fields.Number("slots", 1, 256, slots);
  program.slots = static_cast<int>(slots);
  fields.Map("environment", program.environment);
  for (const auto& [name, value] : program.environment)
    if (name.empty() || name.find('=') != std::string::npos)
      fields.Refuse("environment", absl::StrCat("has ", Quoted(name), ", which is no variable's name"));
  ReadLimits(fields, program.limits, address);
  // Three attempts at least go into what a task's log may have.
  fields.Number("output_bytes", 0, 20 << 20, program.output_bytes);
  fields.Bool("drop_output", program.drop_output);
  fields.Number("artifacts", 0, 10'000, program.artifacts);
  fields.Number("artifact_bytes", 0, kMostBytes, program.artifact_bytes);
}

void ReadArgv(Fields& fields, ProgramConfig& program) {
  fields.Texts("argv", program.argv);
  if (program.argv.empty())
    return fields.Refuse("argv", "is needed: the program's absolute path, and arguments");
  if (!program.argv[0].starts_with('/')) return fields.Refuse("argv", "does not begin with an absolute path");
  if (::access(program.argv[0].c_str(), X_OK) != 0)
    fields.Refuse("argv", absl::StrCat("names ", Quoted(program.argv[0]), ", which cannot be run here"));
}

ProgramConfig ReadCommand(Fields& fields) {
  ProgramConfig program;
  ReadArgv(fields, program);
  ReadProgram(fields, program, /*address=*/true);
  fields.Number("arguments", 0, 1000, program.arguments);
  std::vector<std::string> names;
  fields.Texts("task_environment", names);
  program.task_environment.insert(names.begin(), names.end());
  return program;
}

AgentConfig ReadAgent(Fields& fields) {
  AgentConfig agent;
  std::string protocol = "acp", permissions = "reject";
  fields.Text("protocol", protocol);
  if (protocol != "acp" && protocol != "zeroclaw")
    fields.Refuse("protocol", "is neither 'acp' nor 'zeroclaw'");
  agent.protocol = protocol == "zeroclaw" ? AgentConfig::Protocol::kZeroclaw : AgentConfig::Protocol::kAcp;
  ReadArgv(fields, agent.program);
  ReadProgram(fields, agent.program, /*address=*/false);
  fields.Text("workspace", agent.workspace);
  if (!agent.workspace.empty() && !agent.workspace.starts_with('/'))
    fields.Refuse("workspace", "is no absolute path");
  fields.Text("alias", agent.alias);
  if (agent.protocol == AgentConfig::Protocol::kZeroclaw) {
    if (agent.alias.empty()) fields.Refuse("alias", "is needed: which of ZeroClaw's agents it is");
    fields.Text("provider", agent.provider);
    fields.Text("model", agent.model);
  } else {
    fields.Text("permissions", permissions);
    if (permissions != "reject" && permissions != "allow")
      fields.Refuse("permissions", "is neither 'reject' nor 'allow'");
    agent.allow = permissions == "allow";
    fields.Bool("files", agent.files);
  }
  return agent;
}

JobConfig ReadJobs(Fields& fields) {
  JobConfig jobs;
  jobs.program.limits = {.time = std::chrono::milliseconds(0),
                         .memory_bytes = 0,
                         .disk_bytes = 0,
                         .open_files = 0,
                         .processes = 0};
  ReadProgram(fields, jobs.program, /*address=*/false);
  fields.Number("arguments", 0, 1000, jobs.program.arguments);
  std::vector<std::string> verbs = {"eval", "pack", "train"};
  fields.Texts("verbs", verbs);
  for (const std::string& verb : verbs) {
    if (verb != "eval" && verb != "pack" && verb != "train")
      fields.Refuse("verbs", absl::StrCat("has ", Quoted(verb), "; there are eval, pack and train"));
    jobs.verbs.insert(verb);
  }
  fields.Texts("folders", jobs.folders);
  for (const std::string& folder : jobs.folders)
    if (!folder.starts_with('/'))
      fields.Refuse("folders", absl::StrCat("has ", Quoted(folder), ", which is not absolute"));
  return jobs;
}

template <typename T, typename Read>
void ReadNamed(Fields& fields, const char* key, Read read, std::map<std::string, T>& into) {
  if (!fields.Has(key)) return;
  const Json& all = fields.At(key);
  if (!all.is_object()) return fields.Refuse(key, "is no object");
  for (const auto& [name, value] : all.items()) {
    if (!IsName(name))
      return fields.Refuse(
          key, absl::StrCat("has ", Quoted(name), "; names are letters, digits, '-', '_' and '.'"));
    Fields one(value, fields.Where(key) + "." + name);
    into[name] = read(one);
    fields.Add(one.Done());
  }
}

}  // namespace

absl::StatusOr<ExecutorConfig> ParseExecutorConfig(std::string_view text) {
  const absl::StatusOr<Json> json = ParseJson<Json>(text);
  if (!json.ok()) return absl::InvalidArgumentError(absl::StrCat("the text ", json.status().message()));
  ExecutorConfig config;
  Fields fields(*json, "");
  ReadNamed(fields, "commands", ReadCommand, config.commands);
  ReadNamed(fields, "agents", ReadAgent, config.agents);
  if (fields.Has("jobs")) {
    Fields jobs(fields.At("jobs"), "jobs");
    config.jobs = ReadJobs(jobs);
    fields.Add(jobs.Done());
  }
  fields.Text("control_group", config.control_group);
  if (absl::Status s = fields.Done(); !s.ok()) return s;
  return config;
}

absl::StatusOr<ExecutorConfig> LoadExecutorConfig(const std::string& path) {
  const absl::StatusOr<std::string> text = ReadText(path, kMostFile);
  if (!text.ok()) return text.status();
  absl::StatusOr<ExecutorConfig> config = ParseExecutorConfig(*text);
  if (!config.ok())
    return absl::Status(config.status().code(), absl::StrCat(path, ": ", config.status().message()));
  return config;
}

}  // namespace omni
