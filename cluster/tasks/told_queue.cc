#include "cluster/tasks/told_queue.h"

#include <algorithm>
#include <utility>

namespace omni {

void ToldQueue::Push(Told told) {
  bytes_ += told.item.name.size() + told.item.data.size() + kOverhead;
  told_.push_back(std::move(told));
}

void ToldQueue::Add(TaskEventKind kind, std::string_view name, std::string_view data) {
  name = name.substr(0, limits_.word_bytes);
  if (kind != TaskEventKind::kOutput)
    return Push({false, {kind, std::string(name), std::string(data.substr(0, limits_.event_bytes))}});
  for (; !data.empty(); data.remove_prefix(std::min(data.size(), limits_.event_bytes)))
    Push({false, {kind, std::string(name), std::string(data.substr(0, limits_.event_bytes))}});
}

void ToldQueue::AddPoint(std::string_view piece) {
  has_points_ = true;
  if (!piece.empty()) Push({true, {.name = "", .data = std::string(piece)}});
}

bool ToldQueue::Joins(const TaskReport& report, const TaskReport::Item& item) const {
  if (report.items.empty() || item.kind != TaskEventKind::kOutput) return false;
  const TaskReport::Item& last = report.items.back();
  return last.kind == item.kind && last.name == item.name &&
         last.data.size() + item.data.size() <= limits_.event_bytes;
}

std::optional<TaskReport> ToldQueue::Next(bool all) {
  // How much fits; then, how much of that may be told.
  TaskReport report;
  size_t fits = 0, pointed = 0, bytes = 0;
  const auto add = [&](const Told& told) {
    bytes += told.item.data.size();
    if (told.is_point) {
      report.checkpoint += told.item.data;
    } else if (Joins(report, told.item)) {
      report.items.back().data += told.item.data;
    } else {
      report.items.push_back(told.item);
    }
  };
  for (; fits < told_.size(); ++fits) {
    const Told& told = told_[fits];
    if (fits > 0 && bytes + told.item.data.size() > limits_.report_bytes) break;
    if (!told.is_point && !Joins(report, told.item) && report.items.size() >= limits_.report_events) break;
    add(told);
    if (told.is_point) pointed = fits + 1;
  }
  size_t take = fits;
  if (has_points_) {
    // More than one report can have since the last piece, or than should be kept: it is told without one.
    const bool whole = fits == told_.size() && bytes_ < limits_.report_bytes;
    take = pointed > 0 && !(all && whole) ? pointed : (all || !whole ? fits : 0);
  }
  if (take == 0) return std::nullopt;
  if (take < fits) {
    report = {};
    bytes = 0;
    for (size_t i = 0; i < take; ++i) add(told_[i]);
  }
  for (size_t i = 0; i < take; ++i, told_.pop_front())
    bytes_ -= told_.front().item.name.size() + told_.front().item.data.size() + kOverhead;
  return report;
}

void ToldQueue::DropUnpointed() {
  if (!has_points_) return;
  while (!told_.empty() && !told_.back().is_point) {
    bytes_ -= told_.back().item.name.size() + told_.back().item.data.size() + kOverhead;
    told_.pop_back();
  }
}

}  // namespace omni
