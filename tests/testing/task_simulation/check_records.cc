#include "tests/testing/task_simulation/check_records.h"

#include <algorithm>
#include <set>
#include <string_view>

#include "actors/task/task_record.h"

namespace omni::simulation {
namespace {

std::string_view Part(std::string_view key, size_t number) {
  for (; number > 0; --number) key.remove_prefix(std::min(key.find('/'), key.size() - 1) + 1);
  return key.substr(0, key.find('/'));
}

}  // namespace

std::string ProblemOf(const Records& records) {
  std::set<std::string, std::less<>> expected;
  std::string problem;
  const auto has = [&](const std::string& key, const std::optional<std::string>& value = std::nullopt) {
    const auto there = records.find(key);
    if (problem.empty() && there == records.end()) problem = absl::StrCat("there is no ", key);
    if (problem.empty() && value.has_value() && there->second != *value)
      problem = absl::StrCat(key, " differs from its task's record");
    expected.insert(key);
  };
  std::set<std::string, std::less<>> ids;
  for (const auto& [key, value] : records) {
    if (!key.starts_with(kLivePrefix) && !key.starts_with(kOverPrefix)) continue;
    const absl::StatusOr<TaskRecord> record = DecodeTaskRecord(value);
    if (!record.ok()) return absl::StrCat(key, ": ", record.status().message());
    const TaskState& s = record->state;
    if (!ids.insert(s.id).second) return absl::StrCat(s.id, " has two records");
    expected.insert(key);
    const std::string listed = Encode(TaskListed{s.status, s.executor, s.context, s.parent});
    has(OfKey(s.caller, s.updated, s.id), listed);
    has(AllKey(s.updated, s.id), listed);
    if (s.status == TaskStatus::kFailed) has(DeadKey(s.updated, s.id), listed);
    if (IsOver(s.status)) has(RetainKey(s.ended + record->retain, s.id));
    has(WorkKey(s.id));
    for (int64_t n = 1; n <= s.last_event; ++n) has(EventKey(s.id, n));
    for (int64_t n = 1; n <= record->points; ++n) has(PointKey(s.id, n));
    for (int32_t n = 0; n < record->children_made; ++n) has(ChildKey(s.id, n));
    if (s.status == TaskStatus::kSucceeded && s.children == 0) has(ResultKey(s.id));
    if (record->key.empty()) continue;
    const std::string under = KeyKey(s.caller, record->key);
    has(under);
    if (!problem.empty()) return problem;
    const absl::StatusOr<TaskKey> known = DecodeTaskKey(records.find(under)->second);
    if (!known.ok() || known->id != s.id) return absl::StrCat(under, " is another task's");
  }
  for (const auto& [key, value] : records) {
    if (!problem.empty()) break;
    if (expected.contains(key) || key.starts_with(kPlanPrefix) || key.starts_with(kPurgePrefix)) continue;
    const std::string_view kind = Part(key, 0), id = Part(key, 1);
    // A fan-out that was retried has not come to all its children yet.
    if ((kind == "child" || kind == "orphans") && ids.contains(id)) continue;
    if ((kind == "child" || kind == "event" || kind == "point") && records.contains(PurgeKey(id))) continue;
    problem = absl::StrCat(key, " belongs to no task");
  }
  return problem;
}

}  // namespace omni::simulation
