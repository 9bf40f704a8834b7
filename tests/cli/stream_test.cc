// Models larger than the memory they may take, through the built program.
#include <fstream>
#include <set>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/cli/omni_fixture.h"

namespace omni {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class StreamTest : public testing::OmniTest {
 protected:
  // Two layers of the full size, 610 MB in memory: 8 whole experts each beside 175 MB of shared weights.
  static std::string Large() {
    static const std::string path = [] {
      const std::string dir = *dir_ / "large";
      const testing::Output made =
          Omni({"synth", "--format", "1", "--layers", "2", "--experts", "8", "--whole", "--out", dir});
      EXPECT_EQ(made.exit_code, 0) << made.err;
      return dir;
    }();
    return path;
  }
  static nlohmann::json Bench(std::vector<std::string> flags) {
    flags.insert(flags.begin(),
                 {"bench", "stream", "-m", Large(), "-n", "6", "--warmup", "2", "--prompts", "2", "--json"});
    return Json(Omni(std::move(flags)));
  }
};

TEST_F(StreamTest, StaysWithinItsBudgetAndGivesTheSameOutputWhateverItIs) {
  std::set<std::string> mixed, own;
  for (const std::vector<std::string>& flags :
       {std::vector<std::string>{"--ram", "480M"},
        {"--ram", "480M", "--io", "pread", "--no-prefetch"},
        {"--ram", "560M", "--cache-policy", "lru"},
        {"--ram", "560M", "--io", "pread", "--cache-policy", "decayed"},
        {"--ram", "2G"}}) {
    std::vector<std::string> all = {"--cases", "mixed,own", "--no-limits"};
    all.insert(all.end(), flags.begin(), flags.end());
    const nlohmann::json json = Bench(all);
    EXPECT_GT(json["peak_rss_bytes"], 100e6);
    EXPECT_LE(json["peak_rss_bytes"], json["ram_bytes"]) << flags[1];
    ASSERT_EQ(json["cases"].size(), 2u);
    mixed.insert(json["cases"][0]["output_xxh3"].get<std::string>());
    own.insert(json["cases"][1]["output_xxh3"].get<std::string>());
    if (flags[1] != "2G") {
      EXPECT_GT(json["cases"][0]["disk_bytes_per_token"], 0) << flags[1];
    }
  }
  EXPECT_EQ(mixed.size(), 1u);
  EXPECT_EQ(own.size(), 1u);
  EXPECT_NE(*mixed.begin(), *own.begin());
}

TEST_F(StreamTest, ACacheThatIsResizedAllTheTimeChangesNoOutput) {
  const std::vector<std::string> flags = {"--ram", "560M", "--no-limits", "--cases", "mixed,own"};
  std::vector<std::string> resizing = flags;
  resizing.insert(resizing.end(), {"--resize", "70M,1G,200M"});
  const nlohmann::json still = Bench(flags), moving = Bench(resizing);
  EXPECT_FALSE(still.contains("cache_resized"));
  EXPECT_GE(moving["cache_resized"], 4);
  for (size_t i = 0; i < 2; ++i)
    EXPECT_EQ(moving["cases"][i]["output_xxh3"], still["cases"][i]["output_xxh3"]);
  ExpectOneLine(
      Omni({"bench", "stream", "-m", Large(), "--ram", "1G", "--resize", "1M", "--no-limits", "--json"}), 1,
      "cannot hold two experts");
}

TEST_F(StreamTest, MeasuresEveryCaseAndDrawsThem) {
  const nlohmann::json json = Bench({"--ram", "2G", "--plot", *dir_ / "stream.svg", "--trained", Model()});
  for (const char* key : {"hot_share", "mixed_share", "cold_share", "hot_tok_per_s", "mixed_tok_per_s",
                          "cold_tok_per_s", "hit_rate", "disk_bytes"}) {
    ASSERT_TRUE(json.contains(key)) << key;
    EXPECT_GT(json[key], 0) << key;
  }
  for (const char* key :
       {"mixed_known_share", "mixed_known_tok_per_s", "own_share", "own_tok_per_s", "own_best_share",
        "own_best_tok_per_s", "parameters_nominal", "parameters_unique"}) {
    ASSERT_TRUE(json.contains(key)) << key;
    EXPECT_GT(json[key], 0) << key;
  }
  EXPECT_EQ(json["format"], 1);
  EXPECT_GE(json["own_best_tok_per_s"], json["own_tok_per_s"]);
  for (const char* key : {"prediction_accuracy_1", "prediction_accuracy_2"}) {
    ASSERT_TRUE(json.contains(key)) << key;
    EXPECT_GE(json[key], 0) << key;
    EXPECT_LE(json[key], 1) << key;
  }
  ASSERT_EQ(json["cases"].size(), 5u);
  const nlohmann::json &cold = json["cases"][0], &mixed = json["cases"][1], &known = json["cases"][2],
                       &hot = json["cases"][3], &own = json["cases"][4];
  EXPECT_EQ(known["case"], "mixed_known");
  EXPECT_EQ(known["output_xxh3"], mixed["output_xxh3"]);  // the same walk
  EXPECT_EQ(own["prompts"].size(), 2u);
  for (const nlohmann::json& one : json["cases"]) {
    SCOPED_TRACE(one["case"].get<std::string>());
    EXPECT_DOUBLE_EQ(one["memory_gb_per_token"].get<double>(),
                     1e-9 * one["memory_bytes_per_token"].get<double>());
    EXPECT_NEAR(one["memory_reached_share"].get<double>(),
                one["memory_reached_bytes_per_s"].get<double>() / one["memory_bytes_per_s"].get<double>(),
                1e-9);
    EXPECT_GE(one["disk_reached_share"], 0);
  }
  EXPECT_EQ(cold["case"], "cold");
  EXPECT_EQ(cold["hit_rate"], 0);
  EXPECT_EQ(hot["hit_rate"], 1);
  EXPECT_EQ(hot["disk_bytes_per_token"], 0);
  EXPECT_EQ(hot["stall_share"], 0);
  std::ifstream svg(*dir_ / "stream.svg");
  std::string start(4, ' ');
  svg.read(start.data(), 4);
  EXPECT_EQ(start, "<svg");
}

TEST_F(StreamTest, RunsAModelLargerThanItsMemoryAndSaysSo) {
  const testing::Output all = Run({"the sea", "-n", "12", "--seed", "3"});
  const testing::Output some = Run({"the sea", "-n", "12", "--seed", "3", "--ram", "300M", "--stats"});
  EXPECT_EQ(some.exit_code, 0) << some.err;
  EXPECT_EQ(some.out, all.out);
  EXPECT_THAT(some.err, AllOf(HasSubstr("RAM 300 MiB"), HasSubstr("from disk")));
}

TEST_F(StreamTest, EveryVerbThatDecodesStreamsWithinABudgetAndSaysTheSame) {
  const std::string text = *dir_ / "text.txt";
  std::ofstream(text) << "the sea was calm\n<|endoftext|>\nand the land lay still\n";
  for (const std::vector<std::string>& verb :
       {std::vector<std::string>{"run", "the sea", "-n", "12", "--seed", "3"},
        {"trace", "the sea was calm"},
        {"trace", "the sea was calm", "--json"}}) {
    SCOPED_TRACE(verb[0]);
    const auto with = [&](std::vector<std::string> flags) {
      flags.insert(flags.begin(), verb.begin(), verb.end());
      flags.insert(flags.end(), {"-m", Model()});
      return Omni(flags);
    };
    const testing::Output whole = with({}), streamed = with({"--ram", "300M", "--io", "pread"});
    EXPECT_EQ(streamed.exit_code, 0) << streamed.err;
    EXPECT_FALSE(whole.out.empty());
    EXPECT_EQ(streamed.out, whole.out);
    ExpectOneLine(with({"--ram", "5M"}), 1, "least");
    ExpectOneLine(with({"--ram", "300M", "--cache-policy", "best"}), 2, "--cache-policy");
  }
  const std::vector<std::string> eval = {"eval", "ppl", text, "-m", Model(), "--json"};
  const auto with = [&](const std::string& ram) {
    std::vector<std::string> all = eval;
    all.insert(all.end(), {"--ram", ram});
    return Omni(all);
  };
  const nlohmann::json whole = Json(Omni(eval)), streamed = Json(with("300M"));
  EXPECT_EQ(streamed["nats"], whole["nats"]);
  EXPECT_EQ(streamed["tokens"], whole["tokens"]);
  ExpectOneLine(with("5M"), 1, "least");
}

TEST_F(StreamTest, WrongFlagsAndTooSmallABudgetAreOneLine) {
  ExpectOneLine(Run({"x", "--ram", "20X"}), 2, "20X");
  ExpectOneLine(Run({"x", "--ram", "5M"}), 1, "least");
  ExpectOneLine(Run({"x", "--ram", "300M", "--io", "mmap"}), 2, "--io");
  ExpectOneLine(Run({"x", "--ram", "300M", "--cache-policy", "best"}), 2, "--cache-policy");
  ExpectOneLine(Omni({"bench", "disk"}), 2, "disk");
  ExpectOneLine(Omni({"bench", "stream", "-m", Model(), "--cases", "warm"}), 2, "warm");
  ExpectOneLine(Omni({"bench", "stream", "-m", Model(), "--prompts", "0"}), 2, "--prompts");
  ExpectOneLine(Omni({"bench", "stream", "-m", Model(), "--resize", "1G,2X", "--no-limits"}), 2, "2X");
  ExpectOneLine(Omni({"bench", "stream", "-m", Model(), "--resize", "1G"}), 2, "--no-limits");
  ExpectOneLine(
      Omni({"bench", "stream", "-m", Model(), "--ram", "1G", "--cases", "hot", "--whole-form", Model()}), 2,
      "--shared-form");
}

}  // namespace
}  // namespace omni
