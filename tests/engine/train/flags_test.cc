// The trainer's command line: every flag in all its spellings, and what is said of a wrong one.
#include "engine/train/flags.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

namespace omni::train {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;
using Words = std::vector<std::string>;
using Variables = std::map<std::string, std::string>;

absl::StatusOr<CommandLine> Parse(const Words& arguments, const Variables& variables = {}) {
  return ParseCommandLine(arguments, [&](const std::string& name) {
    const auto it = variables.find(name);
    return it == variables.end() ? nullptr : it->second.c_str();
  });
}

std::string Problem(const Words& arguments, const Variables& variables = {}) {
  return std::string(Parse(arguments, variables).status().message());
}

// A value for each flag that no preset has.
const std::map<std::string, std::string> kValues = {
    {"preset", "tiny"},       {"data", "other.txt"},
    {"valid", "valid.txt"},   {"holdout", "0.125"},
    {"tune", "0.25"},         {"out", "elsewhere"},
    {"resume", "true"},       {"start", "start.st"},
    {"skip-steps", "17"},     {"tokenizer", "tok"},
    {"steps", "8800"},        {"stop-at", "120"},
    {"batch", "3"},           {"seq", "48"},
    {"memory", "100"},        {"lr", "0.0125"},
    {"lr-end", "0.5"},        {"warmup", "9"},
    {"weight-decay", "0.3"},  {"matrices", "adamw"},
    {"momentum", "0.75"},     {"beta2", "0.875"},
    {"clip", "3.5"},          {"dropout", "0.375"},
    {"balance", "0.5"},       {"smoothness", "0.625"},
    {"shared-steps", "2000"}, {"expert-every", "2"},
    {"cooldown", "0.0625"},   {"reset-every", "33"},
    {"gamma-min", "0.25"},    {"gamma-max", "0.75"},
    {"eval-every", "50"},     {"eval-tokens", "5000"},
    {"save-every", "200"},    {"plot", "true"},
    {"seed", "99"},           {"threads", "3"},
    {"layers", "12"},         {"width", "256"},
    {"rank", "24"},           {"ffn", "640"},
    {"heads", "8"},           {"kv-heads", "1"},
    {"window", "300"},        {"vocab", "1000"},
    {"own", "128"},           {"lattice", "4,8,2"},
    {"region", "4,2,1"},      {"base", "64"},
    {"member", "192"},        {"route-from", "ahead"},
    {"slow-rate", "0.25"},    {"route-bias", "true"},
    {"router-lr", "0.5"},     {"router-clip", "2.5"},
    {"balance-rate", "0.01"}, {"balance-tokens", "5000"},
    {"part-region", "400"},   {"part-member", "800"},
    {"part-own", "1200"},     {"route-std", "0.25"},
    {"use-power", "0.5"},     {"own-pull", "0.25"},
    {"part-noise", "0.02"},   {"members", "similar"},
    {"balance-soft", "0.5"},  {"write-logits", "t.bin"},
    {"logits-from", "8"},     {"logits-steps", "9"},
    {"teacher", "t.bin"},     {"teacher-share", "0.25"},
    {"untaken", "true"},      {"stride", "fibonacci"},
};

// The command line without the flag, as what it needs at least.
Words Rest(const std::string& flag) {
  Words rest;
  if (flag != "data") rest.insert(rest.end(), {"--data", "text.txt"});
  if (flag != "out") rest.insert(rest.end(), {"--out", "run"});
  if (flag == "write-logits") rest.insert(rest.end(), {"--resume", "--logits-steps", "8"});
  if (flag == "logits-steps") rest.insert(rest.end(), {"--resume", "--write-logits", "t.bin"});
  if (flag == "part-member") rest.insert(rest.end(), {"--member", "64"});
  if (flag == "slow-rate" || flag == "members") rest.insert(rest.end(), {"--route-from", "address"});
  return rest;
}

Words With(Words words, const Words& more) {
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

Words AllFlags() {
  Words flags;
  const TrainSettings settings;
  VisitSettings(settings, [&](const char* name, const auto&, OnResume) { flags.push_back(name); });
  return flags;
}

nlohmann::json Settings(const absl::StatusOr<CommandLine>& line) {
  return line.ok() ? SettingsJson(line->settings) : nlohmann::json(std::string(line.status().message()));
}

TEST(TrainFlags, MeanTheSameInEverySpelling) {
  const nlohmann::json usual = Settings(Parse({"--data", "text.txt", "--out", "run"}));
  for (const std::string& flag : AllFlags()) {
    SCOPED_TRACE(flag);
    ASSERT_TRUE(kValues.contains(flag)) << "give it a value in kValues";
    const std::string value = kValues.at(flag), name = "--" + flag;
    const auto joined = Parse(With(Rest(flag), {name + "=" + value}));
    ASSERT_TRUE(joined.ok()) << joined.status();
    EXPECT_NE(Settings(joined), usual);
    EXPECT_TRUE(joined->settings.chosen.contains(flag));
    const bool is_switch = SettingsJson(TrainSettings())[flag].is_boolean();
    EXPECT_EQ(Settings(Parse(With(Rest(flag), is_switch ? Words{name} : Words{name, value}))),
              Settings(joined));
    EXPECT_EQ(Settings(Parse(With(is_switch ? Words{name} : Words{name, value}, Rest(flag)))),
              Settings(joined));
    const auto variable = Parse(Rest(flag), {{TwinOf(flag), value}});
    EXPECT_EQ(Settings(variable), Settings(joined));
    ASSERT_TRUE(variable.ok());
    EXPECT_TRUE(variable->settings.chosen.contains(flag));
    EXPECT_EQ(Settings(Parse(Rest(flag), {{TwinOf(flag), ""}})), Settings(Parse(Rest(flag))));
  }
}

TEST(TrainFlags, AreAllInTheHelpWithTheirVariables) {
  const auto line = Parse({"--help"});
  ASSERT_TRUE(line.ok()) << line.status();
  ASSERT_TRUE(line->help.has_value());
  for (const std::string& flag : AllFlags()) {
    EXPECT_THAT(*line->help, HasSubstr("--" + flag + " "));
    EXPECT_THAT(*line->help, HasSubstr("(Env:" + TwinOf(flag) + ")"));
  }
}

TEST(TrainFlags, GiveTheCommandLineMoreWeightThanTheEnvironmentAndThatMoreThanThePreset) {
  const Words needed = {"--data", "text.txt", "--out", "run"};
  for (const Words& order :
       {With({"--lr=0.5", "--preset=tiny"}, needed), With({"--preset=tiny", "--lr=0.5"}, needed)}) {
    const auto line = Parse(order, {{"OMNI_LR", "0.25"}, {"OMNI_CLIP", "7"}, {"OMNI_PRESET", "char"}});
    ASSERT_TRUE(line.ok()) << line.status();
    EXPECT_EQ(line->settings.config.preset, "tiny");
    EXPECT_EQ(line->settings.config.d, 64);
    EXPECT_EQ(line->settings.lr, 0.5);
    EXPECT_EQ(line->settings.clip, 7);
    EXPECT_EQ(line->settings.reset_every, 200);  // the preset's
  }
  const auto line = Parse(needed, {{"OMNI_PRESET", "char"}});
  ASSERT_TRUE(line.ok());
  EXPECT_EQ(line->settings.config.vocab, 257);
  EXPECT_EQ(line->settings.steps, 3800);
}

TEST(TrainFlags, AreNamedWithTheirValueWhenThatIsWrong) {
  for (const std::string& flag : AllFlags()) {
    const nlohmann::json usual = SettingsJson(TrainSettings())[flag];
    const bool takes_anything =
        (usual.is_string() && flag != "preset" && flag != "matrices" && flag != "route-from") ||
        flag == "data" || flag == "valid";
    if (takes_anything) continue;
    for (const std::string wrong : {"", "abc", "-1", "7x", "nan", "1e400", "99999999999999999999999"}) {
      SCOPED_TRACE(flag + "=" + wrong);
      const std::string problem = Problem(With(Rest(flag), {"--" + flag + "=" + wrong}));
      // The parser takes "--plot=" for "--plot".
      if (wrong.empty() && usual.is_boolean()) continue;
      EXPECT_THAT(problem, StartsWith("--" + flag + ": "));
      EXPECT_THAT(problem, HasSubstr(wrong.empty() ? "needs a value" : "'" + wrong + "'"));
      EXPECT_THAT(problem, Not(HasSubstr("\n")));
      if (wrong.empty()) continue;  // an empty variable is none
      EXPECT_THAT(Problem(Rest(flag), {{TwinOf(flag), wrong}}), StartsWith(TwinOf(flag) + ": "));
    }
  }
}

TEST(TrainFlags, SetWhatDependsOnTheRoutesUnlessItIsGiven) {
  const auto token = Parse(Rest(""));
  ASSERT_TRUE(token.ok()) << token.status();
  EXPECT_EQ(token->settings.config.format(), 1);
  EXPECT_EQ(token->settings.router_lr, 1.0);
  EXPECT_EQ(token->settings.router_clip, 0.0);
  EXPECT_EQ(token->settings.balance, 0.01);
  const auto address = Parse(With(Rest(""), {"--route-from", "address"}));
  ASSERT_TRUE(address.ok()) << address.status();
  EXPECT_EQ(address->settings.config.slow_rate, 0.0625f);
  EXPECT_TRUE(address->settings.config.route_bias);
  EXPECT_EQ(address->settings.router_lr, 0.03);
  EXPECT_EQ(address->settings.router_clip, 1.0);
  EXPECT_EQ(address->settings.balance, 0.0);
  const auto given = Parse(With(Rest(""), {"--route-from", "ahead", "--slow-rate", "1", "--route-bias=false",
                                           "--router-lr", "0.5", "--router-clip", "0", "--balance", "0.1"}));
  ASSERT_TRUE(given.ok()) << given.status();
  EXPECT_EQ(given->settings.config.slow_rate, 1.0f);
  EXPECT_FALSE(given->settings.config.route_bias);
  EXPECT_EQ(given->settings.router_lr, 0.5);
  EXPECT_EQ(given->settings.router_clip, 0.0);
  EXPECT_EQ(given->settings.balance, 0.1);
  EXPECT_THAT(Problem(With(Rest(""), {"--slow-rate", "0.5"})), HasSubstr("slow_rate is 0.5"));
}

TEST(TrainFlags, TakePathsAsTheyAre) {
  const Words paths = {"[a,b].txt", "[]", "a,b", "c d"};
  const auto line = Parse(With(With({"--out", "[run]", "--data"}, paths), {"--valid=[v]", "--valid", "w"}));
  ASSERT_TRUE(line.ok()) << line.status();
  EXPECT_EQ(line->settings.data, paths);
  EXPECT_EQ(line->settings.valid, (Words{"[v]", "w"}));
  EXPECT_EQ(line->settings.out, "[run]");
  const auto variable = Parse({"--out", "run"}, {{"OMNI_DATA", "[a,b] c.txt"}});
  ASSERT_TRUE(variable.ok()) << variable.status();
  EXPECT_EQ(variable->settings.data, Words{"[a,b] c.txt"});
}

TEST(TrainFlags, TakeTheAxesOfTheTorusInOneWordOrInThree) {
  const auto three = Parse(With(Rest(""), {"--lattice", "4", "8", "2", "--region=2,4,1"}));
  ASSERT_TRUE(three.ok()) << three.status();
  EXPECT_EQ(three->settings.config.lattice, (std::array<int64_t, 3>{4, 8, 2}));
  EXPECT_EQ(three->settings.config.region, (std::array<int64_t, 3>{2, 4, 1}));
  EXPECT_THAT(Problem(With(Rest(""), {"--lattice", "4,8"})),
              StartsWith("--lattice: '4,8' is not three whole numbers"));
}

TEST(TrainFlags, RefuseWhatTheyDoNotKnowAndWhatIsMissing) {
  EXPECT_THAT(Problem({"--data", "a", "--out", "b", "--sead", "1"}), HasSubstr("--sead"));
  EXPECT_THAT(Problem({"--out", "b", "--steps", "5", "stray"}), HasSubstr("stray"));
  EXPECT_THAT(Problem({"--out", "b"}), StartsWith("--data: "));
  EXPECT_THAT(Problem({"--data", "a"}), StartsWith("--out: "));
  EXPECT_THAT(Problem({"--data", "a", "--out"}), StartsWith("--out: "));
  EXPECT_THAT(Problem(With(Rest(""), {"--steps", "8", "--steps", "9"})),
              StartsWith("--steps: is given 2 times"));
}

TEST(TrainFlags, RefuseSettingsThatContradictEachOther) {
  EXPECT_THAT(Problem(With(Rest(""), {"--seq", "40"})), HasSubstr("--seq 40"));
  EXPECT_THAT(Problem(With(Rest(""), {"--tune", "0.1", "--valid", "v"})), HasSubstr("--tune and --valid"));
  EXPECT_THAT(Problem(With(Rest(""), {"--shared-steps", "4001"})), HasSubstr("--expert-every 4"));
  EXPECT_THAT(Problem(With(Rest(""), {"--part-own", "4001"})), HasSubstr("--expert-every 4"));
  EXPECT_THAT(Problem(With(Rest(""), {"--part-member", "4000"})), HasSubstr("no such neurons"));
  EXPECT_THAT(Problem(With(Rest(""), {"--eval-every", "8", "--eval-tokens", "100"})),
              HasSubstr("--eval-tokens 100"));
  EXPECT_THAT(Problem(With(Rest(""), {"--own", "0", "--own-pull", "1"})), HasSubstr("no own neurons"));
  EXPECT_THAT(Problem(With(Rest(""), {"--part-noise", "0.01", "--shared-steps", "0"})),
              HasSubstr("differ from the start"));
  EXPECT_THAT(Problem(With(Rest(""), {"--members", "similar"})), HasSubstr("--route-from address"));
  EXPECT_THAT(Problem(With(Rest(""), {"--write-logits", "t"})), HasSubstr("--logits-steps"));
  EXPECT_THAT(Problem(With(Rest(""), {"--write-logits", "t", "--logits-steps", "8"})),
              HasSubstr("give --resume"));
  EXPECT_THAT(Problem(With(Rest(""), {"--heads", "7"})), HasSubstr("heads is 7"));
}

}  // namespace
}  // namespace omni::train
