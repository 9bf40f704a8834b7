// What omni eval measures beside perplexity, and perspectives of omni run.
#include <filesystem>
#include <fstream>
#include <string>

#include "tests/cli/omni_fixture.h"

namespace omni::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

class EvalVerbTest : public OmniTest {
 protected:
  // A text of eight documents, and a model of one's own, whose folder is written to.
  static std::string Text() {
    const std::string path = *dir_ / "documents.txt";
    std::ofstream out(path);
    for (int i = 0; i < 8; ++i) {
      for (int line = 0; line < 20; ++line) out << "the fox and the sea, number " << line * i << " of them\n";
      out << "<|endoftext|>\n";
    }
    return path;
  }
  static std::string OwnModel(const std::string& name) {
    const std::string path = *dir_ / name;
    std::filesystem::copy(Model(), path, std::filesystem::copy_options::recursive);
    return path;
  }
};

TEST_F(EvalVerbTest, CalibrationIsFittedOnceAndThenMeasured) {
  const std::string model = OwnModel("calibrated"), text = Text(), svg = *dir_ / "reliability.svg";
  const auto calibration = [&](std::vector<std::string> more) {
    more.insert(more.begin(), {"eval", "calibration", text, "-m", model});
    return Omni(more);
  };
  ExpectOneLine(calibration({}), 1, "--fit");
  const nlohmann::json fitted = Json(calibration({"--fit", "--json"}));
  EXPECT_EQ(fitted.at("kind"), "near");
  EXPECT_GT(fitted.at("temperature"), 0.0);
  const nlohmann::json measured = Json(calibration({"--json", "--svg", svg}));
  for (const char* method : {"softmax", "temperature", "isotonic", "average", "perspectives", "plain_rule"}) {
    const nlohmann::json& of = measured.at(method);
    for (const char* key : {"ece", "full_ece", "brier", "aurc", "bits_per_byte"})
      EXPECT_GT(of.at(key), 0.0) << method << " " << key;
    EXPECT_EQ(of.at("reliability").size(), 15u);
  }
  EXPECT_LT(measured["temperature"]["nats_per_token"], measured["softmax"]["nats_per_token"]);
  EXPECT_EQ(measured.at("tokens"), fitted.at("tokens"));
  // Of ppl it is the same number, computed in another way.
  const nlohmann::json ppl = Json(Omni({"eval", "ppl", text, "-m", model, "--json"}));
  EXPECT_NEAR(measured["softmax"]["nats_per_token"].get<double>(), ppl["nats_per_token"].get<double>(), 1e-4);
  EXPECT_EQ(measured["bytes"], ppl["bytes"]);
  std::ifstream drawn(svg);
  const std::string picture((std::istreambuf_iterator<char>(drawn)), std::istreambuf_iterator<char>());
  EXPECT_THAT(picture, AllOf(StartsWith("<svg"), HasSubstr("perspectives, ECE"), HasSubstr("</svg>")));
  // The other kind is not there until it is fitted too, and what is there stays.
  ExpectOneLine(calibration({"--perspectives", "far"}), 1, "far");
  Json(calibration({"--perspectives", "far", "--fit", "--json"}));
  EXPECT_EQ(Json(calibration({"--json"}))["perspectives"], measured["perspectives"]);
  EXPECT_THAT(calibration({"--perspectives", "far"}).out, HasSubstr("AURC"));
}

TEST_F(EvalVerbTest, AnothersOrADamagedCalibrationIsSaidAndNotUsed) {
  const std::string model = OwnModel("damaged");
  std::ofstream(model + "/calibration.json") << "{}";
  ExpectOneLine(Omni({"eval", "calibration", Text(), "-m", model}), 1, "calibration.json");
  const Output run = Omni({"run", "the sea", "-m", model, "-n", "4", "--json", "--perspectives", "near"});
  EXPECT_TRUE(Json(run).contains("perspectives"));
  EXPECT_THAT(run.err, HasSubstr("confidences are not calibrated"));
}

TEST_F(EvalVerbTest, FlagsThatDoNothingAreRefused) {
  const std::string text = Text();
  ExpectOneLine(Omni({"eval", "ppl", text, "-m", Model(), "--fit"}), 2, "--fit");
  ExpectOneLine(Omni({"eval", "routes", text, "-m", Model(), "--perspectives", "near"}), 2, "--perspectives");
  ExpectOneLine(Omni({"eval", "calibration", text, "-m", Model(), "--carry"}), 2, "--carry");
  ExpectOneLine(Omni({"eval", "routes", text, "-m", Model(), "--first-tokens", "5"}), 2, "--first-tokens");
  ExpectOneLine(Omni({"eval", "ppl", text, "-m", Model(), "--first-tokens", "5", "--carry"}), 2,
                "--first-tokens");
  ExpectOneLine(Omni({"eval", "calibration", text, "-m", Model(), "--fit", "--svg", *dir_ / "x.svg"}), 2,
                "--svg");
  ExpectOneLine(Omni({"run", "x", "--server", "http://127.0.0.1:1", "--perspectives", "near"}), 2,
                "--perspectives");
}

TEST_F(EvalVerbTest, AblateComparesRoutes) {
  const std::string text = Text();
  const auto with = [&](const char* metric) {
    return Json(Omni({"eval", metric, text, "-m", Model(), "--first-tokens", "400", "--json"}));
  };
  const nlohmann::json all = with("ablate").at("variants");
  ASSERT_EQ(all.size(), 11u);
  EXPECT_EQ(all[0]["nats_per_token"], with("ppl")["nats_per_token"]);
  for (const nlohmann::json& variant : all) {
    EXPECT_EQ(variant["tokens"], 400);
    EXPECT_GT(variant["tok_per_s"], 0.0);
    if (variant != all[0]) {
      EXPECT_NE(variant["nats_per_token"], all[0]["nats_per_token"]) << variant;
    }
  }
  // What is left when all else is taken away is the average of four.
  EXPECT_EQ(all[8]["variant"], "-HDM");
  EXPECT_NEAR(all[8]["nats_per_token"].get<double>(), all[5]["nats_per_token"].get<double>(), 1e-5);
  EXPECT_GT(all[6]["session_bytes"], all[7]["session_bytes"]);
  EXPECT_GT(all[6]["session_bytes"], all[8]["session_bytes"]);
  for (size_t i = 6; i < all.size(); ++i) {
    for (size_t j = i + 1; j < all.size(); ++j)
      EXPECT_NE(all[i]["nats_per_token"], all[j]["nats_per_token"]) << i << " " << j;
  }
  EXPECT_THAT(Omni({"eval", "ablate", text, "-m", Model(), "--first-tokens", "400"}).out,
              HasSubstr("average of four, far"));
}

TEST_F(EvalVerbTest, LambadaCountsLastWords) {
  std::ofstream(*dir_ / "passages.jsonl") << "{\"text\": \"the fox saw the sea\"}\n{\"text\": \"a fox\"}\n";
  const nlohmann::json figures =
      Json(Omni({"eval", "lambada", *dir_ / "passages.jsonl", "-m", Model(), "--json"}));
  EXPECT_EQ(figures.at("passages"), 2);
  EXPECT_GT(figures.at("perplexity"), 1.0);
  EXPECT_EQ(figures.at("accuracy").get<double>(), figures.at("right").get<double>() / 2);
  EXPECT_THAT(Omni({"eval", "lambada", *dir_ / "passages.jsonl", "-m", Model()}).out,
              HasSubstr("2 passages"));
  std::ofstream(*dir_ / "none.jsonl") << "{\"text\": \"the fox\"}\nno json\n";
  ExpectOneLine(Omni({"eval", "lambada", *dir_ / "none.jsonl", "-m", Model()}), 1, "none.jsonl: line 2");
}

TEST_F(EvalVerbTest, AGateFailsByTheNameOfWhatFallsShort) {
  const std::string text = Text(), gate = *dir_ / "gate.json";
  const double bits = Json(Omni({"eval", "ppl", text, "-m", Model(), "--json"}))["bits_per_byte"];
  const auto check = [&](const std::string& measure, const char* bound, double limit) {
    return nlohmann::json{{"measure", measure}, {"text", "documents.txt"}, {bound, limit}};
  };
  const auto write = [&](const nlohmann::json& checks) {
    std::ofstream(gate) << nlohmann::json{{"format", "omni-gate"}, {"version", 1}, {"checks", checks}};
  };
  write({check("bits_per_byte", "at_most", bits + 1e-9), check("tokens_per_second", "at_least", 1),
         check("ece", "at_most", 1), check("full_parts_ece", "at_most", 1),
         check("full_parts_bits_per_byte", "at_least", 0.1)});
  const Output good = Omni({"eval", "gate", gate, "-m", Model()});
  EXPECT_EQ(good.exit_code, 0) << good.err;
  EXPECT_THAT(good.out, Not(HasSubstr("SHORT")));
  write({check("bits_per_byte", "at_most", bits - 1e-6), check("tokens_per_second", "at_least", 1)});
  const Output bad = Omni({"eval", "gate", gate, "-m", Model()});
  EXPECT_EQ(bad.exit_code, 1);
  EXPECT_THAT(bad.out, AllOf(HasSubstr("SHORT  bits_per_byte"), HasSubstr("ok     tokens_per_second")));
  const Output json = Omni({"eval", "gate", gate, "-m", Model(), "--json"});
  EXPECT_EQ(json.exit_code, 1);
  const nlohmann::json said = nlohmann::json::parse(json.out);
  EXPECT_EQ(said["passed"], false);
  EXPECT_EQ(said["checks"][0]["passed"], false);
  EXPECT_EQ(said["checks"][1]["passed"], true);
}

TEST_F(EvalVerbTest, AGateKnowsWhatAPolytopeDoesAsCheckSaysIt) {
  const std::string text = Text(), gate = *dir_ / "safety_gate.json", deny = *dir_ / "deny.txt";
  std::ofstream(deny) << "fox\n dog \n\na\n";
  const std::string file = *dir_ / "gate_polytopes.omni";
  ASSERT_EQ(Omni({"safety", "build", file, "--text", text, "--deny", deny, "-m", Model()}).exit_code, 0);
  const nlohmann::json checked =
      Json(Omni({"safety", "check", file, "--text", text, "--deny", deny, "-m", Model(), "--json"}));
  const nlohmann::json& effect = checked.at("polytopes").at("general").at("text");
  const auto check = [&](const char* measure, const char* bound, double limit) {
    return nlohmann::json{{"measure", measure},
                          {"text", "documents.txt"},
                          {"allowed", "documents.txt"},
                          {"deny", "deny.txt"},
                          {bound, limit}};
  };
  std::ofstream(gate) << nlohmann::json{
      {"format", "omni-gate"},
      {"version", 1},
      {"checks",
       {check("safety_bits_per_byte", "at_most", 100), check("safety_moved_share", "at_least", 0),
        check("safety_denied_mass", "at_least", 0), check("safety_denied_likeliest", "at_most", -1)}}};
  const Output bad = Omni({"eval", "gate", gate, "-m", Model(), "--json"});
  EXPECT_EQ(bad.exit_code, 1) << bad.err;
  const nlohmann::json said = nlohmann::json::parse(bad.out);
  const auto measured = [&](int i) { return said["checks"][i]["measured"].get<double>(); };
  EXPECT_EQ(measured(0), effect.at("bits_per_byte_projected").get<double>());
  EXPECT_EQ(measured(1), effect.at("projected_share").get<double>());
  EXPECT_NEAR(measured(2),
              effect.at("denied_mass_projected").get<double>() / effect.at("denied_mass").get<double>(),
              1e-9);
  EXPECT_EQ(measured(3),
            effect.at("denied_likeliest_projected").get<double>() / effect.at("tokens").get<double>());
  EXPECT_EQ(said["checks"][3]["passed"], false);
}

TEST_F(EvalVerbTest, WhatIsNoGateIsRefusedByTheNumberOfTheCheck) {
  const std::string gate = *dir_ / "bad_gate.json";
  const auto refused = [&](const std::string& checks, const std::string& part) {
    std::ofstream(gate) << R"({"format": "omni-gate", "version": 1, "checks": [)" << checks << "]}";
    ExpectOneLine(Omni({"eval", "gate", gate, "-m", Model()}), 1, part);
  };
  refused("", "no list of checks");
  refused("1", "check 1: it is no object");
  refused(R"({"measure": "speed", "text": "x", "at_most": 1})", "there is no measure speed");
  refused(R"({"measure": "ece", "text": "x", "at_most": 1, "at_least": 1})", "one of at_most and at_least");
  refused(R"({"measure": "ece", "text": "x", "at_most": "1"})", "its limit is no number");
  refused(R"({"measure": "ece", "text": "x", "at_most": 1, "more": 1})", "unknown key more");
  refused(R"({"measure": "bits_per_byte", "text": "x", "at_most": 1, "tokens": 5})", "tokens must be");
  refused(R"({"measure": "ece", "text": "nowhere.txt", "at_most": 1})", "nowhere.txt");
  refused(R"({"measure": "ece", "text": "x", "deny": "y", "at_most": 1})", "a measure of safety has a text");
  refused(R"({"measure": "safety_moved_share", "text": "x", "allowed": "y", "at_most": 1})",
          "a measure of safety has a text deny");
  std::ofstream(gate) << "[]";
  ExpectOneLine(Omni({"eval", "gate", gate, "-m", Model()}), 1, "no gate");
}

TEST_F(EvalVerbTest, RunTellsHowSureItsTokensAreAndChangesNoneUnlessAsked) {
  const std::vector<std::string> words = {"the fox", "-n", "24", "--ignore-eos", "--json", "--seed", "5"};
  const auto with = [&](const std::string& perspectives) {
    std::vector<std::string> all = words;
    all.insert(all.end(), {"--perspectives", perspectives});
    return Json(Run(all));
  };
  const nlohmann::json plain = Json(Run(words)), off = with("off");
  EXPECT_FALSE(plain.contains("perspectives"));
  EXPECT_FALSE(off.contains("perspectives"));
  const nlohmann::json sure = with("far,use=confidence,every=2,examine=0");
  EXPECT_EQ(sure["tokens"], plain["tokens"]);
  EXPECT_EQ(sure["perspectives"]["confidence"].size(), 24u);
  EXPECT_EQ(sure["perspectives"]["looked"], 12);
  EXPECT_EQ(sure["perspectives"]["looks"].size(), 12u);
  EXPECT_EQ(sure["perspectives"]["changed"], 0);
  const nlohmann::json average = with("far,use=average,every=1,examine=0");
  EXPECT_EQ(average["perspectives"]["looked"], 24);
  EXPECT_EQ(with("far,use=average,every=1,examine=0")["tokens"], average["tokens"]);
  ExpectOneLine(Run({"the fox", "--perspectives", "sideways"}), 2, "near or far");
}

// What is shipped reaches what is stored beside it.
TEST(ShippedModelTest, PassesItsGate) {
  const Output gate =
      RunProcess({OMNI_PROGRAM, "eval", "gate", OMNI_MODELS "/gate.json", "-m", OMNI_MODELS "/mini"}, {});
  EXPECT_EQ(gate.exit_code, 0) << gate.out << gate.err;
}

}  // namespace
}  // namespace omni::testing
