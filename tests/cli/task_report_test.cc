#include "cli/verbs/task_report.h"

#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "cli/output.h"

namespace omni::cli {
namespace {

TaskEvent Put(const std::string& name, const std::string& data) {
  TaskEvent event;
  event.kind = TaskEventKind::kOutput;
  event.name = name;
  event.data = data;
  return event;
}

TaskEvent Over() {
  TaskEvent event;
  event.kind = TaskEventKind::kOver;
  event.status = TaskStatus::kSucceeded;
  return event;
}

struct Shown {
  std::string out, err;
};

Shown Show(TaskScreen screen, const std::vector<TaskEvent>& events) {
  ::testing::internal::CaptureStdout();
  ::testing::internal::CaptureStderr();
  for (const TaskEvent& event : events) screen.Show(event);
  FlushOutput();
  Shown shown;
  shown.out = ::testing::internal::GetCapturedStdout();
  shown.err = ::testing::internal::GetCapturedStderr();
  return shown;
}

TEST(TaskScreen, ANoteBeginsALineWhereOutputIsShownToo) {
  const Shown shown = Show(TaskScreen(true), {Put("text", "The sea"), Put("text", " was"), Over()});
  EXPECT_EQ(shown.out, "The sea was");
  EXPECT_EQ(shown.err, "\nsucceeded\n");
  EXPECT_EQ(Show(TaskScreen(true), {Put("stderr", "half"), Over(), Over()}).err,
            "half\nsucceeded\nsucceeded\n");
  EXPECT_EQ(Show(TaskScreen(true), {Put("text", "a line\n"), Put("text", ""), Over()}).err, "succeeded\n");
}

TEST(TaskScreen, WhatGoesElsewhereIsLeftAsItIs) {
  const Shown shown = Show(TaskScreen(false), {Put("text", "The sea"), Over()});
  EXPECT_EQ(shown.out, "The sea");
  EXPECT_EQ(shown.err, "succeeded\n");
}

}  // namespace
}  // namespace omni::cli
