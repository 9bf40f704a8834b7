// Results that cannot be written: whoever asked for them must learn it, whatever the verb.
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/cli/walk.h"

namespace omni::testing {
namespace {

class WalkOutput : public WalkTest {
 protected:
  static void ExpectRefused(const ProcessOptions& options, const std::string& reason) {
    for (const std::vector<std::string>& command : Commands()) {
      SCOPED_TRACE(Join(command));
      ExpectOneLine(Omni(command, options), 1, "standard output: the results cannot be written: " + reason);
    }
  }
};

TEST_F(WalkOutput, EveryVerbSucceedsWhereItsResultsAreRead) {
  for (const std::vector<std::string>& command : Commands()) {
    SCOPED_TRACE(Join(command));
    const Output output = Omni(command);
    EXPECT_EQ(output.exit_code, 0) << output.err;
    EXPECT_EQ(output.err, "");
    EXPECT_NE(output.out, "");
  }
}

TEST_F(WalkOutput, AFullDeviceIsAnErrorOfEveryVerb) {
  ProcessOptions options;
  options.stdout_to = ProcessOptions::Stdout::kFile;
  options.stdout_file = "/dev/full";
  ExpectRefused(options, "No space left on device");
}

TEST_F(WalkOutput, AReaderThatIsGoneIsAnErrorOfEveryVerb) {
  ProcessOptions options;
  options.stdout_to = ProcessOptions::Stdout::kWithoutReader;
  ExpectRefused(options, "Broken pipe");
}

// No file that the program opens may take standard output's place.
TEST_F(WalkOutput, AClosedOutputIsAnErrorOfEveryVerb) {
  ProcessOptions options;
  options.stdout_to = ProcessOptions::Stdout::kClosed;
  ExpectRefused(options, "Bad file descriptor");
}

TEST_F(WalkOutput, ALongRunEndsWhenNobodyReadsItAnyMore) {
  ProcessOptions options;
  options.stdout_to = ProcessOptions::Stdout::kWithoutReader;
  ExpectOneLine(Run({"the", "-n", "100000000", "--ignore-eos", "-c", "1000000000"}, options), 1,
                "Broken pipe");
}

// Files that results are written to are written whole or told of.
TEST_F(WalkOutput, AFullDeviceAsAnOutputFileIsAnError) {
  ExpectOneLine(Omni({"trace", "x", "-m", Model(), "--plot", "/dev/full"}), 1, "/dev/full");
  ExpectOneLine(Omni({"trace", "x", "-m", Model(), "--routes", "/dev/full"}), 1, "/dev/full");
  std::vector<std::string> bench = Command("bench");
  bench.insert(bench.end(), {"--json", "--plot", "/dev/full"});
  const Output output = Omni(bench);
  EXPECT_EQ(output.exit_code, 1);
  EXPECT_THAT(output.err, ::testing::HasSubstr("/dev/full"));
}

}  // namespace
}  // namespace omni::testing
