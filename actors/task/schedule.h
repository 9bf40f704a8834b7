// When something that is done again and again is done next.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "actors/task/task.h"

namespace omni {

// As crontab(5) has it: minute (0-59), hour (0-23), day of the month (1-31), month (1-12 or jan…dec), day of
// the week (0-7 or sun…sat, 0 and 7 being Sunday), each "*", a number, a range a-b, either with a step /n, or
// a list of those with commas; or @hourly, @daily, @weekly, @monthly, @yearly. If both days are restricted,
// either will do. Times are those of a zone of the IANA database. An hour that a clock skips is skipped; of
// one that it shows twice only the first counts, except for "*" hours, which follow real time.
class CronSchedule {
 public:
  // InvalidArgument: names what is wrong; the zone's name too, if this machine does not know it.
  static absl::StatusOr<CronSchedule> Parse(std::string_view cron, std::string_view zone);
  // The first time after `time`, a whole minute. None: there is none within five years (30 February).
  std::optional<TaskTime> NextAfter(TaskTime time) const;
  // The last time after `time` and until `until`, or `time`.
  TaskTime LastUntil(TaskTime time, TaskTime until) const;

 private:
  uint64_t minutes_ = 0, hours_ = 0, days_ = 0, months_ = 0, weekdays_ = 0;
  bool any_hour_ = false, any_day_ = false, any_weekday_ = false;
  std::string zone_;
};

}  // namespace omni
