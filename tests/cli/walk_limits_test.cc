// Little memory, few cores: every verb keeps to what the process may have, or says that it is too little.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/cli/control_group.h"
#include "tests/cli/walk.h"

namespace omni::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class WalkLimits : public WalkTest {
 protected:
  static std::string FoundByDoctor(const std::string& check, const ProcessOptions& options,
                                   std::vector<std::string> more = {}) {
    more.insert(more.begin(), {"doctor", "--json"});
    const Output output = Omni(more, options);
    const nlohmann::json json = nlohmann::json::parse(output.out, nullptr, false);
    EXPECT_TRUE(json.is_object()) << output.exit_code << output.err;
    for (const nlohmann::json& c : json.value("checks", nlohmann::json::array())) {
      if (c["check"] == check) return c["found"];
    }
    return "no such check";
  }
};

ControlGroup Memory(int mebibytes, const std::string& parent = "") {
  return ControlGroup("memory", {{"memory.limit_in_bytes", Bytes(mebibytes)}},
                      {{"memory.max", Bytes(mebibytes)}}, parent);
}

TEST_F(WalkLimits, NoVerbIsKilledForMemoryThatItTakesUnasked) {
  const ControlGroup group = Memory(96);
  if (group.folder().empty()) GTEST_SKIP() << "no control group of memory may be made here";
  ProcessOptions options;
  options.group = group.folder();
  Parser parser;
  for (CLI::App* verb : parser.VerbsThatEnd()) {
    const std::vector<std::string> command = Command(verb->get_name());
    SCOPED_TRACE(Join(command));
    const Output output = Omni(command, options);
    EXPECT_LE(output.exit_code, 1) << output.err;
    EXPECT_LE(std::count(output.err.begin(), output.err.end(), '\n'), 1) << output.err;
  }
}

// 254 MB on disk in a group of 200: more than fits whole.
TEST_F(WalkLimits, EveryVerbStreamsOrRefusesAModelLargerThanWhatIsFree) {
  const ControlGroup group = Memory(200);
  if (group.folder().empty()) GTEST_SKIP() << "no control group of memory may be made here";
  const std::string large = Fresh("large");
  ASSERT_EQ(Omni({"synth", "--layers", "2", "--experts", "8", "--out", large}).exit_code, 0);
  ProcessOptions options;
  options.group = group.folder();
  for (const std::vector<std::string>& command : std::vector<std::vector<std::string>>{
           {"run", "x", "-n", "1"},
           {"eval", "ppl", *dir_ / "text.txt"},
           {"trace", "x"},
           {"bench", "stream", "-n", "1", "--cases", "hot", "--no-limits"}}) {
    std::vector<std::string> words = command;
    words.insert(words.end(), {"-m", large});
    SCOPED_TRACE(Join(words));
    const Output output = Omni(words, options);
    if (output.exit_code != 0) ExpectOneLine(output, 1, "the least that works is");
  }
  for (const char* verb : {"inspect", "verify", "plan", "doctor"}) {
    SCOPED_TRACE(verb);
    EXPECT_LE(Omni({verb, "-m", large}, options).exit_code, 1);
  }
}

TEST_F(WalkLimits, WhatCannotBeMeasuredIsSaidToBeSo) {
  const ControlGroup group = Memory(64);
  if (group.folder().empty()) GTEST_SKIP() << "no control group of memory may be made here";
  ProcessOptions options;
  options.group = group.folder();
  EXPECT_THAT(FoundByDoctor("disk", options, {"-m", Model()}),
              HasSubstr("cannot be measured: that takes 64 MiB"));
  const nlohmann::json plan =
      Json(Omni({"plan", "-m", Model(), "--ram", "1G", "--json", "--refresh"}, options));
  EXPECT_TRUE(plan["measured"]["memory"].is_null());
  EXPECT_TRUE(plan["measured"]["disk"].is_null());
}

// Of 400 MiB a neighbour has taken most; the own group's 380 are as good as nothing.
TEST_F(WalkLimits, WhatNeighboursTakeIsNotFree) {
  const ControlGroup parent = Memory(400);
  if (parent.folder().empty()) GTEST_SKIP() << "no control group of memory may be made here";
  const ControlGroup own = Memory(380, parent.folder());
  if (own.folder().empty()) GTEST_SKIP() << "no control group in another may be made here";
  ProcessOptions options;
  options.group = own.folder();
  EXPECT_THAT(FoundByDoctor("memory limit", options), HasSubstr("380 MiB"));
  const ControlGroup sibling = Memory(400, parent.folder());
  // The neighbour: a shell that holds 300 MB until its input ends.
  int hold[2], ready[2];
  ASSERT_EQ(pipe(hold), 0);
  ASSERT_EQ(pipe(ready), 0);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    close(hold[1]);
    std::ofstream(sibling.folder() + "/cgroup.procs") << "0" << std::flush;
    std::vector<char> taken(300 << 20, 1);
    char byte = taken.back();
    if (write(ready[1], &byte, 1) != 1) _exit(1);
    _exit(read(hold[0], &byte, 1) == 0 ? 0 : 1);
  }
  char byte = 0;
  ASSERT_EQ(read(ready[0], &byte, 1), 1);
  const std::string limit = FoundByDoctor("memory limit", options), memory = FoundByDoctor("memory", options);
  for (int fd : {hold[0], hold[1], ready[0], ready[1]}) close(fd);
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_THAT(limit, HasSubstr("400 MiB, 3"));
  EXPECT_THAT(memory, ::testing::ContainsRegex("which [4-9][0-9] MiB are free"));
}

TEST_F(WalkLimits, ThreadsFollowTheQuotaOfAControlGroup) {
  const auto threads = [](const std::string& group) {
    ProcessOptions options;
    options.group = group;
    options.env["OMNI_THREADS"] = "0";
    return Json(Omni({"eval", "ppl", *dir_ / "text.txt", "-m", Model(), "--json"}, options))["threads"]
        .get<int>();
  };
  const ControlGroup half("cpu", {{"cpu.cfs_quota_us", "50000"}}, {{"cpu.max", "50000 100000"}});
  if (half.folder().empty()) GTEST_SKIP() << "no control group of processor time may be made here";
  EXPECT_EQ(threads(half.folder()), 1);
  ProcessOptions options;
  options.group = half.folder();
  options.env["OMNI_THREADS"] = "0";
  EXPECT_THAT(FoundByDoctor("cores", options),
              AllOf(HasSubstr("allows the time of 0.5"), HasSubstr("1 thread computes")));
  EXPECT_THAT(Run({"x", "-n", "1", "--stats"}, options).err, HasSubstr(" 1 threads"));
}

TEST_F(WalkLimits, ThreadsFollowTheAffinity) {
  ProcessOptions options;
  options.env["OMNI_THREADS"] = "0";
  options.one_core = true;
  EXPECT_EQ(Json(Omni({"eval", "ppl", *dir_ / "text.txt", "-m", Model(), "--json"}, options))["threads"], 1);
  EXPECT_THAT(FoundByDoctor("cores", options),
              AllOf(HasSubstr("1 usable of "), HasSubstr("1 thread computes")));
  EXPECT_THAT(Run({"x", "-n", "1", "--stats"}, options).err, HasSubstr(" 1 threads"));
}

}  // namespace
}  // namespace omni::testing
