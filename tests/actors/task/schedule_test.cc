#include "actors/task/schedule.h"

#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <absl/time/time.h>

namespace omni {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TaskTime At(const std::string& text, const std::string& zone = "UTC") {
  absl::TimeZone in;
  EXPECT_TRUE(absl::LoadTimeZone(zone, &in));
  absl::Time time;
  std::string error;
  EXPECT_TRUE(absl::ParseTime("%Y-%m-%d %H:%M", text, in, &time, &error)) << error;
  return TaskTime(TaskDuration(absl::ToUnixMillis(time)));
}

std::vector<std::string> Next(const std::string& cron, const std::string& after, int times,
                              const std::string& zone = "UTC") {
  const absl::StatusOr<CronSchedule> schedule = CronSchedule::Parse(cron, zone);
  EXPECT_TRUE(schedule.ok()) << schedule.status();
  std::vector<std::string> next;
  if (!schedule.ok()) return next;
  absl::TimeZone in;
  EXPECT_TRUE(absl::LoadTimeZone(zone, &in));
  std::optional<TaskTime> time = At(after, zone);
  for (; times > 0; --times) {
    time = schedule->NextAfter(*time);
    next.push_back(time.has_value() ? absl::FormatTime("%a %Y-%m-%d %H:%M %z", absl::FromChrono(*time), in)
                                    : "never");
    if (!time.has_value()) break;
  }
  return next;
}

std::string Wrong(const std::string& cron, const std::string& zone = "UTC") {
  const absl::Status s = CronSchedule::Parse(cron, zone).status();
  EXPECT_EQ(s.code(), absl::StatusCode::kInvalidArgument) << cron;
  return std::string(s.message());
}

TEST(ScheduleTest, FieldsAreNumbersNamesRangesStepsAndLists) {
  EXPECT_THAT(
      Next("*/25 9-10 * * mon-fri", "2026-11-27 10:00", 3),
      ElementsAre("Fri 2026-11-27 10:25 +0000", "Fri 2026-11-27 10:50 +0000", "Mon 2026-11-30 09:00 +0000"));
  EXPECT_THAT(
      Next("5 4 1,15 FEB,12 *", "2026-01-01 00:00", 3),
      ElementsAre("Sun 2026-02-01 04:05 +0000", "Sun 2026-02-15 04:05 +0000", "Tue 2026-12-01 04:05 +0000"));
  EXPECT_THAT(Next("0 0 * * 7", "2026-11-26 00:00", 1), ElementsAre("Sun 2026-11-29 00:00 +0000"));
  EXPECT_THAT(
      Next(" 50/5  0 * * * ", "2026-11-26 00:00", 3),
      ElementsAre("Thu 2026-11-26 00:50 +0000", "Thu 2026-11-26 00:55 +0000", "Fri 2026-11-27 00:50 +0000"));
  EXPECT_THAT(Next("@monthly", "2026-11-26 00:00", 2),
              ElementsAre("Tue 2026-12-01 00:00 +0000", "Fri 2027-01-01 00:00 +0000"));
  EXPECT_THAT(Next("@hourly", "2026-11-26 00:59", 1), ElementsAre("Thu 2026-11-26 01:00 +0000"));
}

TEST(ScheduleTest, OfTwoRestrictedDaysEitherWillDo) {
  EXPECT_THAT(Next("0 0 13 * fri", "2026-11-01 00:00", 4),
              ElementsAre("Fri 2026-11-06 00:00 +0000", "Fri 2026-11-13 00:00 +0000",
                          "Fri 2026-11-20 00:00 +0000", "Fri 2026-11-27 00:00 +0000"));
  EXPECT_THAT(Next("0 0 */2 * fri", "2026-11-01 00:00", 2),
              ElementsAre("Fri 2026-11-13 00:00 +0000", "Fri 2026-11-27 00:00 +0000"));
}

TEST(ScheduleTest, MonthsEndAsTheyDo) {
  EXPECT_THAT(
      Next("0 12 31 * *", "2026-01-31 12:00", 3),
      ElementsAre("Tue 2026-03-31 12:00 +0000", "Sun 2026-05-31 12:00 +0000", "Fri 2026-07-31 12:00 +0000"));
  EXPECT_THAT(Next("0 0 29 2 *", "2026-01-01 00:00", 2),
              ElementsAre("Tue 2028-02-29 00:00 +0000", "Sun 2032-02-29 00:00 +0000"));
  EXPECT_THAT(Next("0 0 30 2 *", "2026-01-01 00:00", 1), ElementsAre("never"));
}

TEST(ScheduleTest, AnHourThatTheClockSkipsIsSkipped) {
  EXPECT_THAT(Next("30 2 * * *", "2026-03-28 00:00", 2, "Europe/Berlin"),
              ElementsAre("Sat 2026-03-28 02:30 +0100", "Mon 2026-03-30 02:30 +0200"));
  EXPECT_THAT(
      Next("0 * * * *", "2026-03-29 00:30", 3, "Europe/Berlin"),
      ElementsAre("Sun 2026-03-29 01:00 +0100", "Sun 2026-03-29 03:00 +0200", "Sun 2026-03-29 04:00 +0200"));
}

TEST(ScheduleTest, OfAnHourThatComesTwiceTheFirstCountsUnlessItIsEveryHour) {
  EXPECT_THAT(Next("30 2 * * *", "2026-10-25 00:00", 2, "Europe/Berlin"),
              ElementsAre("Sun 2026-10-25 02:30 +0200", "Mon 2026-10-26 02:30 +0100"));
  EXPECT_THAT(
      Next("30 * * * *", "2026-10-25 01:30", 3, "Europe/Berlin"),
      ElementsAre("Sun 2026-10-25 02:30 +0200", "Sun 2026-10-25 02:30 +0100", "Sun 2026-10-25 03:30 +0100"));
}

TEST(ScheduleTest, TheLastTimeUntilAnotherIsFoundHoweverManyThereAre) {
  const CronSchedule minutely = CronSchedule::Parse("* * * * *", "").value();
  EXPECT_EQ(minutely.LastUntil(At("2000-01-01 00:00"), At("2026-11-26 00:00")), At("2026-11-26 00:00"));
  const CronSchedule yearly = CronSchedule::Parse("@yearly", "").value();
  EXPECT_EQ(yearly.LastUntil(At("2000-01-01 00:00"), At("2026-11-26 00:00")), At("2026-01-01 00:00"));
  EXPECT_EQ(yearly.LastUntil(At("2026-01-01 00:00"), At("2026-11-26 00:00")), At("2026-01-01 00:00"));
}

TEST(ScheduleTest, SaysWhatIsWrong) {
  EXPECT_THAT(Wrong(""), HasSubstr("five fields"));
  EXPECT_THAT(Wrong("* * * *"), HasSubstr("five fields"));
  EXPECT_THAT(Wrong("@never"), HasSubstr("@hourly"));
  EXPECT_THAT(Wrong("60 * * * *"), HasSubstr("minute is '60'"));
  EXPECT_THAT(Wrong("* 24 * * *"), HasSubstr("use 0 to 23"));
  EXPECT_THAT(Wrong("* * 0 * *"), HasSubstr("day of the month"));
  EXPECT_THAT(Wrong("* * * jam *"), HasSubstr("'jam'"));
  EXPECT_THAT(Wrong("* * * * 8"), HasSubstr("day of the week"));
  EXPECT_THAT(Wrong("5-1 * * * *"), HasSubstr("ends before it begins"));
  EXPECT_THAT(Wrong("*/0 * * * *"), HasSubstr("step"));
  for (const char* field : {"*/", "*/+5", "*/60", "1-", "-1", "1,,2", "1-2-3", "+1", "1x", "\xff"})
    (void)Wrong(std::string(field) + " * * * *");
}

TEST(ScheduleTest, AZoneIsANameAndNoFile) {
  for (const char* zone : {"Europe/Nowhere", "/etc/passwd", "../../../etc/passwd", "Europe",
                           "file:/etc/passwd", "/dev/zero", "Europe/Berlin\n"})
    EXPECT_THAT(Wrong("* * * * *", zone), HasSubstr("no time zone"));
}

}  // namespace
}  // namespace omni
