#include "actors/task/task_queue.h"

#include <algorithm>
#include <charconv>

#include <absl/strings/str_cat.h>

namespace omni {

TaskQueue::Rank TaskQueue::RankOf(const Waiting& task) {
  const std::string_view id = task.id;
  uint64_t high = 0, low = 0;
  (void)std::from_chars(id.data(), id.data() + std::min<size_t>(id.size(), 16), high, 16);
  if (id.size() > 16) (void)std::from_chars(id.data() + 16, id.data() + id.size(), low, 16);
  return {(task.since.time_since_epoch() - task.priority * kAgeing).count(), high, low};
}

void TaskQueue::SetTurn(const std::string& name, Caller& caller, bool there) {
  const auto turn = std::make_tuple(caller.running, caller.served, name);
  if (there && !caller.waiting.empty()) {
    turns_.insert(turn);
  } else {
    turns_.erase(turn);
  }
}

TaskQueue::Caller& TaskQueue::Named(const std::string& name) {
  const auto [caller, is_new] = callers_.try_emplace(name);
  // As if it had just been served: who always leaves and comes back has no turn before those who wait.
  if (is_new) caller->second.served = ++turn_;
  return caller->second;
}

void TaskQueue::Push(const Waiting& task) {
  Caller& caller = Named(task.caller);
  const bool had_none = caller.waiting.empty();
  if (caller.waiting[{task.executor, task.target}].insert(RankOf(task)).second) ++size_;
  if (had_none) SetTurn(task.caller, caller, true);
}

bool TaskQueue::Remove(const Waiting& task) {
  const auto caller = callers_.find(task.caller);
  if (caller == callers_.end()) return false;
  const auto kind = caller->second.waiting.find({task.executor, task.target});
  if (kind == caller->second.waiting.end() || kind->second.erase(RankOf(task)) == 0) return false;
  --size_;
  if (kind->second.empty()) caller->second.waiting.erase(kind);
  if (caller->second.waiting.empty()) {
    SetTurn(caller->first, caller->second, false);
    if (caller->second.running == 0) callers_.erase(caller);
  }
  return true;
}

std::optional<TaskId> TaskQueue::Next(std::span<const TaskOffer> offers) const {
  for (const auto& turn : turns_) {
    const auto& waiting = callers_.find(std::get<std::string>(turn))->second.waiting;
    const Rank* best = nullptr;
    const auto consider = [&](const std::set<Rank>& ranks) {
      if (best == nullptr || *ranks.begin() < *best) best = &*ranks.begin();
    };
    for (const TaskOffer& offer : offers) {
      if (offer.target != "*") {
        const auto kind = waiting.find({offer.executor, offer.target});
        if (kind != waiting.end()) consider(kind->second);
        continue;
      }
      for (auto kind = waiting.lower_bound({offer.executor, ""});
           kind != waiting.end() && kind->first.first == offer.executor; ++kind)
        consider(kind->second);
    }
    if (best != nullptr)
      return absl::StrCat(absl::Hex(std::get<1>(*best), absl::kZeroPad16),
                          absl::Hex(std::get<2>(*best), absl::kZeroPad16));
  }
  return std::nullopt;
}

void TaskQueue::AddRunning(const std::string& name) {
  Caller& caller = Named(name);
  SetTurn(name, caller, false);
  ++caller.running;
  caller.served = ++turn_;
  SetTurn(name, caller, true);
}

void TaskQueue::RemoveRunning(const std::string& name) {
  Caller& caller = Named(name);
  SetTurn(name, caller, false);
  --caller.running;
  SetTurn(name, caller, true);
  if (caller.running == 0 && caller.waiting.empty()) callers_.erase(name);
}

}  // namespace omni
