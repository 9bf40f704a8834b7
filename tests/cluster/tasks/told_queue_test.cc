// What an attempt has told becomes reports that a ledger takes.
#include "cluster/tasks/told_queue.h"

#include <gtest/gtest.h>

namespace omni {
namespace {

constexpr TaskEventKind kOutput = TaskEventKind::kOutput, kProgress = TaskEventKind::kProgress;

TaskLimits Small() {
  TaskLimits limits;
  limits.event_bytes = 4;
  limits.report_events = 3;
  limits.report_bytes = 10;
  limits.word_bytes = 5;
  return limits;
}

std::string Text(const TaskReport& report) {
  std::string text;
  for (const TaskReport::Item& item : report.items) text += item.name + "=" + item.data + ";";
  return text + (report.checkpoint.empty() ? "" : "#" + report.checkpoint);
}
std::string NextText(ToldQueue& queue, bool all = false) {
  const std::optional<TaskReport> report = queue.Next(all);
  return report.has_value() ? Text(*report) : "none";
}

TEST(ToldQueueTest, PiecesOfAStreamAreOneEventAndOrderIsKept) {
  ToldQueue queue({}, false);
  EXPECT_EQ(NextText(queue), "none");
  queue.Add(kOutput, "out", "a");
  queue.Add(kOutput, "out", "b");
  queue.Add(kOutput, "err", "c");
  queue.Add(kProgress, "", "half");
  queue.Add(kProgress, "", "whole");
  queue.Add(kOutput, "out", "d");
  EXPECT_EQ(NextText(queue), "out=ab;err=c;=half;=whole;out=d;");
  EXPECT_TRUE(queue.empty());
  EXPECT_EQ(queue.bytes(), 0u);
}

TEST(ToldQueueTest, ReportsAndEventsHaveTheirLimits) {
  ToldQueue queue(Small(), false);
  queue.Add(kOutput, "a long name", "0123456789abcdefgh");
  EXPECT_EQ(NextText(queue), "a lon=0123;a lon=4567;") << "a third would be more bytes than a report has";
  EXPECT_EQ(NextText(queue), "a lon=89ab;a lon=cdef;a lon=gh;");
  for (int i = 0; i < 4; ++i) queue.Add(kProgress, "", std::to_string(i));
  EXPECT_EQ(NextText(queue), "=0;=1;=2;");
  queue.Add(kProgress, "", "too long");
  EXPECT_EQ(NextText(queue), "=3;=too ;");
}

TEST(ToldQueueTest, WhatFollowsAPieceOfACheckpointWaitsForTheNext) {
  ToldQueue queue({}, false);
  queue.Add(kOutput, "text", "before any");
  EXPECT_EQ(NextText(queue), "text=before any;");
  queue.AddPoint("0");
  queue.Add(kOutput, "text", "a");
  queue.AddPoint("1");
  queue.Add(kOutput, "text", "b");
  queue.AddPoint("2");
  queue.Add(kOutput, "text", "c");
  EXPECT_EQ(NextText(queue), "text=ab;#012");
  EXPECT_EQ(NextText(queue), "none");
  queue.AddPoint("3");
  EXPECT_EQ(NextText(queue), "text=c;#3");
  queue.Add(kOutput, "text", "the end");
  EXPECT_EQ(NextText(queue), "none");
  EXPECT_EQ(NextText(queue, /*all=*/true), "text=the end;") << "of one that succeeded, nothing is held back";
}

TEST(ToldQueueTest, OfAFailureWhatNoPieceFollowsIsNotKept) {
  for (const bool earlier : {false, true}) {
    ToldQueue queue({}, earlier);
    queue.Add(kOutput, "text", "a");
    queue.AddPoint("1");
    queue.Add(kOutput, "text", "b");
    queue.DropUnpointed();
    EXPECT_EQ(NextText(queue, true), "text=a;#1");
    EXPECT_EQ(queue.bytes(), 0u);
  }
  ToldQueue without({}, false);
  without.Add(kOutput, "text", "b");
  without.DropUnpointed();
  EXPECT_EQ(NextText(without), "text=b;") << "an attempt without a checkpoint begins anew anyway";
}

TEST(ToldQueueTest, MoreThanAReportCanHaveSinceAPieceIsToldWithoutOne) {
  ToldQueue queue(Small(), true);
  queue.Add(kOutput, "out", "0123456789ab");
  EXPECT_EQ(NextText(queue), "out=0123;out=4567;");
  queue.AddPoint("1");
  EXPECT_EQ(NextText(queue), "out=89ab;#1");
  // Tiny ones take memory too.
  TaskLimits limits;
  limits.report_bytes = 1000;
  ToldQueue tiny(limits, true);
  for (int i = 0; i < 100; ++i) tiny.Add(kOutput, "out", "x");
  EXPECT_EQ(NextText(tiny), "out=" + std::string(100, 'x') + ";");
}

}  // namespace
}  // namespace omni
