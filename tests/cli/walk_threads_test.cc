// Too few threads: every verb ends well, or says which limit it met.
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/cli/control_group.h"
#include "tests/cli/walk.h"

namespace omni::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

constexpr uid_t kUser = 54321;

class WalkThreads : public WalkTest {
 protected:
  static void ExpectDoneOrOneLine(const Output& output, const std::string& limit, int* refused) {
    if (output.exit_code == 0) return;
    ++*refused;
    EXPECT_EQ(output.exit_code, 1) << output.err;
    if (output.err.empty() && output.out.find(limit) != output.out.npos) return;  // doctor's findings
    EXPECT_THAT(output.err, HasSubstr(limit)) << output.out;
    EXPECT_EQ(std::count(output.err.begin(), output.err.end(), '\n'), 1) << output.err;
  }
};

TEST_F(WalkThreads, ALimitOfTheUserIsNamedByEveryVerb) {
  if (geteuid() != 0) GTEST_SKIP() << "only root can become a user with a limit of its own";
  fs::permissions(dir_->path(), fs::perms::all);
  Parser parser;
  int refused = 0;
  for (CLI::App* verb : parser.VerbsThatEnd()) {
    for (rlim_t most = 1; most <= 8; ++most) {
      std::vector<std::string> command = Command(verb->get_name());
      if (verb->get_option_no_throw("--threads") != nullptr) command.insert(command.end(), {"-t", "4"});
      SCOPED_TRACE(Join(command) + " with " + std::to_string(most) + " processes and threads");
      ProcessOptions options;
      options.user = kUser;
      options.most_processes = most;
      options.env = {{"XDG_STATE_HOME", *dir_ / "other-state"}};
      ExpectDoneOrOneLine(Omni(command, options),
                          "may have " + std::to_string(most) + " processes and threads", &refused);
    }
  }
  EXPECT_GT(refused, 10);
}

TEST_F(WalkThreads, ALimitOfAControlGroupIsNamed) {
  for (int most = 1; most <= 8; ++most) {
    const std::map<std::string, std::string> limits = {{"pids.max", std::to_string(most)}};
    const ControlGroup group("pids", limits, limits);
    if (group.folder().empty()) GTEST_SKIP() << "no control group of processes (pids) may be made here";
    ProcessOptions options;
    options.group = group.folder();
    int refused = 0;
    ExpectDoneOrOneLine(Run({"x", "-n", "2", "-t", "8"}, options),
                        "allows " + std::to_string(most) + " processes and threads (pids.max)", &refused);
    EXPECT_EQ(refused, 1);
  }
}

}  // namespace
}  // namespace omni::testing
