// `omni run --swarm-task`, with a program in ZeroClaw's place.
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "tests/cli/omni_fixture.h"

namespace omni::testing {
namespace {

using ::testing::HasSubstr;

class SwarmTaskTest : public OmniTest {
 protected:
  std::string Script(const std::string& text) {
    const std::string path = temp_ / "zeroclaw";
    std::ofstream(path) << "#!/bin/sh\n" << text;
    ::chmod(path.c_str(), 0755);
    return path;
  }
  TempDir temp_;
};

TEST_F(SwarmTaskTest, AnAgentIsGivenTheTaskInItsWorkspaceAndWhatItSaysIsPrinted) {
  const std::string script =
      Script("for word in \"$@\"; do echo \"<$word>\"; done; pwd; echo \"$HOME\"; echo aside >&2\n");
  ProcessOptions options;
  options.env = {{"HOME", "/some/home"}};
  const Output output = Omni({"run", "--swarm-task", "sort 'my' notes; $(id)", "--zeroclaw-bin", script,
                              "--swarm-workspace", temp_.path()},
                             options);
  EXPECT_EQ(output.exit_code, 0) << output.err;
  EXPECT_EQ(output.out, "<agent>\n<-a>\n<default>\n<-m>\n<sort 'my' notes; $(id)>\n" +
                            std::filesystem::canonical(temp_.path()).string() + "\n/some/home\n");
  EXPECT_EQ(output.err, "aside\n");
}

TEST_F(SwarmTaskTest, ItsProgramIsFoundInThePathAndItsFailureIsTheCommands) {
  const std::string script = Script("echo no such agent >&2; exit 3\n");
  ProcessOptions options;
  options.env = {{"PATH", temp_.path() + ":/usr/bin:/bin"}};
  const Output output = Omni({"run", "--swarm-task", "x", "--zeroclaw-alias", "clerk"}, options);
  EXPECT_EQ(output.exit_code, 1);
  EXPECT_THAT(output.err, HasSubstr("the task failed: exit: exit code 3: no such agent"));
}

TEST_F(SwarmTaskTest, WhatCannotBeIsSaid) {
  const std::string script = Script("true\n");
  ProcessOptions options;
  options.env = {{"PATH", "/nowhere"}};
  ExpectOneLine(Omni({"run", "--swarm-task", "x"}, options), 2, "there is no 'zeroclaw'");
  ExpectOneLine(Omni({"run", "--swarm-task", "x", "--zeroclaw-bin", temp_ / "none"}), 2, "--zeroclaw-bin");
  ExpectOneLine(
      Omni({"run", "--swarm-task", "x", "--zeroclaw-bin", script, "--swarm-workspace", temp_ / "none"}), 2,
      "--swarm-workspace");
  ExpectOneLine(Omni({"run", "--swarm-task", "x", "--zeroclaw-bin", script, "-n", "5"}), 2,
                "--tokens does nothing beside --swarm-task");
  ExpectOneLine(Omni({"run", "prompt", "--swarm-task", "x"}), 2, "PROMPT does nothing beside --swarm-task");
  ExpectOneLine(Omni({"run", "prompt", "--zeroclaw-bin", script}), 2, "--zeroclaw-bin does nothing");
}

}  // namespace
}  // namespace omni::testing
