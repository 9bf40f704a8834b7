#include "tests/testing/task_simulation/caller.h"

#include <algorithm>
#include <utility>

namespace omni::simulation {
namespace {

constexpr int kMostTries = 30;
const std::string kPlans[] = {"plan 1", "plan 2"};

}  // namespace

Caller::Caller(TaskWorld& world, TaskServer& server, std::string name)
    : world_(world), server_(server), name_(std::move(name)) {
  server.listeners.push_back({.on_started =
                                  [this] {
                                    for (const auto& [id, shown] : watched_) Read(id);
                                  },
                              .on_changed =
                                  [this](const std::set<TaskId>& changed) {
                                    for (const TaskId& id : changed)
                                      if (watched_.contains(id)) Read(id);
                                  }});
}

void Caller::Start() {
  world_.After(world_.Between(10, 4000), [this] { Act(); });
}

void Caller::Act() {
  if (world_.trouble.quiet) return;
  const int64_t what = world_.Below(20);
  if (what < 9) {
    TaskSubmission submission{.caller = name_, .key = "", .spec = DrawSpec()};
    if (world_.Chance(0.6)) {
      submission.key = absl::StrCat("key ", world_.Below(12));
      const auto known = keyed_.find(submission.key);
      // Once more, or by mistake for something else.
      if (known != keyed_.end() && world_.Chance(0.7)) submission.spec = known->second;
      keyed_[submission.key] = submission.spec;
    }
    Submit(submission, kMostTries);
  } else if (what < 17) {
    Change();
  } else if (what < 18) {
    PlanOrUnplan();
  } else {
    CheckList();
  }
  Start();
}

TaskSpec Caller::DrawSpec(bool child) {
  TaskSpec spec;
  spec.executor = world_.Chance(0.8) ? "command" : "model";
  spec.target = spec.executor == "model" ? "mini" : absl::StrCat("t", world_.Below(3));
  spec.input = absl::StrCat(name_, " ", ++made_);
  spec.priority = static_cast<int32_t>(world_.Below(5) - 2);
  spec.retry.attempts = static_cast<int32_t>(1 + world_.Below(3));
  spec.retry.losses = static_cast<int32_t>(1 + world_.Below(5));
  spec.retry.first = TaskDuration(world_.Between(0, 5000));
  if (world_.Chance(0.1)) spec.retry.never = {"exit"};
  if (world_.Chance(0.2)) spec.not_before = server_.Clock() + world_.Between(1000, 200'000);
  if (world_.Chance(0.2)) spec.timeouts.queue = world_.Between(5000, 120'000);
  if (world_.Chance(0.2)) spec.timeouts.run = world_.Between(3000, 40'000);
  if (world_.Chance(0.2)) spec.timeouts.total = world_.Between(20'000, 400'000);
  if (world_.Chance(0.3)) spec.retain = world_.Between(5000, 120'000);
  if (child) {
    spec.outlives_parent = world_.Chance(0.5);
  } else if (world_.Chance(0.2)) {
    spec.executor = kFanout;
    spec.target.clear();
    spec.gather = static_cast<TaskGather>(world_.Below(3));
    for (int64_t n = 1 + world_.Below(world_.Chance(0.3) ? 25 : 5); n > 0; --n)
      spec.children.push_back(DrawSpec(true));
  }
  return spec;
}

void Caller::Submit(const TaskSubmission& submission, int tries) {
  auto answered = std::make_shared<bool>(false);
  world_.After(milliseconds(3000), [this, answered, submission, tries] {
    // Without a key it would be another task.
    if (std::exchange(*answered, true) || tries == 0 || submission.key.empty()) return;
    Submit(submission, tries - 1);
  });
  server_.Call<TaskSubmitted>(
      [submission](TaskLedger& ledger, TaskTime now, TaskStep& step) {
        return ledger.Submit(submission, now, step);
      },
      [this, submission](const TaskSubmitted& given, TaskTime) {
        server_.oracle().OnSubmitted(submission, given, server_.store().records());
      },
      [this, answered](const absl::StatusOr<TaskSubmitted>& given) {
        if (absl::IsUnavailable(given.status()) || absl::IsResourceExhausted(given.status())) return;
        *answered = true;
        if (!given.ok()) {
          if (!absl::IsAlreadyExists(given.status()))
            world_.world.Fail(absl::StrCat("a task is refused: ", given.status().message()));
          return;
        }
        if (acknowledged_.insert(given->state.id).second) {
          ids_.push_back(given->state.id);
          if (given->state.children > 0) fanouts_.push_back(given->state.id);
        }
        if (world_.Chance(0.7)) Watch(given->state.id);
      });
}

void Caller::Change() {
  if (ids_.empty()) return;
  // A late one; children too.
  const std::vector<TaskId>& ids = fanouts_.empty() || world_.Chance(0.6) ? ids_ : fanouts_;
  const auto some = static_cast<int64_t>(std::min<size_t>(ids.size(), 6));
  TaskId id = ids[ids.size() - 1 - static_cast<size_t>(world_.Below(some))];
  const auto task = server_.oracle().tasks().find(id);
  if (task != server_.oracle().tasks().end() && task->second.record.has_value() &&
      task->second.record->children_made > 0 && world_.Chance(0.5)) {
    const auto& records = server_.store().records();
    const auto child =
        records.find(ChildKey(id, static_cast<int64_t>(world_.Below(task->second.record->children_made))));
    if (child != records.end()) id = child->second;
  }
  const bool others = world_.Chance(0.05);
  const TaskClient by{.caller = others ? "nobody" : name_};
  const int64_t what = world_.Below(8);
  Change(by, id, what);
  if (what < 2) Change(by, id, 3);  // stopped and, at once, begun again
}

void Caller::Change(const TaskClient& by, const TaskId& id, int64_t what) {
  const bool others = by.caller != name_;
  server_.Call<bool>(
      [by, id, what](TaskLedger& ledger, TaskTime now, TaskStep& step) -> absl::StatusOr<bool> {
        absl::Status s;
        if (what < 3) s = ledger.Cancel(by, id, now, step).status();
        if (what >= 3 && what < 7) s = ledger.Retry(by, id, now, step).status();
        if (what == 7) s = ledger.Purge(by, id, now, step);
        if (!s.ok()) return s;
        return true;
      },
      [this, others, id](const bool&, TaskTime) {
        if (others) world_.world.Fail(absl::StrCat("somebody else may change task ", id));
      },
      [](const absl::StatusOr<bool>&) {});
}

void Caller::PlanOrUnplan() {
  const std::string name = kPlans[world_.Below(2)];
  if (world_.Chance(0.3)) return Unplan(name);
  TaskSchedule plan{.caller = name_,
                    .name = name,
                    .cron = world_.Chance(0.5) ? "* * * * *" : "*/2 * * * *",
                    .zone = "UTC",
                    .every_missed = world_.Chance(0.5),
                    .last_task = {},
                    .spec = DrawSpec(true)};
  plan.spec.not_before = {};
  server_.Call<bool>(
      [plan](TaskLedger& ledger, TaskTime now, TaskStep& step) -> absl::StatusOr<bool> {
        if (absl::Status s = ledger.PutSchedule(plan, now, step); !s.ok()) return s;
        return true;
      },
      nullptr, [](const absl::StatusOr<bool>&) {});
}

void Caller::Unplan(const std::string& name) {
  server_.Call<bool>(
      [this, name](TaskLedger& ledger, TaskTime, TaskStep& step) -> absl::StatusOr<bool> {
        if (absl::Status s = ledger.DeleteSchedule(name_, name, step); !s.ok()) return s;
        return true;
      },
      nullptr, [](const absl::StatusOr<bool>&) {});
}

void Caller::Watch(const TaskId& id) {
  if (watched_.try_emplace(id, 0).second) Read(id);
}

void Caller::Read(const TaskId& id) {
  const auto watch = watched_.find(id);
  if (watch == watched_.end() || !server_.up()) return;
  const auto task = server_.oracle().tasks().find(id);
  const TaskClient by{.caller = name_};
  while (true) {
    const absl::StatusOr<std::vector<TaskEvent>> events =
        server_.reader().Events(by, id, watch->second, 1 + static_cast<int>(world_.Below(8)));
    if (absl::IsNotFound(events.status())) {
      if (task == server_.oracle().tasks().end() || task->second.record.has_value())
        world_.world.Fail(absl::StrCat("task ", id, ": was acknowledged and is not found"));
      return;
    }
    if (!events.ok()) {
      world_.After(milliseconds(1000), [this, id] { Read(id); });
      return;
    }
    if (events->empty()) return;
    for (const TaskEvent& event : *events) {
      if (event.number != ++watch->second ||
          Encode(event) != task->second.events[static_cast<size_t>(event.number) - 1])
        world_.world.Fail(absl::StrCat("task ", id, ": event ", event.number, " is shown in place of ",
                                       watch->second, ", or has changed"));
    }
  }
}

void Caller::CheckList() {
  if (!server_.up()) return;
  std::set<TaskId> seen;
  std::string next;
  do {
    const absl::StatusOr<TaskPage> page = server_.reader().List({.caller = name_}, {}, 7, next);
    if (!page.ok()) return;
    for (const TaskState& state : page->tasks)
      if (state.caller != name_ || !seen.insert(state.id).second)
        world_.world.Fail(absl::StrCat("task ", state.id, " is listed twice, or to somebody else"));
    next = page->next;
  } while (!next.empty());
  for (const TaskId& id : acknowledged_)
    if (server_.oracle().tasks().at(id).record.has_value() && !seen.contains(id))
      world_.world.Fail(absl::StrCat("task ", id, " is not listed"));
}

std::string Caller::Missing() {
  for (const std::string& name : kPlans) {
    if (!server_.store().records().contains(PlanKey(name_, name))) continue;
    Unplan(name);
    return absl::StrCat(name, " of ", name_, " is there still");
  }
  for (const auto& [id, shown] : watched_) {
    const auto& task = server_.oracle().tasks().at(id);
    if (task.record.has_value() && shown < static_cast<int64_t>(task.events.size()))
      return absl::StrCat("task ", id, ": its watcher has been shown ", shown, " of ", task.events.size(),
                          " events");
  }
  return "";
}

}  // namespace omni::simulation
