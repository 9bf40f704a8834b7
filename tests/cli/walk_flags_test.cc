// Every flag of every verb: by command line in both spellings and by environment it is the same.
#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/text/sampler.h"
#include "tests/cli/walk.h"

namespace omni::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

// Sets a variable for as long as it lives.
class Variable {
 public:
  Variable(std::string name, const std::string& value) : name_(std::move(name)) {
    setenv(name_.c_str(), value.c_str(), 1);
  }
  ~Variable() { unsetenv(name_.c_str()); }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;

 private:
  std::string name_;
};

// What a flag that takes a value may be given: by the name of its kind in the help, or, where that is not
// enough, by its own name.
std::string GoodValue(const CLI::Option& option) {
  const std::map<std::string, std::string> by_name = {
      {"tile-alignment", "128"},    {"cases", "hot,own"}, {"format", "2"},
      {"resize", "1G,2G"},          {"log", "json"},      {"log-level", "debug"},
      {"listen", "127.0.0.1:7300"}, {"shadows", "1"}};
  const auto it = by_name.find(option.get_lnames().front());
  if (it != by_name.end()) return it->second;
  const std::string kind = option.get_type_name();
  if (kind == "N") return "7";
  if (kind == "X") return "0.5";
  if (kind == "SIZE") return "3G";
  if (kind == "DEVICE") return "auto:1";
  if (kind == "TIME") return "1h30m";
  if (kind == "HOST:PORT[,...]") return "10.0.0.1:7300,kitchen:1";
  if (kind == "URL") return "https://kitchen:8443/v1";
  if (kind == "KIND[,...]") return "near,tau=0.2";
  if (kind == "PATH") return "/some/path with = and [a,b]";
  if (kind == "TEXT") return "[September.]";
  if (kind.starts_with('{')) return kind.substr(1, kind.find_first_of(",}") - 1);
  ADD_FAILURE() << "tests/cli/walk_flags_test.cc knows no value for " << option.get_name() << " of kind "
                << kind;
  return "";
}

// Nothing if whatever is given is good, as of a text.
std::vector<std::string> BadValues(const CLI::Option& option) {
  const std::string kind = option.get_type_name();
  if (kind == "TEXT")
    return option.check_lname("stop") ? std::vector<std::string>{""} : std::vector<std::string>();
  if (kind == "PATH") return {""};
  return {"", "nonsense", "-9999999999999999999999"};
}

// The words of a verb that it cannot do without.
std::vector<std::string> Needed(const std::string& verb, const CLI::Option& but) {
  const std::map<std::string, std::vector<std::string>> needed = {{"pack", {"from", "to"}},
                                                                  {"synth", {"--out", "there"}},
                                                                  {"eval", {"ppl", "file"}},
                                                                  {"trace", {"text"}},
                                                                  {"bench", {"stream"}},
                                                                  {"completion", {"bash"}},
                                                                  {"cluster", {"status"}},
                                                                  {"key", {"list"}},
                                                                  {"safety", {"check", "file"}},
                                                                  {"memory", {"stats"}},
                                                                  {"adapt", {"list"}},
                                                                  {"task", {"list"}},
                                                                  {"node", {"--listen", "127.0.0.1:7300"}}};
  const auto it = needed.find(verb);
  if (it == needed.end() || (verb == "synth" && but.check_lname("out")) ||
      (verb == "node" && but.check_lname("listen"))) {
    return {};
  }
  return it->second;
}

std::string ErrorOf(Parser& parser, std::vector<std::string> words) {
  words = cli::LiteralWords(parser.root, words);
  std::reverse(words.begin(), words.end());
  try {
    parser.root.parse(std::move(words));
  } catch (const CLI::ParseError& error) {
    return error.what();
  }
  return {};
}

// Calls `look(verb, flag, words)` with a fresh parser's every verb and flag, and the words that the verb
// needs.
void ForEveryFlag(const std::function<void(const std::string& verb, const CLI::Option& flag,
                                           const std::vector<std::string>& words)>& look) {
  Parser parser;
  int flags = 0;
  for (CLI::App* verb : parser.Verbs()) {
    for (const CLI::Option* flag : Parser::Flags(verb)) {
      SCOPED_TRACE(verb->get_name() + " " + flag->get_name());
      std::vector<std::string> words = Needed(verb->get_name(), *flag);
      words.insert(words.begin(), verb->get_name());
      look(verb->get_name(), *flag, words);
      ++flags;
    }
  }
  EXPECT_GT(flags, 40);
}

// The values that the flag of that name got from these words; the error if there is one.
std::vector<std::string> Results(const std::string& verb, const std::string& name,
                                 const std::vector<std::string>& words) {
  Parser parser;
  if (std::string error = ErrorOf(parser, words); !error.empty()) return {"error: " + error};
  return parser.root.get_subcommand(verb)->get_option(name)->results();
}

std::vector<std::string> With(std::vector<std::string> words, const std::vector<std::string>& more) {
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

TEST(WalkFlags, BothSpellingsAndTheEnvironmentAreTakenLiterally) {
  ForEveryFlag([](const std::string& verb, const CLI::Option& flag, const std::vector<std::string>& words) {
    if (!Parser::TakesValue(flag)) return;
    const std::string value = GoodValue(flag);
    const std::vector<std::string> want = {value};
    for (const std::string& name : flag.get_lnames()) {
      EXPECT_EQ(Results(verb, "--" + name, With(words, {"--" + name, value})), want);
      EXPECT_EQ(Results(verb, "--" + name, With(words, {"--" + name + "=" + value})), want);
    }
    for (const std::string& name : flag.get_snames()) {
      EXPECT_EQ(Results(verb, "-" + name, With(words, {"-" + name, value})), want);
      EXPECT_EQ(Results(verb, "-" + name, With(words, {"-" + name + value})), want);
    }
    const Variable variable(Parser::Variable(flag), value);
    Parser parser;
    EXPECT_EQ(ErrorOf(parser, words), "");
  });
}

TEST(WalkFlags, ABadValueIsReportedByTheNameUnderWhichItCame) {
  ForEveryFlag([](const std::string&, const CLI::Option& flag, const std::vector<std::string>& words) {
    const std::string name = "--" + flag.get_lnames().front();
    for (const std::string& value :
         Parser::TakesValue(flag) ? BadValues(flag) : std::vector{std::string("maybe")}) {
      SCOPED_TRACE(value);
      Parser spaced, joined, named, both;
      if (Parser::TakesValue(flag)) {
        EXPECT_THAT(ErrorOf(spaced, With(words, {name, value})), StartsWith(flag.get_name() + ": "));
      }
      EXPECT_THAT(ErrorOf(joined, With(words, {name + "=" + value})), StartsWith(flag.get_name() + ": "));
      if (value.empty()) continue;  // an empty variable is as good as none
      const Variable variable(Parser::Variable(flag), value);
      EXPECT_THAT(ErrorOf(named, words), StartsWith(Parser::Variable(flag) + ": "));
      // The command line wins, whatever the variable is.
      const std::string good = Parser::TakesValue(flag) ? "=" + GoodValue(flag) : "";
      EXPECT_EQ(ErrorOf(both, With(words, {name + good})), "");
    }
  });
}

TEST(WalkFlags, OfAnotherVerbsFlagAVariableIsNothing) {
  const Variable variable("OMNI_TOP_P", "nonsense");
  Parser parser;
  EXPECT_EQ(ErrorOf(parser, {"inspect"}), "");
}

TEST(WalkFlags, ARequiredFlagMayComeFromTheEnvironment) {
  Parser without, with;
  EXPECT_THAT(ErrorOf(without, {"synth"}), HasSubstr("--out"));
  const Variable variable("OMNI_OUT", "there");
  EXPECT_EQ(ErrorOf(with, {"synth"}), "");
}

// "--name=" must not take the next word for its value.
TEST(WalkFlags, AnEmptyValueIsAValue) {
  EXPECT_EQ(Results("run", "--prompt", {"run", "--prompt=", "--stats"}), std::vector<std::string>{""});
  EXPECT_EQ(Results("run", "--prompt", {"run", "--prompt", ""}), std::vector<std::string>{""});
  EXPECT_EQ(Results("run", "--prompt", {"run", "--prompt", "--seed="}), std::vector<std::string>{"--seed="});
  EXPECT_EQ(Results("run", "--prompt", {"run", "-p", "--seed="}), std::vector<std::string>{"--seed="});
  EXPECT_EQ(
      Results("run", "--stop", {"run", "x", "--stop", "a", "--stop=[b,c]", "--stop", "{}", "--stop=--"}),
      (std::vector<std::string>{"a", "[b,c]", "{}", "--"}));
}

TEST(WalkFlags, FileNamesAreTakenLiterally) {
  const std::vector<std::string> files = {"[a,b]", "c", "[]", "{d}", "e,f", "-"};
  std::vector<std::string> want = files;
  want[0] = "./[a,b]";  // the same file
  want[2] = "./[]";
  EXPECT_EQ(Results("eval", "FILE", With({"eval", "ppl"}, files)), want);
  EXPECT_EQ(Results("eval", "FILE", With({"eval", "ppl", "--carry", "--"}, files)), want);
  EXPECT_EQ(Results("eval", "FILE", With(With({"eval", "ppl"}, files), {"-m", "[m]", "-t", "1"})), want);
  EXPECT_EQ(Results("run", "PROMPT", {"run", "[a,b]"}), std::vector<std::string>{"[a,b]"});
  EXPECT_EQ(Results("trace", "PROMPT", {"trace", "[a,b]"}), std::vector<std::string>{"[a,b]"});
  EXPECT_EQ(Results("pack", "DIR", {"pack", "[a,b]", "[c]"}), std::vector<std::string>{"[c]"});
}

// One range for one setting, the flag's and the engine's.
class SamplerFlags : public WalkTest {
 protected:
  template <typename T>
  static void ExpectOneRange(const std::string& flag, const std::string& name, T SamplerSettings::*setting,
                             Range<T> range, const std::vector<std::string>& values,
                             const std::vector<std::string>& beside = {}) {
    for (const std::string& value : values) {
      SCOPED_TRACE(flag + " " + value);
      SamplerSettings settings;
      settings.*setting = static_cast<T>(std::stod(value));
      const bool good = Validate(settings).ok();
      EXPECT_EQ(range.Has(settings.*setting), good);
      std::vector<std::string> words = {"x", "-n", "1", flag, value};
      words.insert(words.end(), beside.begin(), beside.end());
      const Output output = Run(words);
      if (good) {
        EXPECT_EQ(output.exit_code, 0) << output.err;
        continue;
      }
      EXPECT_THAT(std::string(Validate(settings).message()), HasSubstr(name + " (" + flag + ") is "));
      EXPECT_THAT(std::string(Validate(settings).message()), HasSubstr("it must be " + range.Text()));
      ExpectOneLine(output, 2, flag + ": '" + value + "' is not a ");
      EXPECT_THAT(output.err, HasSubstr("number " + range.Text()));
    }
  }
};

TEST_F(SamplerFlags, HaveTheRangesOfTheEngine) {
  [[maybe_unused]] const auto [a, b, c, d, e, f, g] = SamplerSettings();  // another one belongs below
  ExpectOneRange("--temp", "temperature", &SamplerSettings::temperature, kTemperatures,
                 {"-0.1", "0", "1e-30", "100", "100.1"});
  ExpectOneRange("--top-k", "top_k", &SamplerSettings::top_k, kTopKs, {"-1", "0", "1", "2147483647"});
  ExpectOneRange("--top-p", "top_p", &SamplerSettings::top_p, kTopPs, {"-1", "0", "0.001", "1", "1.01"});
  ExpectOneRange("--min-p", "min_p", &SamplerSettings::min_p, kMinPs, {"-0.01", "0", "1", "1.01"});
  ExpectOneRange("--repeat-penalty", "repetition_penalty", &SamplerSettings::repetition_penalty,
                 kRepetitionPenalties, {"0", "0.009", "0.01", "100", "101"});
  ExpectOneRange("--repeat-last-n", "repetition_window", &SamplerSettings::repetition_window,
                 kRepetitionWindows, {"-1", "0", "64", "2147483647"}, {"--repeat-penalty", "1.1"});
}

// A flag that cannot act is refused, with the reason.
TEST_F(SamplerFlags, AFlagThatCannotActIsRefused) {
  for (const std::vector<std::string>& flag : std::vector<std::vector<std::string>>{
           {"--io", "pread"}, {"--cache-policy", "lru"}, {"--prefetch"}, {"--no-prefetch"}}) {
    SCOPED_TRACE(flag.front());
    ExpectOneLine(Run(With({"x", "-n", "1"}, flag)), 2, "does nothing here: the model fits in memory");
    EXPECT_EQ(Run(With({"x", "-n", "1", "--ram", "1G"}, flag)).exit_code, 0);
  }
  for (const char* verb : {"eval", "trace"}) {
    ExpectOneLine(Omni(With(Command(verb), {"--io", "pread"})), 2, "--io does nothing here");
    EXPECT_EQ(Omni(With(Command(verb), {"--io", "pread", "--ram", "1G"})).exit_code, 0);
  }
  // In the environment it is meant for whatever model is streamed.
  ProcessOptions options;
  options.env = {{"OMNI_IO", "pread"}};
  EXPECT_EQ(Run({"x", "-n", "1"}, options).exit_code, 0);
  ExpectOneLine(Run({"x", "--json", "--echo"}), 2, "--echo");
  ExpectOneLine(Run({"x", "--repeat-last-n", "9"}), 2, "--repeat-last-n does nothing");
  ExpectOneLine(Omni(With(Command("bench"), {"--cache-share", "0.5"})), 2, "--cache-share");
}

TEST_F(SamplerFlags, TheCommandLineWinsOverWhatTheEnvironmentSaysBeside) {
  ProcessOptions options;
  options.env = {{"OMNI_PROMPT", "the ship"}, {"OMNI_PRESET", "mini"}};
  const Output output = Run({"the sea", "-n", "1", "--echo"}, options);
  EXPECT_EQ(output.exit_code, 0) << output.err;
  EXPECT_THAT(output.out, StartsWith("the sea"));
  EXPECT_EQ(Json(Omni({"plan", "-m", Model(), "--ram", "1G", "--json"}, options))["packed"], true);
  options.env = {{"OMNI_MODEL", Model()}};
  EXPECT_EQ(Json(Omni({"plan", "--preset", "tiny", "--ram", "1G", "--json"}, options))["packed"], false);
}

TEST_F(SamplerFlags, AStopTextIsTakenLiterally) {
  // What the model says is random bytes; any two of it, in brackets, must stop nothing, and as they are must.
  const nlohmann::json whole = Json(Run({"the", "-n", "40", "--temp", "0", "--ignore-eos", "--json"}));
  const auto text = whole["text"].get<std::string>();
  ASSERT_GT(text.size(), 4u);
  std::string letter;
  for (char c : text) {
    if (std::isalnum(static_cast<unsigned char>(c)) && text.find("[" + std::string(1, c) + "]") == text.npos)
      letter = std::string(1, c);
  }
  ASSERT_NE(letter, "");
  for (const auto& [stop, reason] : {std::pair{"[" + letter + "]", "length"}, {letter, "stop"}}) {
    const std::vector<std::string> words = {"the", "-n", "40", "--temp", "0", "--ignore-eos", "--json"};
    EXPECT_EQ(Json(Run(With(words, {"--stop", stop})))["stop_reason"], reason) << stop;
    EXPECT_EQ(Json(Run(With(words, {"--stop=" + stop})))["stop_reason"], reason) << stop;
    ProcessOptions options;
    options.env = {{"OMNI_STOP", stop}};
    EXPECT_EQ(Json(Run(words, options))["stop_reason"], reason) << stop;
  }
}

}  // namespace
}  // namespace omni::testing
