// What the program says of itself: completion for shells, and help.
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/cli/walk.h"

namespace omni::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class Completion : public WalkTest {
 protected:
  // What an interactive bash gives to `omni`, a function that shows its arguments one by one, when `line` is
  // typed in a folder with these files; \t is the key that completes.
  static std::string Typed(const std::string& line) {
    const std::string folder = Fresh("completion");
    fs::create_directory(folder);
    for (const char* name : {"my file.txt", "it's", "a(b)", "plain"})
      std::ofstream(folder + "/" + name).flush();
    std::ofstream(folder + "/.start") << "omni() { printf '<%s>' \"$@\"; echo '<END>'; }\n"
                                      << Omni({"completion", "bash"}).out << "cd '" << folder
                                      << "'\nPS1=\nbind 'set enable-bracketed-paste off'\n";
    ProcessOptions options;
    options.stdin_text = line + "\nexit\n";
    options.limit = std::chrono::seconds(20);
    const Output output =
        RunProcess({"/usr/bin/script", "-q", "-e", "-c",
                    "/bin/bash --noprofile --rcfile '" + folder + "/.start' -i", "/dev/null"},
                   options);
    const size_t end = output.out.find("<END>");
    const size_t begin = output.out.rfind('\n', end) + 1;
    return end == output.out.npos ? output.out + output.err : output.out.substr(begin, end - begin);
  }
  static bool HasScript() { return access("/usr/bin/script", X_OK) == 0 && access("/bin/bash", X_OK) == 0; }
};

TEST_F(Completion, KnowsEveryVerbAndFlag) {
  const std::string bash = Omni({"completion", "bash"}).out, zsh = Omni({"completion", "zsh"}).out;
  EXPECT_THAT(zsh, StartsWith("#compdef omni"));
  Parser parser;
  for (CLI::App* verb : parser.Verbs()) {
    EXPECT_THAT(bash, HasSubstr(" " + verb->get_name() + ") words="));
    EXPECT_THAT(zsh, HasSubstr("'" + verb->get_name() + ":"));
    for (const CLI::Option* flag : Parser::Flags(verb)) {
      for (const std::string& name : flag->get_lnames()) {
        EXPECT_THAT(bash, HasSubstr("--" + name));
        EXPECT_THAT(zsh, HasSubstr("'*--" + name + "["));
      }
    }
  }
}

TEST_F(Completion, BashCompletesVerbsAndFlags) {
  if (!HasScript()) GTEST_SKIP() << "no /usr/bin/script or /bin/bash";
  EXPECT_EQ(Typed("omni ins\t"), "<inspect>");
  EXPECT_EQ(Typed("omni run --tem\t"), "<run><--temp>");
}

TEST_F(Completion, BashCompletesFileNamesOfAnyCharactersAsOneWord) {
  if (!HasScript()) GTEST_SKIP() << "no /usr/bin/script or /bin/bash";
  EXPECT_EQ(Typed("omni eval ppl my\t"), "<eval><ppl><my file.txt>");
  EXPECT_EQ(Typed("omni eval ppl my\\ f\t"), "<eval><ppl><my file.txt>");
  EXPECT_EQ(Typed("omni eval ppl 'my f\t"), "<eval><ppl><my file.txt>");
  EXPECT_EQ(Typed("omni run --model=pl\t"), "<run><--model=plain>");
  EXPECT_EQ(Typed("omni run -m it\t"), "<run><-m><it's>");
  EXPECT_EQ(Typed("omni trace x --plot a\t"), "<trace><x><--plot><a(b)>");
}

TEST_F(Completion, ZshLoadsTheScript) {
  if (access("/usr/bin/zsh", X_OK) != 0) GTEST_SKIP() << "no zsh here";
  ProcessOptions options;
  options.stdin_text =
      "autoload -U compinit && compinit -u -D\n" + Omni({"completion", "zsh"}).out + "whence -w _omni\n";
  EXPECT_THAT(RunProcess({"/usr/bin/zsh", "-f"}, options).out, HasSubstr("_omni: function"));
}

TEST_F(Completion, HelpExplainsEveryVerb) {
  Parser parser;
  for (CLI::App* verb : parser.Verbs()) {
    SCOPED_TRACE(verb->get_name());
    const Output help = Omni({verb->get_name(), "--help"});
    EXPECT_EQ(help.exit_code, 0);
    EXPECT_THAT(help.out, AllOf(HasSubstr("Examples:"), HasSubstr("Exit codes:")));
    EXPECT_EQ(help.err, "");
    for (const CLI::Option* flag : Parser::Flags(verb)) {
      EXPECT_THAT(help.out, HasSubstr("(Env:" + Parser::Variable(*flag) + ")"));
      EXPECT_NE(flag->get_description(), "") << flag->get_name();
    }
  }
  EXPECT_THAT(Omni({"synth", "--help"}).out, HasSubstr("--out PATH REQUIRED (Env:OMNI_OUT)"));
  EXPECT_THAT(Omni({"--version"}).out, StartsWith("omni "));
}

TEST_F(Completion, HelpOfEvalSaysWhatCountsAsADocument) {
  EXPECT_THAT(
      Omni({"eval", "ppl", "--help"}).out,
      AllOf(HasSubstr("The line feed before a separator belongs to it"), HasSubstr("and nothing else"),
            HasSubstr("empty documents are skipped"), HasSubstr("With --carry nothing is split")));
}

}  // namespace
}  // namespace omni::testing
