// The status line of every verb, on terminals of all kinds.
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cli/terminal.h"
#include "tests/cli/walk.h"

namespace omni::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(FitColumnsTest, CutsToColumnsAndNotToBytes) {
  using cli::FitColumns;
  EXPECT_EQ(FitColumns("12.3 tok/s", 20), "12.3 tok/s");
  EXPECT_EQ(FitColumns("12.3 tok/s", 10), "12.3 tok/s");
  EXPECT_EQ(FitColumns("12.3 tok/s", 9), "12.3 tok…");
  EXPECT_EQ(FitColumns("ab · cd · ef", 12), "ab · cd · ef");
  EXPECT_EQ(FitColumns("ab · cd · ef", 8), "ab · cd…");
  EXPECT_EQ(FitColumns("深い森の中", 10), "深い森の中");
  EXPECT_EQ(FitColumns("深い森の中", 9), "深い森の…");
  EXPECT_EQ(FitColumns("深い森の中", 8), "深い森…");
  EXPECT_EQ(FitColumns("e\u0301e\u0301e\u0301", 3),
            "e\u0301e\u0301e\u0301");  // accents of their own take no column
  EXPECT_EQ(FitColumns("a\xff\xe9z\x1b[31m\n", 20), "a??z?[31m?");
  EXPECT_EQ(FitColumns("\xe4\xb8", 5), "??");
  EXPECT_EQ(FitColumns("abc", 1), "…");
  EXPECT_EQ(FitColumns("a", 1), "a");
  EXPECT_EQ(FitColumns("abc", 0), "");
  EXPECT_EQ(FitColumns("", 0), "");
}

TEST(OneLineTest, LeavesNothingThatATerminalObeys) {
  using cli::OneLine;
  EXPECT_EQ(OneLine("a\nb\n\nc\n"), "a; b; c");
  EXPECT_EQ(OneLine("a\tb\x1b[2J\r\x7f"), "a?b?[2J??");
  EXPECT_EQ(OneLine("caf\xc3\xa9 \xff"), "caf\xc3\xa9 \xff");
  EXPECT_EQ(OneLine("\n\n"), "");
}

class WalkStatus : public WalkTest {
 protected:
  // The most columns that any line shown takes, those written over included.
  static size_t WidestLine(const std::string& shown) {
    size_t widest = 0, width = 0;
    for (size_t i = 0; i < shown.size(); ++i) {
      const char c = shown[i];
      if (c == '\x1b') {  // an escape: to its letter
        while (i < shown.size() && !std::isalpha(static_cast<unsigned char>(shown[i]))) ++i;
      } else if (c == '\r' || c == '\n') {
        width = 0;
      } else if ((static_cast<unsigned char>(c) & 0xc0) != 0x80) {
        widest = std::max(widest, ++width);
      }
    }
    return widest;
  }
};

// In lines that stay, which are no status.
bool IntroducesItself(const std::string& verb) { return verb == "run" || verb == "chat"; }

TEST_F(WalkStatus, IsCutToTheTerminalsWidth) {
  Parser parser;
  bool any = false;
  for (CLI::App* verb : parser.VerbsThatEnd()) {
    const std::string& name = verb->get_name();
    if (IntroducesItself(name)) continue;
    for (const int columns : {20, 40}) {
      SCOPED_TRACE(name + " in " + std::to_string(columns));
      ProcessOptions options;
      options.terminal = true;
      options.columns = columns;
      const Output output = Omni(Command(name), options);
      EXPECT_EQ(output.exit_code, 0) << output.err;
      EXPECT_LT(WidestLine(output.err), static_cast<size_t>(columns)) << output.err;
      any = any || output.err.find("…") != std::string::npos;
    }
  }
  EXPECT_TRUE(any) << "no verb has a status line that is long enough to be cut";
}

TEST_F(WalkStatus, IsNotShownWhereItCannotBeErased) {
  Parser parser;
  for (CLI::App* verb : parser.VerbsThatEnd()) {
    for (const char* term : {"dumb", ""}) {
      SCOPED_TRACE(verb->get_name() + ", TERM '" + term + "'");
      ProcessOptions options;
      options.terminal = true;
      options.env["TERM"] = term;
      const Output output = Omni(Command(verb->get_name()), options);
      EXPECT_EQ(output.exit_code, 0) << output.err;
      EXPECT_THAT(output.err, Not(HasSubstr("\x1b")));
      EXPECT_THAT(output.err, Not(HasSubstr("\r\r")));
      if (!IntroducesItself(verb->get_name())) {
        EXPECT_EQ(output.err, "");
      }
    }
  }
}

}  // namespace
}  // namespace omni::testing
