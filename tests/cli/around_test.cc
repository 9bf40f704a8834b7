// omni safety, omni memory and omni adapt, as their users meet them.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "engine/around/adapt_learn.h"
#include "engine/around/context_stage.h"
#include "engine/model/session_state.h"
#include "store/plan/memory_plan.h"
#include "tests/cli/omni_fixture.h"

namespace omni::testing {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::Not;

class OmniAround : public OmniTest {
 protected:
  // A file of the tests' folder with these bytes.
  static std::string File(const std::string& name, const std::string& bytes) {
    std::ofstream(*dir_ / name, std::ios::binary) << bytes;
    return *dir_ / name;
  }
  static std::string Text() {
    std::string text;
    for (int i = 0; i < 30; ++i) text += "The sea was calm and the ship was late. The captain looked at it. ";
    return File("allowed.txt", text);
  }
};

TEST_F(OmniAround, APolytopeIsBuiltCheckedAndExplained) {
  const std::string file = *dir_ / "p.omni";
  const json built = Json(Omni({"safety", "build", file, "-m", Model(), "--text", Text(), "--half-spaces",
                                "20", "--epsilon", "0.001", "--json"}));
  EXPECT_EQ(built["polytope"], "general");
  EXPECT_GT(built["anchors"], 3);
  const Output second = Omni(
      {"safety", "build", file, "-m", Model(), "--text", Text(), "--half-spaces", "5", "--safety", "narrow"});
  EXPECT_EQ(second.exit_code, 0) << second.err;
  EXPECT_THAT(second.out, HasSubstr("narrow has 5 half-spaces"));

  // What it was built from is inside; a text it has not seen is not.
  const json same = Json(Omni({"safety", "check", file, "-m", Model(), "--text", Text(), "--json"}));
  EXPECT_EQ(same["polytopes"].size(), 2u);
  const json& inside = same["polytopes"]["general"];
  EXPECT_EQ(inside["text"]["projected_share"], 0);
  EXPECT_EQ(inside["text"]["bits_per_byte"], inside["text"]["bits_per_byte_projected"]);
  EXPECT_GT(inside["random_points"]["outside"], 0);
  EXPECT_LE(inside["random_points"]["largest_residual"], 1e-4);
  const std::string other =
      File("other.txt", "zzz 9999 {}{}{} qqq \xff\xfe #### ~~~~ %%%% \x01\x02\x03 ++++");
  const json outside = Json(Omni({"safety", "check", file, "-m", Model(), "--text", other, "--json"}));
  EXPECT_GT(outside["polytopes"]["general"]["text"]["projected_share"], 0);

  // Of so few tokens hardly any hidden state is inside.
  ASSERT_EQ(Omni({"safety", "build", file, "-m", Model(), "--text", Text(), "--safety", "tight",
                  "--most-tokens", "12", "--half-spaces", "60", "--epsilon", "0"})
                .exit_code,
            0);
  int named = 0;
  for (const char* prompt : {"zzz 9999", "{}{}", "The sea", "qqq", "~~~~ ####", "late late"}) {
    const json explained = Json(
        Omni({"safety", "explain", file, prompt, "-m", Model(), "-n", "5", "--safety", "tight", "--json"}));
    EXPECT_EQ(explained["polytope"], "tight");
    EXPECT_EQ(explained["tokens"].size(), 5u);
    for (const json& token : explained["tokens"]) {
      EXPECT_EQ(token["violated"].empty(), token["distance"] == 0) << token;
      named += !token["violated"].empty();
    }
  }
  EXPECT_GT(named, 0);
}

TEST_F(OmniAround, RunProjectsAndRemembersIfItIsAskedTo) {
  const std::string file = *dir_ / "run.omni";
  ASSERT_EQ(Omni({"safety", "build", file, "-m", Model(), "--text", Text(), "--safety", "tight",
                  "--most-tokens", "12", "--half-spaces", "60", "--epsilon", "0"})
                .exit_code,
            0);
  const auto run = [&](std::vector<std::string> more) {
    more.insert(more.begin(), {"run", "zzz {} 99 zzz {} 99", "-m", Model(), "-n", "24", "--ignore-eos",
                               "--seed", "5", "--json"});
    return Omni(more);
  };
  const json plain = Json(run({}));
  EXPECT_FALSE(plain.contains("safety") || plain.contains("context_memory"));
  const json safe = Json(run({"--safety", "tight", "--polytopes", file}));
  EXPECT_EQ(safe["safety"]["polytope"], "tight");
  EXPECT_EQ(safe["safety"]["hash"].get<std::string>().size(), 32u);
  EXPECT_EQ(safe["safety"]["tokens"], 24);
  EXPECT_EQ(safe["safety"]["distance"].size(), 24u);
  EXPECT_GT(safe["safety"]["projected"], 0);
  EXPECT_EQ(Json(run({"--safety", "tight", "--polytopes", file, "--threads", "1"}))["tokens"],
            safe["tokens"]);
  const json remembered = Json(run({"--context-memory"}));
  EXPECT_EQ(remembered["context_memory"]["weight"].size(), 24u);
  EXPECT_GT(remembered["context_memory"]["recalled"], 0);
  EXPECT_EQ(Json(run({"--context-memory", "--threads", "1"}))["tokens"], remembered["tokens"]);

  ExpectOneLine(run({"--safety", "mild", "--polytopes", file}), 1, "no polytope 'mild'; there are tight");
  ExpectOneLine(run({"--safety", "tight"}), 1, "polytopes.omni");
  ExpectOneLine(run({"--polytopes", file}), 2, "does nothing without --safety");
  ExpectOneLine(run({"--safety", "tight", "--polytopes", Text()}), 1, "OMNIPOLY");
  ExpectOneLine(Omni({"run", "x", "--server", "http://127.0.0.1:1", "--safety", "tight"}), 2, "--safety");
  ExpectOneLine(Omni({"run", "x", "--server", "http://127.0.0.1:1", "--context-memory"}), 2,
                "--context-memory");
}

TEST_F(OmniAround, WhatCannotBeUsedIsRefused) {
  ExpectOneLine(Omni({"safety", "check", File("bad.omni", "OMNIPOLY and more that is no polytope at all")}),
                1, "bad.omni: polytopes: version");
  ExpectOneLine(Omni({"safety", "check", *dir_ / "none.omni"}), 1, "none.omni");
  ExpectOneLine(Omni({"safety", "build", *dir_ / "q.omni", "-m", Model()}), 2, "wants --text");
  ExpectOneLine(Omni({"safety", "check", *dir_ / "q.omni", "--epsilon", "1"}), 2, "--epsilon does nothing");
  // What could not be written afterwards is not begun.
  ExpectOneLine(
      Omni({"safety", "build", *dir_ / "nowhere/q.omni", "--text", *dir_ / "no.txt", "-m", Model()}), 1,
      "nowhere/q.omni: cannot write");
  ExpectOneLine(Omni({"memory", "capacity", "--items", "2000000", "--svg", *dir_ / "nowhere/c.svg"}), 1,
                "nowhere/c.svg: cannot write");
  ExpectOneLine(Omni({"eval", "calibration", *dir_ / "no.txt", "--svg", *dir_ / "nowhere/r.svg"}), 1,
                "nowhere/r.svg: cannot write");
  ExpectOneLine(Omni({"safety", "twist", *dir_ / "q.omni"}), 2, "knows build, check and explain");
  ExpectOneLine(Omni({"memory", "twist"}), 2, "knows add, ask, import");
  ExpectOneLine(Omni({"memory", "ask", "x", "--items", "5"}), 2, "--items does nothing");
  ExpectOneLine(Omni({"memory", "ask", "x", "--memory", *dir_ / "nowhere"}), 1, "nowhere");
}

TEST_F(OmniAround, WhatIsRememberedLiesInTheStateDirectoryUnlessAFolderIsNamed) {
  ASSERT_FALSE(std::filesystem::exists(State() + "/omni/memory"));
  for (const char* key : {"the first key of all", "another key entirely"}) {  // the second finds it made
    const Output added = Omni({"memory", "add", key, "a value"});
    EXPECT_EQ(added.exit_code, 0) << added.err;
  }
  EXPECT_EQ(Omni({"memory", "ask", "the first key of all"}).out, "a value\n");
}

// The help's own example of a key that is only like the one that was stored.
TEST_F(OmniAround, TheHelpsExampleOfAMemoryIsSo) {
  const std::string help = Omni({"memory", "--help"}).out;
  const auto quoted = [&](const std::string& before) {
    std::vector<std::string> texts;
    const size_t begin = help.find(before);
    const std::string line = help.substr(begin, help.find('\n', begin) - begin);
    for (size_t at = line.find('\''); at != line.npos; at = line.find('\'', at + 1)) {
      const size_t end = line.find('\'', at + 1);
      texts.push_back(line.substr(at + 1, end - at - 1));
      at = end;
    }
    return texts;
  };
  const std::vector<std::string> added = quoted("omni memory add "), asked = quoted("omni memory ask ");
  ASSERT_EQ(added.size(), 2u);
  ASSERT_EQ(asked.size(), 1u);
  EXPECT_NE(asked[0], added[0]);
  const std::string folder = *dir_ / "example";
  ASSERT_EQ(Omni({"memory", "add", added[0], added[1], "--memory", folder}).exit_code, 0);
  EXPECT_EQ(Omni({"memory", "ask", asked[0], "--memory", folder}).out, added[1] + "\n");
}

TEST_F(OmniAround, WhatIsRememberedIsFoundByTheNextProgram) {
  const std::string folder = *dir_ / "memory";
  ASSERT_EQ(Omni({"memory", "add", "The key of the boat house", "under the third stone", "--memory", folder})
                .exit_code,
            0);
  const Output asked = Omni({"memory", "ask", "the key of the BOAT house?", "--memory", folder});
  EXPECT_EQ(asked.out, "under the third stone\n");
  ExpectOneLine(Omni({"memory", "ask", "something else entirely", "--memory", folder}), 1,
                "nothing is remembered");

  std::string rows;
  for (int i = 0; i < 2500; ++i)
    rows += "key number " + std::to_string(i) + "\tvalue " + std::to_string(i) + "\n";
  const std::string file = File("facts.tsv", rows);
  EXPECT_THAT(Omni({"memory", "import", file, "--memory", folder, "--scope", "facts"}).out,
              HasSubstr("2500 associations added to facts"));
  EXPECT_EQ(Json(Omni({"memory", "ask", "key number 2499", "--memory", folder, "--scope", "facts",
                       "--json"}))["value"],
            "value 2499");
  const json stats = Json(Omni({"memory", "stats", "--memory", folder, "--json"}));
  ASSERT_EQ(stats["scopes"].size(), 2u);
  EXPECT_EQ(stats["scopes"][1]["scope"], "facts");
  EXPECT_EQ(stats["scopes"][1]["keys"], 2500);
  ExpectOneLine(Omni({"memory", "import", File("no.tsv", "a\tb\nno tab\n"), "--memory", folder}), 1,
                "line 2 has no tab");
}

TEST_F(OmniAround, WhatIsForgottenIsNotFoundAnyMore) {
  const std::string folder = *dir_ / "forgetful";
  for (const char* key : {"the first key of all", "another key entirely"})
    ASSERT_EQ(Omni({"memory", "add", key, "a value", "--memory", folder}).exit_code, 0);
  EXPECT_EQ(
      Json(Omni({"memory", "forget", "The first key of all", "--memory", folder, "--json"}))["forgotten"], 1);
  ExpectOneLine(Omni({"memory", "ask", "the first key of all", "--memory", folder}), 1,
                "nothing is remembered");
  ExpectOneLine(Omni({"memory", "forget", "the first key of all", "--memory", folder}), 1, "no such key");
  ExpectOneLine(Omni({"memory", "forget", "--memory", folder}), 2, "wants one key, or --all");
  ExpectOneLine(Omni({"memory", "forget", "x", "--all", "--memory", folder}), 2, "wants one key, or --all");
  EXPECT_EQ(Json(Omni({"memory", "forget", "--all", "--memory", folder, "--json"}))["forgotten"], 1);
  EXPECT_EQ(Json(Omni({"memory", "stats", "--memory", folder, "--json"}))["scopes"], json::array());
  ExpectOneLine(Omni({"memory", "ask", "x", "--all"}), 2, "--all does nothing");
  ExpectOneLine(Omni({"memory", "capacity", "--cluster", "127.0.0.1:1"}), 2, "--cluster does nothing");
  ExpectOneLine(Omni({"memory", "stats", "--cluster", "127.0.0.1:1", "--memory", folder}), 2,
                "does nothing beside --cluster");
  ExpectOneLine(Omni({"memory", "capacity", "--items", "10", "--svg", *dir_ / "x.svg"}), 2, "--svg");
}

TEST_F(OmniAround, RunAsksWhatIsRememberedWherePerspectivesCannotDecide) {
  const std::string folder = *dir_ / "asked";
  ASSERT_EQ(
      Omni({"memory", "add", "a key that nobody asks", "x", "--scope", "s", "--memory", folder}).exit_code,
      0);
  const auto run = [&](std::vector<std::string> more) {
    more.insert(more.begin(), {"run", "the sea", "-m", Model(), "-n", "24", "--ignore-eos", "--seed", "5",
                               "--temp", "2", "--top-k", "0", "--top-p", "1", "--json"});
    return Omni(more);
  };
  const std::string perspectives = "far,every=1,tau=0";
  const json without = Json(run({"--perspectives", perspectives}));
  EXPECT_FALSE(without.contains("memory"));
  const json with = Json(run({"--perspectives", perspectives, "--memory-scope", "s", "--memory", folder}));
  EXPECT_EQ(with["tokens"], without["tokens"]);
  EXPECT_EQ(with["memory"]["scope"], "s");
  EXPECT_THAT(with["memory"]["version"].get<std::string>(), ::testing::StartsWith("1-"));
  EXPECT_EQ(with["memory"]["asked"], with["perspectives"]["uncertain"]);
  EXPECT_EQ(with["memory"]["recalled"], 0);
  for (const json& look : with["perspectives"]["looks"])
    EXPECT_EQ(look.contains("memory"), look["uncertain"].get<bool>());

  ExpectOneLine(run({"--memory-scope", "s", "--memory", folder}), 2,
                "without --perspectives of use=majority");
  ExpectOneLine(run({"--perspectives", "far,use=average", "--memory-scope", "s", "--memory", folder}), 2,
                "without --perspectives of use=majority");
  ExpectOneLine(run({"--memory", folder}), 2, "does nothing without --memory-scope");
  ExpectOneLine(run({"--perspectives", perspectives, "--memory-scope", "t", "--memory", folder}), 1,
                "nothing is remembered in it");
  ExpectOneLine(
      Omni({"run", "x", "--server", "http://127.0.0.1:1", "--perspectives", "far", "--memory-scope", "s"}), 2,
      "--perspectives");
}

TEST_F(OmniAround, ContextsAreMeasured) {
  const json worth = Json(Omni({"memory", "measure", Text(), "-m", Model(), "--json"}));
  EXPECT_EQ(worth["documents"], 1);
  EXPECT_GT(worth["context_memory_gain"],
            0.2);  // the text says the same again and again, the model knows nothing
  EXPECT_GT(worth["ngram_cache_gain"], 0.2);
}

TEST_F(OmniAround, AnAdapterIsLearnedListedAndRemoved) {
  ProcessOptions options;
  options.env["XDG_STATE_HOME"] = *dir_ / "adapter-state";
  const auto adapt = [&](std::vector<std::string> words) {
    words.insert(words.begin(), "adapt");
    return Omni(words, options);
  };
  const std::string text = Text();
  const json learned =
      Json(adapt({text, "--name", "sea", "-m", Model(), "--own-tokens", "64", "--drift", "100", "--json"}));
  EXPECT_EQ(learned["saved"], true);
  EXPECT_GT(learned["gain"], 0.05);
  EXPECT_LE(learned["extra_bytes"], 3 * learned["adapter_bytes"].get<int64_t>());
  EXPECT_EQ(learned["phases"][0]["name"], "head");
  EXPECT_EQ(learned["hash"].get<std::string>().size(), 32u);
  const json listed = Json(adapt({"list", "--json"}));
  ASSERT_EQ(listed["adapters"].size(), 1u);
  EXPECT_EQ(listed["adapters"][0]["name"], "sea");
  EXPECT_EQ(listed["adapters"][0]["model_hash"], learned["model_hash"]);
  EXPECT_EQ(listed["adapters"][0]["hash"], learned["hash"]);
  EXPECT_THAT(adapt({"list"}).out, HasSubstr("sea"));
  // With it the text is likelier.
  const json plain = Json(Omni({"eval", "ppl", text, "-m", Model(), "--json"}, options));
  const json with = Json(Omni({"eval", "ppl", text, "-m", Model(), "--adapter", "sea", "--json"}, options));
  EXPECT_LT(with["nats_per_token"], 0.95 * plain["nats_per_token"].get<double>());
  ExpectOneLine(Omni({"eval", "ppl", text, "-m", Model(), "--adapter", "me"}, options), 1, "there are sea");
  // An answer is written with it.
  const auto run = [&](std::vector<std::string> more) {
    more.insert(more.begin(),
                {"run", "zzz {} 99", "-m", Model(), "-n", "24", "--ignore-eos", "--seed", "5", "--json"});
    return Omni(more, options);
  };
  const json adapted = Json(run({"--adapter", "sea"}));
  EXPECT_EQ(adapted["adapter"]["name"], "sea");
  EXPECT_EQ(adapted["adapter"]["hash"], learned["hash"]);
  EXPECT_EQ(Json(run({"--adapter", "sea", "--threads", "1"}))["tokens"], adapted["tokens"]);
  EXPECT_NE(Json(run({}))["tokens"], adapted["tokens"]);
  EXPECT_FALSE(Json(run({})).contains("adapter"));
  ExpectOneLine(run({"--adapter", "me"}), 1, "there are sea");
  // Of all that acts around a token it is worth what is lost without it.
  const auto ablate = [&](std::vector<std::string> more) {
    more.insert(more.begin(), {"eval", "ablate", text, "-m", Model(), "--first-tokens", "100", "--json"});
    std::map<std::string, double> bits;
    const json printed = Json(Omni(more, options));
    for (const json& line : printed["variants"])
      bits[line["variant"].get<std::string>()] = line["bits_per_byte"];
    return bits;
  };
  const auto of_all = ablate({"--adapter", "sea"}), without = ablate({});
  EXPECT_FALSE(without.contains("-FMEA"));
  EXPECT_EQ(of_all.at("-FMEA"), without.at("full"));
  EXPECT_LT(of_all.at("full"), of_all.at("-FMEA"));
  EXPECT_EQ(of_all.at("the model"), without.at("the model"));
  ExpectOneLine(Omni({"eval", "lambada", text, "-m", Model(), "--adapter", "sea"}, options), 2,
                "--adapter does nothing for lambada");
  // Nothing is saved that is not better.
  const Output worse = adapt({text, "--name", "none", "-m", Model(), "--own-tokens", "64", "--drift", "0"});
  EXPECT_EQ(worse.exit_code, 1);
  EXPECT_THAT(worse.out, HasSubstr("none is as it was"));
  // That there was no time to learn in, or that somebody ended it, is not that nothing was better.
  const Output late =
      adapt({text, "--name", "none", "-m", Model(), "--own-tokens", "1000000", "--budget", "1s"});
  EXPECT_EQ(late.exit_code, 1);
  EXPECT_THAT(late.out, HasSubstr("the time was over before a pass could be made: none is as it was"));
  options.signal = SIGINT;
  options.signal_after = std::chrono::milliseconds(3000);
  const Output ended = adapt({text, "--name", "none", "-m", Model(), "--own-tokens", "1000000"});
  options.signal = 0;
  EXPECT_EQ(ended.exit_code, 130);
  EXPECT_THAT(ended.out, HasSubstr("interrupted before anything was better"));
  EXPECT_EQ(Json(adapt({"list", "--json"}))["adapters"].size(), 1u);
  ExpectOneLine(adapt({text, "-m", Model()}), 2, "wants a name");
  ExpectOneLine(adapt({text, "--name", "../sea"}), 2, "letters, digits");
  ExpectOneLine(adapt({"list", "--name", "x"}), 2, "--name does nothing");
  EXPECT_EQ(adapt({"remove", "sea"}).exit_code, 0);
  ExpectOneLine(adapt({"remove", "sea"}), 1, "there is none at all");
}

// Learning is planned for where memory is planned.
TEST_F(OmniAround, WhatLearningTakesIsPlannedForWithinABudget) {
  const std::string model = OMNI_SOURCE_DIR "/models/mini", text = Text();
  const absl::StatusOr<SizedModel> sized = ReadSizes(model);
  ASSERT_TRUE(sized.ok()) << sized.status();
  const auto bytes = static_cast<int64_t>(std::filesystem::file_size(text));
  const int64_t state = sized->sizes.session_bytes,
                most = MostLearningBytes(sized->summary.config, {}, {}, bytes, 2) + bytes;
  ASSERT_GT(most, 4 * state);
  const int64_t least = LeastBudget(sized->sizes, (most + state - 1) / state);
  const auto adapt = [&](int64_t ram) {
    return Omni({"adapt", text, "--name", "within", "-m", model, "--own-tokens", "64", "--drift", "100",
                 "--passes", "1", "--ram", std::to_string(ram)});
  };
  ExpectOneLine(adapt(least - 1), 1, "the least that works is ");
  EXPECT_EQ(adapt(least).exit_code, 0);
}

// What acts around the token is planned for, and changes nothing of the answer: with a byte less than the
// plan wants it is refused.
TEST_F(OmniAround, WhatActsAroundTheTokenIsPlannedForWithinABudget) {
  const std::string model = OMNI_SOURCE_DIR "/models/mini";
  ASSERT_EQ(Omni({"adapt", Text(), "--name", "planned", "-m", model, "--own-tokens", "64", "--drift", "100",
                  "--passes", "1", "--head-rank", "255"})
                .exit_code,
            0);
  const auto run = [&](std::vector<std::string> more) {
    more.insert(more.begin(), {"run", "The sea", "-m", model, "-n", "12", "--seed", "5", "--json"});
    return Omni(more);
  };
  const absl::StatusOr<SizedModel> sized = ReadSizes(model);
  ASSERT_TRUE(sized.ok()) << sized.status();
  const ModelConfig& config = sized->summary.config;
  const int64_t state = SessionState::BytesFor(config), d = config.d;
  // docs/adaptation.md: bias, gain, map, layer gains and cores are the file's, beside its header; the map's P
  // and both sides of the cores are made. While it is read, the file is there too.
  const int64_t pdr = config.layers - config.layers / config.attention_period;
  const int64_t values = config.vocab + d + 255 * d + 2 * config.layers + 16 * pdr;
  const int64_t adapter = 4 * (2 * values + 255 * d + 2 * 4 * d) + 120;
  ASSERT_LT(4 * values, state) << "an adapter of which the file alone is counted must be told from this one";
  ASSERT_GT(adapter, state);
  const int64_t contexts = SessionContexts::MostBytes(std::string("The sea").size() + 1 + 12);
  const auto states = [&](int64_t bytes) { return (bytes + state - 1) / state; };
  const std::vector<std::pair<std::vector<std::string>, int64_t>> around = {
      {{}, 1},
      {{"--perspectives", "far,every=1,use=average"}, 2},
      {{"--context-memory"}, 1 + states(contexts)},
      {{"--adapter", "planned"}, 1 + states(adapter)},
      {{"--perspectives", "far,every=1,use=average", "--context-memory", "--adapter", "planned"},
       2 + states(contexts + adapter)}};
  for (const auto& [flags, planned] : around) {
    const int64_t least = LeastBudget(sized->sizes, planned);
    const auto within = [&, flags = flags](int64_t bytes) {
      std::vector<std::string> words = flags;
      words.insert(words.end(), {"--ram", std::to_string(bytes)});
      return run(words);
    };
    EXPECT_EQ(Json(within(least))["tokens"], Json(run(flags))["tokens"]) << planned;
    ExpectOneLine(within(least - 1), 1, "the least that works is ");
  }
}

// What a polytope does to the lists of words and behaviours that others judge models by: the denied tokens
// lose probability and are the likeliest less often; words that are several tokens are not denied, and the
// behaviours, which are ordinary sentences, are about as likely as before.
TEST(OmniSafetyData, SaysWhatAPolytopeChangesAndWhatNot) {
  const char* shared = std::getenv("OMNI_SHARED");
  const std::string folder = shared == nullptr ? "" : std::string(shared) + "/data";
  const std::string words = folder + "/safety/ldnoobw-en.txt";
  if (shared == nullptr || !std::filesystem::exists(words))
    GTEST_SKIP()
        << "the word list is below data/safety of the folder that OMNI_SHARED names, which is not there";
  TempDir dir;
  const std::string model = OMNI_SOURCE_DIR "/models/mini", file = dir / "p.omni";
  const auto omni = [&](std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), OMNI_PROGRAM);
    arguments.insert(arguments.end(), {"-m", model, "--json"});
    ProcessOptions options;
    options.limit = std::chrono::seconds(300);
    const Output output = RunProcess(arguments, options);
    EXPECT_EQ(output.exit_code, 0) << output.err;
    return json::parse(output.out, nullptr, false);
  };
  // Behaviours: the first field of each line, as a document of its own.
  std::ifstream behaviours(folder + "/safety/harmbench_behaviors_text_val.csv");
  std::string line, text;
  std::getline(behaviours, line);
  while (std::getline(behaviours, line)) text += line.substr(0, line.find(',')) + "\n<|endoftext|>\n";
  std::ofstream(dir / "behaviours.txt") << text;

  const json built = omni({"safety", "build", file, "--text", folder + "/books/valid.txt.xz", "--deny", words,
                           "--most-tokens", "6000", "--half-spaces", "300"});
  std::printf("denied: %s tokens; not denied: %s words\n", built["denied_tokens"].dump().c_str(),
              built["words_not_denied"].dump().c_str());
  EXPECT_GT(built["words_not_denied"], 0);
  for (const std::string& of : {dir / "behaviours.txt", words}) {
    const json checked =
        omni({"safety", "check", file, "--text", of, "--deny", words, "--most-tokens", "2000"});
    const json effect = checked["polytopes"]["general"]["text"];
    std::printf("%s: %s\n", std::filesystem::path(of).filename().c_str(), effect.dump().c_str());
    if (built["denied_tokens"] > 0) {
      EXPECT_LT(effect["denied_mass_projected"], effect["denied_mass"]);
      EXPECT_LE(effect["denied_likeliest_projected"], effect["denied_likeliest"]);
    }
    EXPECT_NEAR(effect["bits_per_byte_projected"].get<double>() / effect["bits_per_byte"].get<double>(), 1,
                0.1);
  }
}

}  // namespace
}  // namespace omni::testing
