#include "actors/task/task_queue.h"

namespace omni {

TaskQueue::Rank TaskQueue::RankOf(const Waiting& task) {
  return {(task.since.time_since_epoch() - task.priority * kAgeing).count(), task.id};
}

void TaskQueue::SetTurn(const std::string& name, Caller& caller, bool there) {
  const auto turn = std::make_tuple(caller.running, caller.served, name);
  if (there && !caller.waiting.empty()) {
    turns_.insert(turn);
  } else {
    turns_.erase(turn);
  }
}

void TaskQueue::Push(const Waiting& task) {
  Caller& caller = callers_[task.caller];
  if (caller.waiting[{task.executor, task.target}].insert(RankOf(task)).second) ++size_;
  SetTurn(task.caller, caller, true);
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
    if (best != nullptr) return best->second;
  }
  return std::nullopt;
}

void TaskQueue::AddRunning(const std::string& name) {
  Caller& caller = callers_[name];
  SetTurn(name, caller, false);
  ++caller.running;
  caller.served = ++turn_;
  SetTurn(name, caller, true);
}

void TaskQueue::RemoveRunning(const std::string& name) {
  Caller& caller = callers_[name];
  SetTurn(name, caller, false);
  --caller.running;
  SetTurn(name, caller, true);
  if (caller.running == 0 && caller.waiting.empty()) callers_.erase(name);
}

}  // namespace omni
