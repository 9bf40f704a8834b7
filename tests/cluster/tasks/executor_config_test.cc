// What a configuration of executors may say, and what is said of one that says something else.
#include "cluster/tasks/executor_config.h"

#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cluster/tasks/make_executors.h"
#include "tests/testing/temp_dir.h"

namespace omni {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kWhole[] = R"({
  "commands": {
    "convert": {
      "argv": ["/bin/cat", "-u"], "description": "copies", "slots": 3, "environment": {"LANG": "C"},
      "task_environment": ["DEBUG"], "arguments": 2, "output_bytes": 1000, "drop_output": true,
      "artifacts": 5, "artifact_bytes": 6,
      "limits": {"seconds": 10, "grace_seconds": 1, "cpu_seconds": 20, "memory_bytes": 30, "disk_bytes": 40,
                 "open_files": 50, "processes": 60}
    }
  },
  "agents": {
    "clerk": {"argv": ["/bin/cat"], "permissions": "allow", "files": true, "workspace": "/srv/desk"},
    "claw": {"protocol": "zeroclaw", "argv": ["/bin/cat"], "alias": "a", "provider": "p", "model": "m"}
  },
  "jobs": {"verbs": ["eval"], "folders": ["/srv/models"], "slots": 2}
})";

std::string Problem(const std::string& text) {
  return std::string(ParseExecutorConfig(text).status().message());
}

TEST(ExecutorConfigTest, AllThatItSaysIsRead) {
  const absl::StatusOr<ExecutorConfig> config = ParseExecutorConfig(kWhole);
  ASSERT_TRUE(config.ok()) << config.status();
  const ProgramConfig& convert = config->commands.at("convert");
  EXPECT_THAT(convert.argv, ElementsAre("/bin/cat", "-u"));
  EXPECT_EQ(convert.description, "copies");
  EXPECT_EQ(convert.slots, 3);
  EXPECT_EQ(convert.environment.at("LANG"), "C");
  EXPECT_TRUE(convert.task_environment.contains("DEBUG"));
  EXPECT_EQ(convert.arguments, 2);
  EXPECT_EQ(convert.output_bytes, 1000);
  EXPECT_TRUE(convert.drop_output);
  EXPECT_EQ(convert.artifacts, 5);
  EXPECT_EQ(convert.artifact_bytes, 6);
  const ChildLimits& limits = convert.limits;
  EXPECT_EQ(limits.time, std::chrono::seconds(10));
  EXPECT_EQ(limits.grace, std::chrono::seconds(1));
  EXPECT_EQ(limits.cpu_seconds, 20);
  EXPECT_EQ(limits.memory_bytes, 30);
  EXPECT_EQ(limits.address_bytes, 30) << "of commands, if nothing is said of it";
  EXPECT_EQ(limits.disk_bytes, 40);
  EXPECT_EQ(limits.open_files, 50);
  EXPECT_EQ(limits.processes, 60);
  const AgentConfig& clerk = config->agents.at("clerk");
  EXPECT_EQ(clerk.protocol, AgentConfig::Protocol::kAcp);
  EXPECT_TRUE(clerk.allow && clerk.files);
  EXPECT_EQ(clerk.workspace, "/srv/desk");
  EXPECT_EQ(clerk.program.limits.address_bytes, 0);
  const AgentConfig& claw = config->agents.at("claw");
  EXPECT_EQ(claw.protocol, AgentConfig::Protocol::kZeroclaw);
  EXPECT_EQ(claw.alias + claw.provider + claw.model, "apm");
  EXPECT_FALSE(claw.allow);
  EXPECT_THAT(config->jobs->verbs, ElementsAre("eval"));
  EXPECT_THAT(config->jobs->folders, ElementsAre("/srv/models"));
  EXPECT_EQ(config->jobs->program.slots, 2);
  EXPECT_TRUE(ParseExecutorConfig("{}").ok());
}

TEST(ExecutorConfigTest, WhatIsWrongIsNamed) {
  EXPECT_EQ(Problem("{"), "the text is not JSON");
  EXPECT_EQ(Problem(R"({"comands": {}})"), "'comands' is not known here");
  EXPECT_EQ(Problem(R"({"commands": {"a": {}}})"),
            "'commands.a.argv' is needed: the program's absolute path, and arguments");
  EXPECT_THAT(Problem(R"({"commands": {"a b": {"argv": ["/bin/cat"]}}})"), HasSubstr("'a b'"));
  EXPECT_THAT(Problem(R"({"commands": {"a": {"argv": ["cat"]}}})"), HasSubstr("absolute path"));
  EXPECT_THAT(Problem(R"({"commands": {"a": {"argv": ["/no/such"]}}})"), HasSubstr("'/no/such'"));
  EXPECT_EQ(Problem(R"({"commands": {"a": {"argv": ["/bin/cat"], "slots": 0}}})"),
            "'commands.a.slots' is no whole number from 1 to 256");
  EXPECT_EQ(Problem(R"({"commands": {"a": {"argv": ["/bin/cat"], "limits": {"memory": 1}}}})"),
            "'commands.a.limits.memory' is not known here");
  EXPECT_THAT(Problem(R"({"commands": {"a": {"argv": ["/bin/cat", 1]}}})"), HasSubstr("list of texts"));
  EXPECT_THAT(Problem(R"({"commands": {"a": {"argv": ["/bin/cat"], "environment": {"A=B": "x"}}}})"),
              HasSubstr("'A=B'"));
  EXPECT_THAT(Problem(R"({"agents": {"a": {"argv": ["/bin/cat"], "protocol": "mcp"}}})"), HasSubstr("'acp'"));
  EXPECT_THAT(Problem(R"({"agents": {"a": {"argv": ["/bin/cat"], "protocol": "zeroclaw"}}})"),
              HasSubstr("alias"));
  EXPECT_EQ(Problem(R"({"agents": {"a": {"argv": ["/bin/cat"], "provider": "p"}}})"),
            "'agents.a.provider' is not known here");
  EXPECT_THAT(Problem(R"({"jobs": {"verbs": ["serve"]}})"), HasSubstr("'serve'"));
  EXPECT_THAT(Problem(R"({"jobs": {"folders": ["data"]}})"), HasSubstr("'data'"));
}

TEST(ExecutorConfigTest, AFileIsNamedAndMadeIntoExecutors) {
  const testing::TempDir temp;
  EXPECT_THAT(LoadExecutorConfig(temp / "none").status().message(), HasSubstr(temp / "none"));
  std::ofstream(temp / "bad.json") << "[]";
  EXPECT_THAT(LoadExecutorConfig(temp / "bad.json").status().message(), HasSubstr(temp / "bad.json"));
  std::ofstream(temp / "good.json") << kWhole;
  const absl::StatusOr<ExecutorConfig> config = LoadExecutorConfig(temp / "good.json");
  ASSERT_TRUE(config.ok()) << config.status();
  const auto made = ProgramExecutors::Make(*config, temp / "state", temp.path());
  ASSERT_TRUE(made.ok()) << made.status();
  std::vector<std::string> offers;
  for (const TaskExecutor* executor : (*made)->executors())
    for (const TaskExecutor::Offer& offer : executor->offers())
      offers.push_back(offer.offer.executor + " " + offer.offer.target);
  EXPECT_THAT(offers,
              ::testing::UnorderedElementsAre("command convert", "agent clerk", "agent claw", "job eval"));
}

}  // namespace
}  // namespace omni
