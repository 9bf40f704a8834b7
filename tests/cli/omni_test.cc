// The built program, end to end, on a packed model of random weights.
#include <lzma.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "store/cache/routing_trace.h"
#include "tests/cli/omni_fixture.h"

namespace omni {
namespace {

namespace fs = std::filesystem;
using omni::testing::OmniTest;
using omni::testing::Output;
using omni::testing::ProcessOptions;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

TEST_F(OmniTest, RunPrintsTheTextAndNothingElse) {
  const Output text = Run({"the sea", "-n", "30", "--temp", "0"});
  EXPECT_EQ(text.exit_code, 0);
  EXPECT_EQ(text.err, "");
  ASSERT_FALSE(text.out.empty());
  EXPECT_EQ(text.out.back(), '\n');
  const Output again = Run({"the sea", "-n", "30", "--temp", "0", "-t", "1"});
  EXPECT_EQ(again.out, text.out);
}

TEST_F(OmniTest, RunJsonIsOneObject) {
  const nlohmann::json json = Json(Run({"the sea", "-n", "12", "--seed", "3", "--ignore-eos", "--json"}));
  EXPECT_EQ(json["tokens"].size(), 12u);
  EXPECT_EQ(json["generated_tokens"], 12);
  EXPECT_EQ(json["stop_reason"], "length");
  EXPECT_EQ(json["seed"], 3);
  EXPECT_TRUE(json["text"].is_string());
  EXPECT_GT(json["timings"]["prefill_s"].get<double>(), 0);
}

TEST_F(OmniTest, TheSeedDecidesTheText) {
  const std::vector<std::string> base = {"the sea", "-n", "24", "--ignore-eos", "--json", "--seed"};
  const auto tokens = [&](const std::string& seed) {
    std::vector<std::string> arguments = base;
    arguments.push_back(seed);
    return Json(Run(arguments))["tokens"];
  };
  EXPECT_EQ(tokens("5"), tokens("5"));
  EXPECT_NE(tokens("5"), tokens("6"));
}

TEST_F(OmniTest, ThePromptComesFromArgumentFlagOrStdin) {
  const std::string text = Run({"the cat", "-n", "10", "--temp", "0"}).out;
  EXPECT_EQ(Run({"-p", "the cat", "-n", "10", "--temp", "0"}).out, text);
  ProcessOptions piped;
  piped.stdin_text = "the cat";
  EXPECT_EQ(Run({"-", "-n", "10", "--temp", "0"}, piped).out, text);
  EXPECT_EQ(Run({"the cat", "-n", "10", "--temp", "0", "--echo"}).out, "the cat" + text);
}

TEST_F(OmniTest, PromptsThatLookLikeSomethingElseArePrompts) {
  for (const std::string prompt : {"eval", "[a, b]", "two\nlines", "\xff\xfe broken UTF-8"}) {
    EXPECT_EQ(Run({prompt, "-n", "2"}).exit_code, 0) << prompt;
  }
}

TEST_F(OmniTest, StopsBeforeAStopString) {
  const nlohmann::json whole = Json(Run({"the", "-n", "40", "--temp", "0", "--ignore-eos", "--json"}));
  const auto text = whole["text"].get<std::string>();
  // Any printable byte of the text will do.
  const auto at =
      std::find_if(text.begin() + 1, text.end(), [](unsigned char c) { return c > 0x20 && c < 0x7f; });
  ASSERT_NE(at, text.end());
  const nlohmann::json cut = Json(Run({"the", "-n", "40", "--temp", "0", "--ignore-eos", "--json", "--stop",
                                       "zzzzzz", "--stop", std::string(1, *at)}));
  EXPECT_EQ(cut["stop_reason"], "stop");
  EXPECT_EQ(cut["text"], text.substr(0, text.find(*at)));
}

TEST_F(OmniTest, FlagsHaveEnvironmentTwinsAndTheCommandLineWins) {
  ProcessOptions options;
  options.env = {
      {"OMNI_MODEL", Model()}, {"OMNI_TOKENS", "3"}, {"OMNI_JSON", "1"}, {"OMNI_IGNORE_EOS", "true"}};
  EXPECT_EQ(Json(Omni({"run", "the"}, options))["tokens"].size(), 3u);
  EXPECT_EQ(Json(Omni({"run", "the", "-n", "5"}, options))["tokens"].size(), 5u);
  options.env["OMNI_TOP_P"] = "7";
  ExpectOneLine(Omni({"run", "the"}, options), 2, "OMNI_TOP_P: '7' is not a number above 0, up to 1");
  // A flag of another verb is nothing to this one.
  EXPECT_EQ(Omni({"inspect"}, options).exit_code, 0);
}

TEST_F(OmniTest, APromptComesFromAFileToo) {
  const std::string file = *dir_ / "prompt.txt", empty = *dir_ / "empty.txt";
  std::ofstream(file) << "The sea\n";
  std::ofstream(empty).flush();
  ExpectOneLine(Run({"x", "-f", file}), 2, "twice");
  ExpectOneLine(Run({"-p", "x", "--file", file}), 2, "twice");
  ExpectOneLine(Run({"-f", empty}), 2, empty + ": the prompt is empty");
  ExpectOneLine(Run({"-f", *dir_ / "nowhere.txt"}), 1, "nowhere.txt: cannot be read");
  const auto tokens = [](const Output& output) { return Json(output)["tokens"]; };
  const nlohmann::json from_text = tokens(Run({"The sea\n", "-n", "8", "--temp", "0", "--json"}));
  EXPECT_EQ(tokens(Run({"-f", file, "-n", "8", "--temp", "0", "--json"})), from_text);
  ProcessOptions environment;
  environment.env["OMNI_FILE"] = file;
  EXPECT_EQ(tokens(Run({"-n", "8", "--temp", "0", "--json"}, environment)), from_text);
  EXPECT_NE(tokens(Run({"zz", "-n", "8", "--temp", "0", "--json"}, environment)), from_text);
}

TEST_F(OmniTest, WrongUsageIsOneLineAndExitCode2) {
  ExpectOneLine(Run({""}), 2, "the prompt is empty");
  ExpectOneLine(Run({}), 2, "the prompt is empty");
  ExpectOneLine(Run({"-"}), 2, "standard input");
  ExpectOneLine(Run({"x", "-p", "y"}), 2, "twice");
  ExpectOneLine(Run({"x", "--temp", "warm"}), 2, "--temp: 'warm' is not a number from 0 to 100");
  ExpectOneLine(Run({"x", "--temp", "nan"}), 2, "--temp: 'nan'");
  ExpectOneLine(Run({"x", "--top-k", "-1"}), 2, "--top-k: '-1' is not a whole number from 0");
  ExpectOneLine(Run({"x", "-n", "0"}), 2, "--tokens: '0' is not a whole number from 1");
  ExpectOneLine(Run({"x", "-n", "99999999999999999999"}), 2, "--tokens");
  ExpectOneLine(Run({"x", "--stop", ""}), 2, "--stop");
  ExpectOneLine(Run({"a long prompt for a short context", "-c", "5"}), 2, "--ctx allows 5");
  for (const char* flag : {"--name", "--cluster-name", "--advertise"}) {
    const std::vector<std::string> node = {"node", "-m", Model(), "--listen", "127.0.0.1:0", flag, "n\xff"};
    ExpectOneLine(Omni(node), 2, std::string(flag) + " is no UTF-8");
  }
  ExpectOneLine(Run({"x", "--no-such-flag"}), 2, "--no-such-flag");
  ExpectOneLine(Run({"x", "y"}), 2, "y");
  ExpectOneLine(Omni({}), 2, "no verb is given");
  ExpectOneLine(Omni({"fly"}), 2, "'fly' is not a verb");
  ExpectOneLine(Omni({"eval", "bleu", "x.txt"}), 2, "bleu");
  ExpectOneLine(Omni({"completion", "fish"}), 2, "fish");
  ExpectOneLine(Omni({"pack", "only-one"}), 2, "DIR is required");
  ExpectOneLine(Omni({"pack", "--from", "a"}), 2, "DIR is required");
  ExpectOneLine(Omni({"pack", "--from", "a", "b", "c"}), 2, "--from");
  ExpectOneLine(Omni({"synth", "--preset", "tiny", "--out", "a", "--slow-rate", "0.5"}), 2,
                "--slow-rate does nothing");
  ExpectOneLine(Omni({"synth", "--out", "a", "--format", "1", "--slow-rate", "0.5"}), 2,
                "--slow-rate does nothing");
  ExpectOneLine(Omni({"synth", "--out", "a", "--format", "1", "--member", "0.5"}), 2,
                "--format 1 has neither");
  ExpectOneLine(Omni({"synth", "--out", "a", "--format", "1", "--route-from", "ahead"}), 2,
                "--format 1 has neither");
  ExpectOneLine(Omni({"synth", "--out", "a", "--format", "2", "--preset", "tiny"}), 2,
                "nothing of tiny needs format 2");
  ExpectOneLine(Omni({"synth", "--out", "a", "--format", "3"}), 2, "--format: '3'");
  ExpectOneLine(Omni({"pack", "a", "b", "--tile-alignment", "100"}), 2, "--tile-alignment: '100'");
}

TEST_F(OmniTest, SynthSaysWhatItWroteAsInspectDoes) {
  for (const std::vector<std::string>& flags :
       {std::vector<std::string>{"--route-from", "address", "--member", "0.5", "--delta", "0.5"},
        {"--format", "1", "--delta", "0.5"}}) {
    const std::string dir = *dir_ / ("synth" + flags[1]);
    std::vector<std::string> words = {"synth", "--preset", "tiny", "--json", "--out", dir};
    words.insert(words.end(), flags.begin(), flags.end());
    const nlohmann::json made = Json(Omni(words)), inspected = Json(Omni({"inspect", "-m", dir, "--json"}));
    EXPECT_EQ(made["format"], flags[0] == "--format" ? 1 : 2);
    EXPECT_EQ(made["parameters_nominal"], inspected["parameters"]["nominal"]);
    EXPECT_EQ(made["parameters_unique"], inspected["parameters"]["unique"]);
    EXPECT_LT(made["parameters_unique"], made["parameters_nominal"]);
    EXPECT_EQ(made["bytes_on_disk"], inspected["bytes"]["total"]);
    EXPECT_EQ(inspected["config"].contains("route_from"), flags[0] != "--format");
  }
}

TEST_F(OmniTest, FailuresAreOneLineAndExitCode1) {
  ExpectOneLine(Omni({"run", "-m", *dir_ / "nowhere", "x"}), 1, "nowhere");
  fs::create_directory(*dir_ / "empty");
  ExpectOneLine(Omni({"run", "-m", *dir_ / "empty", "x"}), 1, "empty");
  ExpectOneLine(Omni({"pack", *dir_ / "nowhere", *dir_ / "out"}), 1, "nowhere");
  ExpectOneLine(Omni({"pack", *dir_ / "checkpoint", Model()}), 1, "model");
  ExpectOneLine(Omni({"eval", "ppl", "-m", Model(), *dir_ / "nowhere.txt"}), 1, "nowhere.txt");
  std::ofstream(*dir_ / "bad.xz") << "not xz";
  ExpectOneLine(Omni({"eval", "ppl", "-m", Model(), *dir_ / "bad.xz"}), 1, "bad.xz");
  ExpectOneLine(Omni({"trace", "-m", Model(), "x", "--plot", *dir_ / "no/such/dir.svg"}), 1, "dir.svg");
}

TEST_F(OmniTest, ADamagedModelIsAnErrorThatNamesAFile) {
  const std::string copy = *dir_ / "damaged";
  fs::copy(Model(), copy, fs::copy_options::recursive);
  fs::path largest;
  for (const auto& entry : fs::recursive_directory_iterator(copy)) {
    if (entry.is_regular_file() && (largest.empty() || entry.file_size() > fs::file_size(largest))) {
      largest = entry.path();
    }
  }
  fs::permissions(largest, fs::perms::owner_write, fs::perm_options::add);
  std::fstream file(largest, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(static_cast<std::streamoff>(fs::file_size(largest) / 2));
  const int byte = file.get();
  file.seekp(static_cast<std::streamoff>(fs::file_size(largest) / 2));
  file.put(static_cast<char>(byte ^ 0x55));
  file.close();
  ExpectOneLine(Omni({"run", "-m", copy, "x"}), 1, "damaged");
}

void FlipByte(const std::string& path, std::streamoff at) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(at);
  const int byte = file.get();
  file.seekp(at);
  file.put(static_cast<char>(byte ^ 0x55));
}

// Names, sizes and times of everything in a directory.
std::vector<std::string> Snapshot(const std::string& dir) {
  std::vector<std::string> lines;
  for (const auto& entry : fs::recursive_directory_iterator(dir)) {
    struct stat s {};
    stat(entry.path().c_str(), &s);
    lines.push_back(entry.path().string() + " " + std::to_string(s.st_size) + " " +
                    std::to_string(s.st_mtim.tv_sec) + "." + std::to_string(s.st_mtim.tv_nsec));
  }
  std::sort(lines.begin(), lines.end());
  return lines;
}

TEST_F(OmniTest, UsingAModelNeverWritesToItsDirectory) {
  const auto before = Snapshot(Model());
  fs::permissions(Model(), fs::perms::owner_write, fs::perm_options::remove);
  EXPECT_EQ(Run({"x", "-n", "3"}).exit_code, 0);
  EXPECT_EQ(Omni({"inspect", "-m", Model()}).exit_code, 0);
  EXPECT_EQ(Omni({"verify", "-m", Model()}).exit_code, 0);
  EXPECT_EQ(Omni({"trace", "-m", Model(), "x"}).exit_code, 0);
  fs::permissions(Model(), fs::perms::owner_write, fs::perm_options::add);
  EXPECT_EQ(Snapshot(Model()), before);
}

TEST_F(OmniTest, RoutingCountsGrowInTheStateDirectory) {
  ProcessOptions options;
  options.env = {{"XDG_STATE_HOME", *dir_ / "own-state"}};
  const auto total = [&] {
    int64_t sum = 0;
    for (const auto& entry : fs::directory_iterator(*dir_ / "own-state/omni")) {
      if (entry.path().extension() != ".json") continue;
      std::ifstream in(entry.path());
      const nlohmann::json counts = nlohmann::json::parse(in);
      for (const nlohmann::json& n : counts["rows"]) sum += n.get<int64_t>();
    }
    return sum;
  };
  Run({"x", "-n", "4", "--ignore-eos"}, options);
  const int64_t once = total();
  EXPECT_EQ(once, 3 * (2 + 3));  // three expert layers; end-of-text, "x", and all but the last token drawn
  Run({"x", "-n", "4", "--ignore-eos"}, options);
  EXPECT_EQ(total(), 2 * once);

  std::ofstream(*dir_ / "file-in-the-way") << "x";
  options.env["XDG_STATE_HOME"] = *dir_ / "file-in-the-way";
  const Output quiet = Run({"x", "-n", "2"}, options);
  EXPECT_EQ(quiet.exit_code, 0);
  EXPECT_EQ(quiet.err, "");
  EXPECT_THAT(Run({"x", "-n", "2", "--stats"}, options).err, HasSubstr("routing counts were not kept"));
  EXPECT_THAT(Run({"x", "-n", "2", "--log-level", "info"}, options).err,
              HasSubstr("omni: info: routing counts were not kept: "));
}

TEST_F(OmniTest, StatsGoToStderr) {
  const Output plain = Run({"the", "-n", "8", "--temp", "0"});
  const Output stats = Run({"the", "-n", "8", "--temp", "0", "--stats"});
  EXPECT_EQ(stats.out, plain.out);
  EXPECT_THAT(stats.err,
              AllOf(HasSubstr("8 experts in 2 regions"), HasSubstr("ready in"), HasSubstr("prefill"),
                    HasSubstr("decode"), HasSubstr("RSS"), Not(HasSubstr("\033"))));
}

TEST_F(OmniTest, ATerminalSeesColourUnlessToldNot) {
  ProcessOptions options;
  options.terminal = true;
  const Output coloured = Run({"the", "-n", "8", "--temp", "0"}, options);
  EXPECT_THAT(coloured.err, AllOf(HasSubstr("prefill"), HasSubstr("\033[2m")));
  options.env["NO_COLOR"] = "1";
  const Output plain = Run({"the", "-n", "8", "--temp", "0"}, options);
  EXPECT_THAT(plain.err, AllOf(HasSubstr("prefill"), Not(HasSubstr("\033[2m"))));
  EXPECT_EQ(plain.out, coloured.out);
}

TEST_F(OmniTest, AnInterruptKeepsWhatThereIs) {
  ProcessOptions options;
  options.signal_after_output = SIGINT;
  const Output output = Run({"the", "-n", "100000000", "--ignore-eos", "-c", "1000000000"}, options);
  EXPECT_EQ(output.exit_code, 130);
  EXPECT_EQ(output.err, "");
  ASSERT_FALSE(output.out.empty());
  EXPECT_EQ(output.out.back(), '\n');
}

TEST_F(OmniTest, InspectSaysWhatAModelIs) {
  const Output table = Omni({"inspect", "-m", Model()});
  EXPECT_EQ(table.exit_code, 0);
  EXPECT_THAT(table.out, AllOf(HasSubstr("parameters nominal"), HasSubstr("8 (4x2x1) in 2 regions")));
  const nlohmann::json json = Json(Omni({"inspect", "-m", Model(), "--json"}));
  EXPECT_EQ(json["config"]["layers"], 4);
  EXPECT_GE(json["parameters"]["nominal"], json["parameters"]["unique"]);
  EXPECT_GE(json["bytes"]["total"].get<int64_t>(),
            json["bytes"]["shared"].get<int64_t>() + json["bytes"]["tiles"].get<int64_t>());
  EXPECT_LT(json["delta_ratio"]["keyframe"], 1.0);
}

TEST_F(OmniTest, InspectNeedsNoMoreThanTablesAndHeaders) {
  // Keys that programs may rely on, of the shipped model; the figures fit each other and the disk.
  const std::string shipped = fs::path(OMNI_SOURCE_DIR) / "models/mini";
  const nlohmann::json json = Json(Omni({"inspect", "-m", shipped, "--json"}));
  const std::pair<const char*, std::vector<const char*>> keys[] = {
      {"bytes", {"total", "shared", "tiles", "deltas"}},
      {"config", {"layers", "d", "f", "lattice", "preset"}},
      {"delta_ratio", {"keyframe", "neighbour_same_region", "neighbour_other_region"}},
      {"parameters",
       {"nominal", "unique", "active_per_token", "shared", "per_expert", "pdr", "gqa", "shared_ffn",
        "embedding", "experts"}},
      {"regions", {"count", "keyframe_bytes", "delta_bytes"}},
      {"tiles", {"total", "unique"}}};
  for (const auto& [group, names] : keys) {
    for (const char* name : names) EXPECT_TRUE(json[group].contains(name)) << group << "." << name;
  }
  EXPECT_EQ(json["model_hash"].get<std::string>().size(), 32u);
  int64_t total = 0;
  for (const auto& entry : fs::recursive_directory_iterator(shipped)) {
    const bool beside =
        entry.path().filename() == "calibration.json";  // which fits the model and is no part of it
    if (entry.is_regular_file() && !beside) total += static_cast<int64_t>(entry.file_size());
  }
  EXPECT_EQ(json["bytes"]["total"], total);
  // A model whose weights are damaged is still inspected: they are not read.
  const std::string copy = *dir_ / "inspected";
  fs::copy(Model(), copy, fs::copy_options::recursive);
  const std::string before = Omni({"inspect", "-m", copy, "--json"}).out;
  FlipByte(copy + "/shared.bin", 5000);
  FlipByte(copy + "/packs/tiles-000.bin", 5000);
  EXPECT_EQ(Omni({"inspect", "-m", copy, "--json"}).out, before);
}

TEST_F(OmniTest, PackWritesAPackedModelAnew) {
  const nlohmann::json model = Json(Omni({"inspect", "-m", Model(), "--json"}));
  const std::string same = *dir_ / "same", aligned = *dir_ / "aligned";
  const Output packed = Omni({"pack", "--from", Model(), same});
  ASSERT_EQ(packed.exit_code, 0) << packed.err;
  EXPECT_THAT(packed.out, HasSubstr(model.at("model_hash").get<std::string>())) << "another model hash";
  ASSERT_EQ(Omni({"pack", aligned, "--tile-alignment=4096", "--from", Model()}).exit_code, 0);
  EXPECT_THAT(Omni({"verify", "-m", aligned}).exit_code, 0);
  EXPECT_EQ(Omni({"run", "-m", aligned, "the sea", "--temp", "0"}).out, Run({"the sea", "--temp", "0"}).out);
  ExpectOneLine(Omni({"pack", "--from", *dir_ / "checkpoint", *dir_ / "no"}), 1, "checkpoint");
}

TEST_F(OmniTest, VerifyPassesAnIntactModel) {
  const Output line = Omni({"verify", "-m", Model()});
  EXPECT_EQ(line.exit_code, 0);
  EXPECT_EQ(line.err, "");
  EXPECT_THAT(line.out, AllOf(StartsWith(Model() + ": intact: "), HasSubstr(" files, "),
                              HasSubstr(" GB/s, 0 defects\n")));
  const nlohmann::json json = Json(Omni({"verify", "-m", Model(), "--json", "-t", "1"}));
  EXPECT_EQ(json["ok"], true);
  EXPECT_EQ(json["complete"], true);
  EXPECT_EQ(json["defects"], nlohmann::json::array());
  EXPECT_EQ(json["bytes"], Json(Omni({"inspect", "-m", Model(), "--json"}))["bytes"]["total"]);
  EXPECT_GT(json["tiles"], 0);
}

TEST_F(OmniTest, VerifyListsEveryDefectAndFails) {
  const std::string copy = *dir_ / "unverified";
  fs::copy(Model(), copy, fs::copy_options::recursive);
  FlipByte(copy + "/packs/tiles-000.bin", 1000);
  FlipByte(copy + "/tokenizer.omni", 40);
  std::ofstream(copy + "/notes.txt") << "x";
  const Output output = Omni({"verify", "-m", copy});
  EXPECT_EQ(output.exit_code, 1);
  EXPECT_EQ(std::count(output.err.begin(), output.err.end(), '\n'), 3) << output.err;
  EXPECT_THAT(output.err,
              AllOf(HasSubstr("omni: " + copy + "/packs/tiles-000.bin: tile 0 of expert 0, layer 0"),
                    HasSubstr("omni: " + copy + "/tokenizer.omni: fails its checksum"),
                    HasSubstr("omni: " + copy + "/notes.txt: no part of the model")));
  EXPECT_THAT(output.out, AllOf(StartsWith(copy + ": damaged: "), HasSubstr(", 3 defects\n")));
  const Output json = Omni({"verify", "-m", copy, "--json"});
  EXPECT_EQ(json.exit_code, 1);
  EXPECT_EQ(json.err, output.err);
  EXPECT_EQ(nlohmann::json::parse(json.out)["defects"].size(), 3u);
  ExpectOneLine(Omni({"verify", "-m", *dir_ / "nowhere"}), 1, "nowhere");
  ExpectOneLine(Omni({"verify", "-m", Model(), "-t", "x"}), 2, "--threads: 'x'");
}

TEST_F(OmniTest, VerifyShowsItsProgressOnATerminal) {
  ProcessOptions options;
  options.terminal = true;
  const Output output = Omni({"verify", "-m", Model()}, options);
  EXPECT_EQ(output.exit_code, 0);
  EXPECT_THAT(output.err,
              AllOf(HasSubstr("verifying " + Model()), HasSubstr(" GB/s  "), HasSubstr(" s left")));
}

TEST_F(OmniTest, EvalReadsPlainAndXzTextsAlike) {
  const std::string text = "The sea was calm.\n<|endoftext|>\nThe ship was late.\n";
  std::ofstream(*dir_ / "text.txt") << text;
  std::vector<uint8_t> packed(1000);
  size_t size = 0;
  ASSERT_EQ(
      lzma_easy_buffer_encode(6, LZMA_CHECK_CRC64, nullptr, reinterpret_cast<const uint8_t*>(text.data()),
                              text.size(), packed.data(), &size, packed.size()),
      LZMA_OK);
  std::ofstream(*dir_ / "text.txt.xz", std::ios::binary)
      .write(reinterpret_cast<const char*>(packed.data()), static_cast<std::streamsize>(size));
  const nlohmann::json plain = Json(Omni({"eval", "ppl", "-m", Model(), *dir_ / "text.txt", "--json"}));
  const nlohmann::json xz = Json(Omni({"eval", "ppl", "-m", Model(), *dir_ / "text.txt.xz", "--json"}));
  const nlohmann::json both =
      Json(Omni({"eval", "ppl", "-m", Model(), *dir_ / "text.txt", *dir_ / "text.txt.xz", "--json"}));
  EXPECT_EQ(plain["nats"], xz["nats"]);
  EXPECT_GT(plain["nats_per_token"].get<double>(), 0);
  EXPECT_EQ(plain["bytes"], 17 + 19);  // two documents, the separator and its newlines apart
  EXPECT_NEAR(both["nats"].get<double>(), 2 * plain["nats"].get<double>(), 1e-6);
  EXPECT_EQ(both["tokens"].get<int64_t>(), 2 * plain["tokens"].get<int64_t>());
  EXPECT_NEAR(both["bits_per_byte"].get<double>(), plain["bits_per_byte"].get<double>(), 1e-9);
  EXPECT_GT(plain["tok_per_s"].get<double>(), 0);
  const nlohmann::json carried =
      Json(Omni({"eval", "ppl", "-m", Model(), *dir_ / "text.txt", "--json", "--carry"}));
  EXPECT_NE(carried["nats"], plain["nats"]);
  std::ofstream(*dir_ / "cut.xz", std::ios::binary)
      .write(reinterpret_cast<const char*>(packed.data()), static_cast<std::streamsize>(size / 2));
  ExpectOneLine(Omni({"eval", "ppl", "-m", Model(), *dir_ / "cut.xz"}), 1, "not a whole .xz file");
}

TEST_F(OmniTest, EvalRoutesSaysHowTokensAreRouted) {
  std::ofstream(*dir_ / "routes.txt") << "the sea and the ship and the sea\n<|endoftext|>\nthe fox\n";
  const nlohmann::json figures =
      Json(Omni({"eval", "routes", "-m", Model(), *dir_ / "routes.txt", "--json"}));
  EXPECT_GT(figures.at("tokens"), 10);
  EXPECT_EQ(figures.at("known_ahead"), 0.0);
  EXPECT_GE(figures.at("same_region"), figures.at("same_expert"));
  EXPECT_GE(figures.at("one_hop"), figures.at("same_expert"));
  EXPECT_GT(figures.at("hit_8"), 0.5);  // there are eight experts: what is read once is kept
  EXPECT_EQ(figures.at("hit_8"), figures.at("hit_32"));
  // Streamed, they are the same.
  const Output streamed =
      Omni({"eval", "routes", "-m", Model(), *dir_ / "routes.txt", "--json", "--ram", "256M"});
  EXPECT_EQ(Json(streamed), figures);
  const Output text = Omni({"eval", "routes", "-m", Model(), *dir_ / "routes.txt"});
  EXPECT_THAT(text.out, HasSubstr("same region"));
  std::ofstream(*dir_ / "blank.txt") << "\n<|endoftext|>\n";
  ExpectOneLine(Omni({"eval", "routes", "-m", Model(), *dir_ / "blank.txt"}), 1,
                "blank.txt: there is nothing");
  ExpectOneLine(Omni({"eval", "routes", "-m", Model(), *dir_ / "routes.txt", *dir_ / "blank.txt"}), 1,
                "blank.txt: there is nothing");
}

TEST_F(OmniTest, TraceShowsEveryTokenOfEveryExpertLayer) {
  const nlohmann::json json = Json(Omni({"trace", "-m", Model(), "the sea was calm", "--json", "--plot",
                                         *dir_ / "torus.svg", "--routes", *dir_ / "sea.routes"}));
  EXPECT_EQ(json["layers"], nlohmann::json({0, 1, 2}));
  ASSERT_GT(json["tokens"].size(), 2u);
  EXPECT_EQ(json["tokens"][0]["text"], "<|endoftext|>");
  for (const nlohmann::json& token : json["tokens"]) {
    ASSERT_EQ(token["experts"].size(), 3u);
    for (const nlohmann::json& e : token["experts"]) EXPECT_TRUE(e >= 0 && e < 8);
  }
  const auto routes = LoadTrace(*dir_ / "sea.routes");
  ASSERT_TRUE(routes.ok()) << routes.status();
  EXPECT_EQ(nlohmann::json(routes->layers), json["layers"]);
  ASSERT_EQ(routes->tokens(), static_cast<int64_t>(json["tokens"].size()));
  for (int64_t t = 0; t < routes->tokens(); ++t) {
    for (int64_t p = 0; p < 3; ++p) {
      EXPECT_EQ(json["tokens"][static_cast<size_t>(t)]["experts"][static_cast<size_t>(p)], routes->At(t, p));
    }
  }
  ExpectOneLine(Omni({"trace", "-m", Model(), "x", "--routes", *dir_ / "no/such/x.routes"}), 1, "x.routes");
  const Output table = Omni({"trace", "-m", Model(), "the sea was calm"});
  EXPECT_EQ(std::count(table.out.begin(), table.out.end(), '\n'),
            static_cast<std::ptrdiff_t>(json["tokens"].size()) + 1);
  std::ifstream svg(*dir_ / "torus.svg");
  const std::string drawn((std::istreambuf_iterator<char>(svg)), {});
  EXPECT_THAT(drawn, AllOf(StartsWith("<svg"), HasSubstr("expert 7"), HasSubstr("</svg>")));
  EXPECT_THAT(drawn, HasSubstr("<line "));  // of a step
}

TEST_F(OmniTest, TrainWithoutATrainerSaysWhatToDo) {
  // A copy of the program, so that no trainer lies beside it.
  fs::create_directory(*dir_ / "bin");
  fs::copy_file(OMNI_PROGRAM, *dir_ / "bin/omni");
  const Output output = omni::testing::RunProcess({*dir_ / "bin/omni", "train", "--help"});
  ExpectOneLine(output, 1, "OMNI_TRAINER=ON");
}

TEST_F(OmniTest, TrainHandsAllItsArgumentsOn) {
  fs::create_directory(*dir_ / "bin2");
  fs::copy_file(OMNI_PROGRAM, *dir_ / "bin2/omni");
  const std::string trainer = *dir_ / "bin2/omni-train";
  std::ofstream(trainer) << "#!/bin/sh\necho \"$@\"; exit 3\n";
  fs::permissions(trainer, fs::perms::owner_all);
  const Output output = omni::testing::RunProcess({*dir_ / "bin2/omni", "train", "--help", "-x", "y z"});
  EXPECT_EQ(output.out, "--help -x y z\n");
  EXPECT_EQ(output.exit_code, 3);
}

}  // namespace
}  // namespace omni
