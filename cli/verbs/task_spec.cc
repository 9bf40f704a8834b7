#include "cli/verbs/task_spec.h"

#include <algorithm>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <absl/time/time.h>

#include "cli/verb.h"
#include "engine/base/json.h"
#include "engine/base/quoted.h"
#include "engine/text/text_file.h"
#include "store/file/files.h"

namespace omni::cli {
namespace {

using Json = nlohmann::json;

constexpr int64_t kMostFileBytes = 4 << 20;

absl::StatusOr<Json> WorkJson(const std::vector<std::string>& words, const TaskSpecFlags& flags) {
  if (words.empty()) {
    return UsageError(
        "omni task submit wants model TEXT, command PROGRAM ARGUMENTS…, agent NAME -m MESSAGE, job VERB "
        "ARGUMENTS…, or --file");
  }
  const std::string& kind = words[0];
  const auto refuse = [&](bool given, const char* flag, const char* of) {
    return given && kind != of ? UsageError(absl::StrCat(flag, " is of ", of, " alone; leave it out"))
                               : absl::OkStatus();
  };
  if (absl::Status s = refuse(flags.max_tokens > 0, "--max-tokens", "model"); !s.ok()) return s;
  if (absl::Status s = refuse(!flags.message.empty(), "--message", "agent"); !s.ok()) return s;
  if (absl::Status s = refuse(!flags.session.empty(), "--session", "agent"); !s.ok()) return s;
  const std::vector<std::string> rest(words.begin() + std::min<std::ptrdiff_t>(2, std::ssize(words)),
                                      words.end());
  if (kind == "model") {
    if (words.size() != 2) return UsageError("omni task submit model wants one text; put it in quotes");
    Json model = {{"prompt", words[1]}};
    if (flags.max_tokens > 0) model["max_tokens"] = flags.max_tokens;
    return Json{{"model", std::move(model)}};
  }
  if (kind == "command" || kind == "job") {
    const bool command = kind == "command";
    if (words.size() < 2)
      return UsageError(absl::StrCat("omni task submit ", kind, " wants ", command ? "a program" : "a verb"));
    return Json{{kind, {{command ? "program" : "verb", words[1]}, {"arguments", rest}}}};
  }
  if (kind == "agent") {
    if (words.size() != 2 || flags.message.empty())
      return UsageError("omni task submit agent wants the agent's name, and -m with the message");
    return Json{{"agent", {{"agent", words[1]}, {"message", flags.message}, {"session", flags.session}}}};
  }
  return UsageError(absl::StrCat("omni task submit knows model, command, agent and job, not ", Quoted(kind)));
}

std::string DurationText(std::chrono::milliseconds time) {
  return absl::StrFormat("%d.%03ds", time.count() / 1000, time.count() % 1000);
}

absl::StatusOr<Json> FileJson(const std::string& path) {
  const absl::StatusOr<std::string> text = path == "-" ? ReadStdinText() : ReadText(path, kMostFileBytes);
  if (!text.ok()) return text.status();
  Json json = Json::parse(*text, nullptr, false);
  if (!json.is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": is no JSON object; it has the fields of an omni.tasks.v1.TaskSpec"));
  }
  for (const char* field : {"retry", "labels"}) {
    if (json.contains(field) && !json[field].is_object())
      return absl::InvalidArgumentError(absl::StrCat(path, ": ", field, " is no object"));
  }
  return json;
}

}  // namespace

absl::StatusOr<Json> TaskSpecJson(const std::vector<std::string>& words, const TaskSpecFlags& flags) {
  Json spec = Json::object();
  if (!flags.file.empty()) {
    if (!words.empty()) return UsageError("--file and words both say what is to be done; leave one out");
    absl::StatusOr<Json> read = FileJson(flags.file);
    if (!read.ok()) return read.status();
    spec = *std::move(read);
  } else {
    absl::StatusOr<Json> work = WorkJson(words, flags);
    if (!work.ok()) return work.status();
    spec["work"] = *std::move(work);
  }
  if (flags.priority != 0) spec["priority"] = flags.priority;
  if (!flags.context.empty()) spec["context"] = flags.context;
  if (flags.attempts > 0) spec["retry"]["attempts"] = flags.attempts;
  if (flags.timeout.count() > 0) spec["run_timeout"] = DurationText(flags.timeout);
  if (flags.delay.count() > 0) {
    spec["not_before"] = absl::FormatTime(
        "%Y-%m-%d%ET%H:%M:%E3SZ", absl::Now() + absl::Milliseconds(flags.delay.count()), absl::UTCTimeZone());
  }
  for (const std::string& label : flags.labels) {
    const size_t equals = label.find('=');
    if (equals == std::string::npos || equals == 0)
      return UsageError(absl::StrCat("--label: ", Quoted(label), " is no NAME=VALUE"));
    spec["labels"][label.substr(0, equals)] = label.substr(equals + 1);
  }
  return spec;
}

}  // namespace omni::cli
