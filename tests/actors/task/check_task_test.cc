#include "actors/task/check_task.h"

#include <cmath>
#include <functional>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace omni {
namespace {

using ::testing::HasSubstr;

std::string Problem(const std::function<void(TaskSubmission&)>& change, const TaskLimits& limits = {}) {
  TaskSubmission submission{.caller = "anna", .key = "k", .spec = {.executor = "command"}};
  change(submission);
  const absl::Status s = CheckTask(submission, limits);
  EXPECT_TRUE(s.ok() || absl::IsInvalidArgument(s)) << s;
  return std::string(s.message());
}

TEST(CheckTaskTest, EachLimitIsNamedAndWhatIsJustWithinItIsTaken) {
  const TaskLimits limits;
  const auto spec = [](const std::function<void(TaskSpec&)>& change) {
    return Problem([&](TaskSubmission& s) { change(s.spec); });
  };
  const std::string word(limits.word_bytes, 'a'), longer = word + "a";
  EXPECT_EQ(Problem([&](TaskSubmission& s) { s.key = word; }), "");
  EXPECT_THAT(Problem([&](TaskSubmission& s) { s.key = longer; }),
              HasSubstr("idempotency key has 257 bytes"));
  for (const char* executor : {"", "Model", "a b", "a/b", "\xc3\xa4"})
    EXPECT_THAT(spec([&](TaskSpec& s) { s.executor = executor; }), HasSubstr("executor"));
  EXPECT_EQ(spec([&](TaskSpec& s) { s.target = word; }), "");
  EXPECT_THAT(spec([&](TaskSpec& s) { s.target = longer; }), HasSubstr("target"));
  EXPECT_THAT(spec([&](TaskSpec& s) { s.target = "*"; }), HasSubstr("only an executor may offer"));
  EXPECT_THAT(spec([&](TaskSpec& s) { s.context = longer; }), HasSubstr("context"));
  EXPECT_THAT(spec([&](TaskSpec& s) { s.labels[""] = "a"; }), HasSubstr("without a name"));
  EXPECT_THAT(spec([&](TaskSpec& s) { s.labels["a"] = longer; }), HasSubstr("label"));
  EXPECT_THAT(spec([&](TaskSpec& s) {
                for (int n = 0; n <= 32; ++n) s.labels[std::to_string(n)] = "";
              }),
              HasSubstr("labels are 33"));
  EXPECT_EQ(spec([&](TaskSpec& s) { s.priority = -100; }), "");
  EXPECT_THAT(spec([&](TaskSpec& s) { s.priority = 101; }), HasSubstr("priority is 101"));
  EXPECT_THAT(spec([&](TaskSpec& s) { s.not_before = TaskTime(TaskDuration(-1)); }), HasSubstr("1970"));
  EXPECT_THAT(spec([&](TaskSpec& s) { s.not_before = TaskTime::max(); }), HasSubstr("9999"));
  for (const TaskDuration wrong : {TaskDuration(-1), TaskDuration::max()}) {
    EXPECT_THAT(spec([&](TaskSpec& s) { s.retain = wrong; }), HasSubstr("retention"));
    EXPECT_THAT(spec([&](TaskSpec& s) { s.timeouts.queue = wrong; }), HasSubstr("queue"));
    EXPECT_THAT(spec([&](TaskSpec& s) { s.timeouts.run = wrong; }), HasSubstr("attempt"));
    EXPECT_THAT(spec([&](TaskSpec& s) { s.timeouts.total = wrong; }), HasSubstr("total"));
    EXPECT_THAT(spec([&](TaskSpec& s) { s.retry.first = wrong; }), HasSubstr("first wait"));
    EXPECT_THAT(spec([&](TaskSpec& s) { s.retry.most = wrong; }), HasSubstr("longest wait"));
  }
  EXPECT_THAT(spec([&](TaskSpec& s) { s.retry.attempts = 0; }), HasSubstr("attempts"));
  EXPECT_THAT(spec([&](TaskSpec& s) { s.retry.losses = 1001; }), HasSubstr("attempts"));
  for (const double wrong : {-1.0, 0.5, 1e9, std::nan("")})
    EXPECT_THAT(spec([&](TaskSpec& s) { s.retry.factor = wrong; }), HasSubstr("factor"));
  for (const double wrong : {-0.1, 1.1, std::nan("")})
    EXPECT_THAT(spec([&](TaskSpec& s) { s.retry.jitter = wrong; }), HasSubstr("jitter"));
  EXPECT_THAT(spec([&](TaskSpec& s) { s.retry.never.resize(33); }), HasSubstr("too many"));
  EXPECT_EQ(spec([&](TaskSpec& s) { s.input.resize(limits.input_bytes - s.executor.size()); }), "");
  EXPECT_THAT(spec([&](TaskSpec& s) { s.input.resize(limits.input_bytes); }), HasSubstr("input has"));
}

TEST(CheckTaskTest, AFanOutHasChildrenOfOneLevelAndNothingElseHasAny) {
  const auto fanout = [](const std::function<void(TaskSpec&)>& change) {
    return Problem([&](TaskSubmission& s) {
      s.spec = {.executor = kFanout};
      s.spec.children.push_back({.executor = "command"});
      change(s.spec);
    });
  };
  EXPECT_EQ(fanout([](TaskSpec&) {}), "");
  EXPECT_THAT(fanout([](TaskSpec& s) { s.children.clear(); }), HasSubstr("use 1 to 1000"));
  EXPECT_THAT(fanout([](TaskSpec& s) { s.children.resize(1001, s.children[0]); }), HasSubstr("are 1001"));
  EXPECT_THAT(fanout([](TaskSpec& s) {
                const TaskSpec copy = s;
                s.children[0] = copy;
              }),
              HasSubstr("one level"));
  EXPECT_THAT(fanout([](TaskSpec& s) { s.children[0].priority = 1000; }), HasSubstr("priority"));
  EXPECT_THAT(fanout([](TaskSpec& s) { s.executor = "command"; }), HasSubstr("alone"));
  EXPECT_THAT(fanout([](TaskSpec& s) {
                s.children.resize(10, s.children[0]);
                for (TaskSpec& child : s.children) child.input.resize(100 << 10);
              }),
              HasSubstr("with its labels and children"));
}

}  // namespace
}  // namespace omni
