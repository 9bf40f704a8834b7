// JSON stays JSON whatever the names of files are.
#include <filesystem>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/cli/walk.h"

namespace omni::testing {
namespace {

namespace fs = std::filesystem;

constexpr char kNotUtf8[] = "\xff\xfe caf\xe9 \x1b[31m";

// The words of a verb, with every path below the tests' directory replaced by one that is not UTF-8: a link
// to it.
std::vector<std::string> WithStrangePaths(std::vector<std::string> words, const std::string& dir) {
  const fs::path strange = fs::path(dir) / kNotUtf8;
  if (!fs::is_symlink(strange)) fs::create_directory_symlink(dir, strange);
  for (std::string& word : words) {
    if (word.starts_with(dir + "/")) word = (strange / word.substr(dir.size() + 1)).string();
  }
  return words;
}

class WalkJson : public WalkTest {};

TEST_F(WalkJson, NamesThatAreNotUtf8AreReplacedInEveryVerb) {
  Parser parser;
  int verbs = 0;
  for (CLI::App* verb : parser.VerbsThatEnd()) {
    if (verb->get_option_no_throw("--json") == nullptr) continue;
    std::vector<std::string> words = WithStrangePaths(Command(verb->get_name()), dir_->path());
    words.push_back("--json");
    SCOPED_TRACE(Join(words));
    const Output output = Omni(words);
    EXPECT_EQ(output.exit_code, 0) << output.err;
    EXPECT_TRUE(nlohmann::json::parse(output.out, nullptr, false).is_object()) << output.out;
    ++verbs;
  }
  EXPECT_GE(verbs, 9);
}

// Errors name such files too, without handing a terminal what it would obey.
TEST_F(WalkJson, ErrorsAreOneLineWithoutControlCharacters) {
  Parser parser;
  for (CLI::App* verb : parser.VerbsThatEnd()) {
    if (verb->get_option_no_throw("--model") == nullptr) continue;
    std::vector<std::string> words = Command(verb->get_name());
    // A verb of several actions may have one that reads no model.
    if (std::count(words.begin(), words.end(), Model()) == 0) continue;
    for (std::string& word : words) {
      if (word == Model()) word = *dir_ / (std::string("no\nwhere ") + kNotUtf8);
    }
    SCOPED_TRACE(Join(words));
    const Output output = Omni(words);
    EXPECT_NE(output.exit_code, 0);
    EXPECT_THAT(output.err, ::testing::AllOf(::testing::HasSubstr("where"),
                                             ::testing::Not(::testing::HasSubstr("\x1b"))));
    EXPECT_EQ(std::count(output.err.begin(), output.err.end(), '\n'), 1) << output.err;
    words.insert(words.end(), {"--log", "json"});
    EXPECT_TRUE(nlohmann::json::parse(Omni(words).err, nullptr, false).is_object());
  }
}

}  // namespace
}  // namespace omni::testing
