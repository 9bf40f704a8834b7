#include "actors/task/schedule.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <utility>
#include <vector>

#include <absl/strings/ascii.h>
#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_split.h>
#include <absl/time/civil_time.h>
#include <absl/time/time.h>

#include "engine/base/quoted.h"

namespace omni {
namespace {

constexpr int kYears = 5;  // a leap year is among them, except around 2100

struct Field {
  const char* name;
  int first, last;
  std::vector<std::string> words;  // for first, first + 1, …
};

bool IsDigits(absl::string_view text) {
  return !text.empty() &&
         std::all_of(text.begin(), text.end(), [](unsigned char c) { return absl::ascii_isdigit(c); });
}

absl::StatusOr<int> ParseNumber(absl::string_view text, const Field& field) {
  const std::string lowered = absl::AsciiStrToLower(text);
  for (size_t w = 0; w < field.words.size(); ++w)
    if (lowered == field.words[w]) return field.first + static_cast<int>(w);
  int number = 0;
  if (!IsDigits(text) || !absl::SimpleAtoi(text, &number) || number < field.first || number > field.last)
    return absl::InvalidArgumentError(absl::StrCat("the ", field.name, " is ",
                                                   Quoted({text.data(), text.size()}), "; use ", field.first,
                                                   " to ", field.last));
  return number;
}

absl::StatusOr<uint64_t> ParseField(absl::string_view text, const Field& field) {
  uint64_t bits = 0;
  for (const absl::string_view part : absl::StrSplit(text, ',')) {
    const std::pair<absl::string_view, absl::string_view> stepped =
        absl::StrSplit(part, absl::MaxSplits('/', 1));
    const bool has_step = stepped.first.size() != part.size();
    int step = 1;
    if (has_step && (!IsDigits(stepped.second) || !absl::SimpleAtoi(stepped.second, &step) || step < 1 ||
                     step > field.last))
      return absl::InvalidArgumentError(absl::StrCat("the ", field.name, " has the step ",
                                                     Quoted({stepped.second.data(), stepped.second.size()}),
                                                     "; use 1 to ", field.last));
    int first = field.first, last = field.last;
    if (stepped.first != "*") {
      const std::pair<absl::string_view, absl::string_view> range =
          absl::StrSplit(stepped.first, absl::MaxSplits('-', 1));
      const bool has_range = range.first.size() != stepped.first.size();
      const absl::StatusOr<int> from = ParseNumber(range.first, field);
      if (!from.ok()) return from.status();
      first = *from;
      if (has_range) {
        const absl::StatusOr<int> to = ParseNumber(range.second, field);
        if (!to.ok()) return to.status();
        last = *to;
      } else if (!has_step) {
        last = first;
      }
      if (first > last)
        return absl::InvalidArgumentError(absl::StrCat(
            "the ", field.name, " ", Quoted({part.data(), part.size()}), " ends before it begins"));
    }
    for (int n = first; n <= last; n += step) bits |= uint64_t{1} << n;
  }
  return bits;
}

bool Has(uint64_t bits, int n) { return (bits >> n & 1) != 0; }

// Abseil opens whatever file a name leads to, and remembers every name that it was ever asked for.
bool IsZone(const std::string& name) {
  if (name == "UTC") return true;
  if (name.empty() || name.size() > 64 || name.front() == '/') return false;
  for (const char c : name) {
    const auto byte = static_cast<unsigned char>(c);
    if (!absl::ascii_isalnum(byte) && c != '/' && c != '_' && c != '-' && c != '+') return false;
  }
  const char* const folder = std::getenv("TZDIR");
  std::error_code none;
  return std::filesystem::is_regular_file(
      std::filesystem::path(folder != nullptr && *folder != '\0' ? folder : "/usr/share/zoneinfo") / name,
      none);
}

}  // namespace

absl::StatusOr<CronSchedule> CronSchedule::Parse(std::string_view cron, std::string_view zone) {
  static const std::array<std::pair<const char*, const char*>, 5> kNamed = {{{"@hourly", "0 * * * *"},
                                                                             {"@daily", "0 0 * * *"},
                                                                             {"@weekly", "0 0 * * 0"},
                                                                             {"@monthly", "0 0 1 * *"},
                                                                             {"@yearly", "0 0 1 1 *"}}};
  const Field kFields[] = {
      {"minute", 0, 59, {}},
      {"hour", 0, 23, {}},
      {"day of the month", 1, 31, {}},
      {"month", 1, 12, {"jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"}},
      {"day of the week", 0, 7, {"sun", "mon", "tue", "wed", "thu", "fri", "sat"}}};
  absl::string_view text = absl::StripAsciiWhitespace({cron.data(), cron.size()});
  for (const auto& [name, meaning] : kNamed)
    if (text == name) text = meaning;
  const std::vector<absl::string_view> parts =
      absl::StrSplit(text, absl::ByAnyChar(" \t"), absl::SkipEmpty());
  if (parts.size() != 5)
    return absl::InvalidArgumentError(
        absl::StrCat("a schedule has five fields (minute, hour, day, month, day of "
                     "the week) or is one of @hourly, @daily, @weekly, @monthly, "
                     "@yearly; this one is ",
                     Quoted(cron)));
  CronSchedule schedule;
  uint64_t* const bits[] = {&schedule.minutes_, &schedule.hours_, &schedule.days_, &schedule.months_,
                            &schedule.weekdays_};
  for (size_t f = 0; f < 5; ++f) {
    const absl::StatusOr<uint64_t> parsed = ParseField(parts[f], kFields[f]);
    if (!parsed.ok()) return parsed.status();
    *bits[f] = *parsed;
  }
  if (Has(schedule.weekdays_, 7)) schedule.weekdays_ |= 1;
  schedule.any_hour_ = parts[1][0] == '*';
  schedule.any_day_ = parts[2][0] == '*';
  schedule.any_weekday_ = parts[4][0] == '*';
  absl::TimeZone known;
  schedule.zone_ = zone.empty() ? "UTC" : std::string(zone);
  if (!IsZone(schedule.zone_) || !absl::LoadTimeZone(schedule.zone_, &known))
    return absl::InvalidArgumentError(absl::StrCat(
        "no time zone ", Quoted(zone), " is known here; use a name such as Europe/Berlin or UTC"));
  return schedule;
}

std::optional<TaskTime> CronSchedule::NextAfter(TaskTime time) const {
  absl::TimeZone zone;
  if (!absl::LoadTimeZone(zone_, &zone)) return std::nullopt;
  const absl::Time after = absl::FromChrono(time);
  const auto to_task_time = [](absl::Time t) { return TaskTime(TaskDuration(absl::ToUnixMillis(t))); };
  const absl::CivilMinute start = absl::CivilMinute(absl::ToCivilSecond(after, zone));
  const auto day_fits = [&](absl::CivilDay day) {
    if (!Has(months_, static_cast<int>(day.month()))) return false;
    const bool by_day = Has(days_, static_cast<int>(day.day()));
    // Abseil's week begins on Monday.
    const bool by_weekday = Has(weekdays_, (static_cast<int>(absl::GetWeekday(day)) + 1) % 7);
    if (any_day_ || any_weekday_) return by_day && by_weekday;
    return by_day || by_weekday;
  };
  const absl::CivilDay first_day(start), last_day = first_day + kYears * 366;
  for (absl::CivilDay day = first_day; day <= last_day; ++day) {
    if (!day_fits(day)) continue;
    std::optional<absl::Time> best;
    // Real minutes of the day, so that hours that come twice or not at all are seen as they are.
    const absl::Time begin = absl::FromCivil(day, zone), end = absl::FromCivil(day + 1, zone);
    const int64_t passed = after < begin ? 0 : (after - begin) / absl::Minutes(1) + 1;
    for (absl::Time t = begin + passed * absl::Minutes(1); t < end && !best.has_value();) {
      const absl::CivilMinute now(absl::ToCivilSecond(t, zone));
      if (!Has(hours_, now.hour()) || !Has(minutes_, now.minute())) {
        t += absl::Minutes(1);
        continue;
      }
      const absl::TimeZone::TimeInfo info = zone.At(absl::CivilSecond(now));
      const bool second_time = info.kind == absl::TimeZone::TimeInfo::REPEATED && t >= info.trans;
      if (second_time && !any_hour_) {
        t += absl::Minutes(1);
        continue;
      }
      best = t;
    }
    if (best.has_value()) return to_task_time(*best);
  }
  return std::nullopt;
}

TaskTime CronSchedule::LastUntil(TaskTime time, TaskTime until) const {
  // Back from the end in steps that double, so that it does not matter how many times there are.
  TaskTime last = time;
  for (TaskDuration back = std::chrono::minutes(1);; back *= 2) {
    const TaskTime from = std::max(time, until - back);
    std::optional<TaskTime> next = NextAfter(from);
    for (; next.has_value() && *next <= until; next = NextAfter(*next)) last = *next;
    if (last > time || from == time) return last;
  }
}

}  // namespace omni
