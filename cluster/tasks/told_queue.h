// What an attempt has told and nobody has written yet, as reports to be made of it.
#pragma once

#include <cstddef>
#include <deque>
#include <optional>
#include <string>
#include <string_view>

#include "actors/task/task.h"
#include "actors/task/task_ledger.h"

namespace omni {

// Reports have what was told in its order, within the limits. Once there is a piece of a checkpoint, what was
// told after a piece waits for the next one, so that both last together, except what is more than one report
// can have.
class ToldQueue {
 public:
  // has_points: an earlier attempt has left pieces.
  ToldQueue(const TaskLimits& limits, bool has_points) : limits_(limits), has_points_(has_points) {}

  // Of kOutput, which may be cut into several; of others, what is too long is cut off.
  void Add(TaskEventKind kind, std::string_view name, std::string_view data);
  void AddPoint(std::string_view piece);
  // What may be told now, taken out; none: nothing. `all`: what no piece has followed, too.
  std::optional<TaskReport> Next(bool all);
  void DropUnpointed();  // what Next(false) will never give, whatever is told
  void Clear() { told_.clear(), bytes_ = 0; }
  bool empty() const { return told_.empty(); }
  size_t bytes() const { return bytes_; }  // of memory

 private:
  struct Told {
    bool is_point = false;
    TaskReport::Item item;  // of a piece: the piece in `data`
  };
  static constexpr size_t kOverhead = 64;  // of memory, beside its bytes

  void Push(Told told);
  bool Joins(const TaskReport& report, const TaskReport::Item& item) const;

  const TaskLimits limits_;
  bool has_points_;
  std::deque<Told> told_;
  size_t bytes_ = 0;
};

}  // namespace omni
