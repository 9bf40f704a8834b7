#include "actors/task/check_task.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <string_view>

#include <absl/strings/str_cat.h>

#include "engine/base/quoted.h"

namespace omni {
namespace {

constexpr TaskDuration kLongest = std::chrono::hours(24 * 365 * 10);
constexpr TaskTime kLast(std::chrono::seconds(253'402'300'799));  // of the year 9999
constexpr int32_t kMostAttempts = 1000;

absl::Status Wrong(std::string_view field, const std::string& what) {
  return absl::InvalidArgumentError(
      absl::StrCat("the task's ", absl::string_view(field.data(), field.size()), " ", what));
}

bool IsKind(std::string_view word) {
  return !word.empty() && std::all_of(word.begin(), word.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-';
  });
}

absl::Status CheckWord(const char* field, std::string_view word, const TaskLimits& limits) {
  if (word.size() > limits.word_bytes)
    return Wrong(field, absl::StrCat("has ", word.size(), " bytes; it may have ", limits.word_bytes));
  return absl::OkStatus();
}

absl::Status CheckDuration(const char* field, TaskDuration duration) {
  if (duration.count() < 0 || duration > kLongest)
    return Wrong(field, absl::StrCat("is ", duration.count(), " ms; use 0 to ten years"));
  return absl::OkStatus();
}

absl::Status CheckRetry(const TaskRetry& retry, const TaskLimits& limits) {
  if (retry.attempts < 1 || retry.attempts > kMostAttempts || retry.losses < 1 ||
      retry.losses > kMostAttempts)
    return Wrong("attempts", absl::StrCat("are ", retry.attempts, " that may fail and ", retry.losses,
                                          " that may be lost; use 1 to ", kMostAttempts));
  if (absl::Status s = CheckDuration("first wait", retry.first); !s.ok()) return s;
  if (absl::Status s = CheckDuration("longest wait", retry.most); !s.ok()) return s;
  if (!(retry.factor >= 1 && retry.factor <= 100)) return Wrong("wait's factor", "is not between 1 and 100");
  if (!(retry.jitter >= 0 && retry.jitter <= 1)) return Wrong("wait's jitter", "is not between 0 and 1");
  if (retry.never.size() > limits.labels) return Wrong("errors that are final", "are too many");
  for (const std::string& error : retry.never)
    if (absl::Status s = CheckWord("error that is final", error, limits); !s.ok()) return s;
  return absl::OkStatus();
}

// Adds its bytes.
absl::Status CheckSpec(const TaskSpec& spec, const TaskLimits& limits, bool child, size_t* bytes) {
  if (!IsKind(spec.executor) || spec.executor.size() > limits.word_bytes)
    return Wrong("executor", absl::StrCat("is ", Quoted(spec.executor),
                                          "; it is a word of small letters, digits and hyphens"));
  if (absl::Status s = CheckWord("target", spec.target, limits); !s.ok()) return s;
  if (spec.target == "*") return Wrong("target", "is '*', which only an executor may offer");
  if (absl::Status s = CheckWord("context", spec.context, limits); !s.ok()) return s;
  if (spec.labels.size() > limits.labels)
    return Wrong("labels", absl::StrCat("are ", spec.labels.size(), "; it may have ", limits.labels));
  for (const auto& [key, value] : spec.labels) {
    if (key.empty()) return Wrong("labels", "have one without a name");
    if (absl::Status s = CheckWord("label", key, limits); !s.ok()) return s;
    if (absl::Status s = CheckWord("label", value, limits); !s.ok()) return s;
    *bytes += key.size() + value.size();
  }
  if (spec.priority < -100 || spec.priority > 100)
    return Wrong("priority", absl::StrCat("is ", spec.priority, "; use -100 to 100"));
  if (spec.not_before < TaskTime{} || spec.not_before > kLast)
    return Wrong("start", "is not between 1970 and the year 9999");
  if (absl::Status s = CheckDuration("retention", spec.retain); !s.ok()) return s;
  if (absl::Status s = CheckDuration("time in the queue", spec.timeouts.queue); !s.ok()) return s;
  if (absl::Status s = CheckDuration("time of an attempt", spec.timeouts.run); !s.ok()) return s;
  if (absl::Status s = CheckDuration("total time", spec.timeouts.total); !s.ok()) return s;
  if (absl::Status s = CheckRetry(spec.retry, limits); !s.ok()) return s;
  *bytes += spec.input.size() + spec.context.size() + spec.target.size() + spec.executor.size();
  if (spec.executor != kFanout) {
    if (!spec.children.empty())
      return Wrong("children", absl::StrCat("go with the executor ", Quoted(kFanout), " alone"));
    return absl::OkStatus();
  }
  if (child) return Wrong("children", "have children of their own; a fan-out has one level");
  if (spec.children.empty() || spec.children.size() > limits.children)
    return Wrong("children", absl::StrCat("are ", spec.children.size(), "; use 1 to ", limits.children));
  for (const TaskSpec& one : spec.children)
    if (absl::Status s = CheckSpec(one, limits, true, bytes); !s.ok()) return s;
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckTask(const TaskSubmission& submission, const TaskLimits& limits) {
  if (absl::Status s = CheckWord("idempotency key", submission.key, limits); !s.ok()) return s;
  size_t bytes = 0;
  if (absl::Status s = CheckSpec(submission.spec, limits, false, &bytes); !s.ok()) return s;
  if (bytes > limits.input_bytes)
    return Wrong("input", absl::StrCat("has ", bytes, " bytes with its labels and children; it may have ",
                                       limits.input_bytes));
  return absl::OkStatus();
}

absl::Status CheckPush(const TaskPush& push, const TaskLimits& limits) {
  if (push.name.empty() || push.name.size() > limits.word_bytes)
    return absl::InvalidArgumentError(absl::StrCat("a name has 1 to ", limits.word_bytes, " bytes"));
  const size_t bytes = push.url.size() + push.token.size() + push.scheme.size() + push.credentials.size();
  if (bytes > limits.push_bytes)
    return absl::InvalidArgumentError(
        absl::StrCat("URL, token and credentials have ", bytes, " bytes; at most ", limits.push_bytes));
  return absl::OkStatus();
}

}  // namespace omni
