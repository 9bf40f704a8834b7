// --log and --log-level, which every verb has.
#include <algorithm>
#include <string>
#include <vector>

#include <absl/strings/str_split.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/cli/omni_fixture.h"

namespace omni::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using ::testing::Not;
using ::testing::StartsWith;

class LogFlags : public OmniTest {
 protected:
  static ProcessOptions With(const std::string& variable, const std::string& value) {
    ProcessOptions options;
    options.env[variable] = value;
    return options;
  }
  static nlohmann::json Line(const Output& output) {
    nlohmann::json json = nlohmann::json::parse(output.err, nullptr, false);
    EXPECT_TRUE(json.is_object()) << output.err;
    return json;
  }
};

// All but train, which is another program.
TEST_F(LogFlags, AreThoseOfEveryVerb) {
  const Output completion = Omni({"completion", "bash"});
  std::vector<std::string> verbs;
  // Lines such as: verify) words="--model --threads" ;;
  const std::vector<std::string> lines = absl::StrSplit(completion.out, '\n');
  for (const std::string& line : lines) {
    const std::vector<std::string> parts = absl::StrSplit(line, '"');
    if (parts.size() != 3 || !parts[0].ends_with(") words=")) continue;
    const size_t begin = parts[0].find_first_not_of(' ');
    const std::string verb = parts[0].substr(begin, parts[0].find(')') - begin);
    if (verb == "train") continue;
    SCOPED_TRACE(verb);
    verbs.push_back(verb);
    const std::vector<std::string> flags = absl::StrSplit(parts[1], ' ');
    EXPECT_THAT(flags, ::testing::IsSupersetOf({"--log", "--log-level"}));
    ExpectOneLine(Omni({verb, "--log", "yaml"}), 2, "--log: 'yaml' is neither text nor json");
    ExpectOneLine(Omni({verb, "--log-level", "loud"}), 2,
                  "--log-level: 'loud' is none of error, warning, info, debug");
  }
  EXPECT_THAT(verbs, ::testing::IsSupersetOf({"run", "eval", "verify", "doctor", "completion"}));
}

TEST_F(LogFlags, HaveTwinsInTheEnvironment) {
  ExpectOneLine(Run({"x"}, With("OMNI_LOG", "yaml")), 2, "OMNI_LOG: 'yaml' is neither");
  ExpectOneLine(Run({"x"}, With("OMNI_LOG_LEVEL", "loud")), 2, "OMNI_LOG_LEVEL: 'loud' is none of");
  const Output output = Omni({"inspect", "-m", "missing"}, With("OMNI_LOG", "json"));
  EXPECT_EQ(Line(output)["event"], "failed");
  ExpectOneLine(Omni({"inspect", "-m", "missing", "--log", "text"}, With("OMNI_LOG", "json")), 1, "missing");
}

TEST_F(LogFlags, JsonSaysWhyAVerbFailedToo) {
  const Output output = Omni({"run", "x", "-m", "m\xffm", "--log", "json"});
  EXPECT_EQ(output.exit_code, 1);
  EXPECT_EQ(std::count(output.err.begin(), output.err.end(), '\n'), 1);
  const nlohmann::json json = Line(output);
  EXPECT_THAT(json["ts"].get<std::string>(),
              MatchesRegex("[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}[.][0-9]{3}Z"));
  EXPECT_EQ(json["level"], "error");
  EXPECT_EQ(json["event"], "failed");
  EXPECT_EQ(json["fields"]["exit_code"], 1);
  EXPECT_THAT(json["fields"]["reason"].get<std::string>(), StartsWith("m\xef\xbf\xbdm"));
}

// Neither what goes in nor what comes out is anybody's business but the caller's.
TEST_F(LogFlags, NothingOfPromptStopTextsOrAnswerIsLogged) {
  for (const char* form : {"text", "json"}) {
    const Output output = Run({"the secret prompt", "-n", "8", "--temp", "0", "--stop", "the secret stop",
                               "--log", form, "--log-level", "debug", "--ram", "300M", "--no-echo"});
    ASSERT_EQ(output.exit_code, 0) << output.err;
    EXPECT_THAT(output.err, HasSubstr("computing with "));
    EXPECT_THAT(output.err, Not(HasSubstr("secret")));
    ASSERT_GT(output.out.size(), 4u);
    EXPECT_THAT(output.err, Not(HasSubstr(output.out.substr(0, output.out.size() - 1))));
  }
}

}  // namespace
}  // namespace omni::testing
