// Synthetic models: that they are models, the same every time, with the sharing asked for; and that a run
// which is killed anywhere can be gone on with.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <array>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include <absl/strings/str_cat.h>

#include "store/file/files.h"
#include "store/file/stream_writer.h"
#include "store/model/model.h"
#include "store/pack/pack_writer.h"
#include "store/pack/synth_source.h"
#include "tests/store/model/model_digest.h"
#include "tests/testing/temp_dir.h"

namespace omni {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using testing::ModelContent;
using testing::TempDir;

absl::Status Write(const ModelConfig& config, uint64_t seed, const std::string& dir,
                   const PackOptions& options) {
  return WriteModel(*SyntheticSource(config, seed), dir, options);
}

std::string Content(const std::string& dir) {
  auto model = OpenModel(dir);  // verifies every checksum, code and float
  EXPECT_TRUE(model.ok()) << model.status();
  return model.ok() ? ModelContent(*model) : "";
}

TEST(SynthConfig, CutsLayersAndHalvesTheTorus) {
  const auto config = SynthConfig("perspective-1t", 8, 32, 0.1);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->layers, 8);
  EXPECT_EQ(config->lattice, (std::array<int64_t, 3>{2, 4, 4}));
  EXPECT_EQ(config->own_neurons, 17 * 64);
  EXPECT_EQ(SynthConfig("perspective-1t", 0, 0, 0.1)->num_experts(), 128);
  EXPECT_EQ(SynthConfig("perspective-1t", 0, 0, 0)->own_neurons, 0);
  EXPECT_EQ(SynthConfig("perspective-1t", 0, 0, 1)->own_neurons, 11008);
  EXPECT_FALSE(SynthConfig("perspective-1t", 0, 48, 0.1).ok());
  EXPECT_FALSE(SynthConfig("no such", 0, 0, 0.1).ok());
}

TEST(SynthBytes, OfTheWholePresetAreFortyFourGigabytes) {
  const auto config = SynthConfig("perspective-1t", 0, 0, 0.1);
  EXPECT_NEAR(static_cast<double>(SynthBytes(*config, false)), 46.6e9, 1.5e9);
  EXPECT_NEAR(static_cast<double>(SynthBytes(*config, true)), 213e9, 4e9);
}

TEST(Synth, WritesTheSameModelEveryTimeAndAnotherForAnotherSeed) {
  TempDir temp;
  for (const char* preset : {"tiny", "char"}) {
    const auto config = SynthConfig(preset, 0, 16, 0.5);
    ASSERT_TRUE(config.ok()) << config.status();
    const std::string a = temp / (std::string(preset) + "a"), b = temp / (std::string(preset) + "b"),
                      c = temp / (std::string(preset) + "c");
    ASSERT_TRUE(Write(*config, 1, a, {}).ok());
    ASSERT_TRUE(Write(*config, 1, b, {}).ok());
    ASSERT_TRUE(Write(*config, 2, c, {}).ok());
    EXPECT_EQ(Content(a), Content(b));
    EXPECT_NE(Content(a), Content(c));
  }
}

TEST(Synth, SharesWhatIsAskedForAndTheSameWeightsWhole) {
  TempDir temp;
  const auto config = SynthConfig("char", 0, 16, 0.25);
  ASSERT_TRUE(Write(*config, 1, temp / "delta", {}).ok());
  ASSERT_TRUE(Write(*config, 1, temp / "whole", {.whole = true}).ok());
  EXPECT_EQ(Content(temp / "delta"), Content(temp / "whole"));
  const ModelStats delta = OpenModel(temp / "delta")->stats(), whole = OpenModel(temp / "whole")->stats();
  EXPECT_DOUBLE_EQ(delta.keyframe_delta, 0.25);
  EXPECT_EQ(delta.stored_tiles, delta.unique_tiles);
  EXPECT_EQ(whole.stored_tiles, whole.tiles);
  for (bool is_whole : {false, true}) {
    const ModelStats& s = is_whole ? whole : delta;
    EXPECT_NEAR(static_cast<double>(SynthBytes(*config, is_whole)),
                static_cast<double>(s.shared_bytes + s.tile_bytes), 4096.0);
  }
}

struct Outcome {
  int status = -1;
  std::string output;
};
Outcome SynthUntil(const std::string& dir, const char* kind, int number) {
  Outcome run;
  FILE* out =
      popen(absl::StrCat("exec ", SYNTH_UNTIL, " ", dir, " ", kind, " ", number, " 2>&1").c_str(), "r");
  if (out == nullptr) return run;
  char piece[256];
  while (const size_t n = std::fread(piece, 1, sizeof piece, out)) run.output.append(piece, n);
  run.status = pclose(out);
  return run;
}

TEST(SynthCrash, KilledAnywhereItGoesOnToTheSameModel) {
  TempDir temp;
  const Outcome undisturbed = SynthUntil(temp / "all", "step", -1);
  ASSERT_EQ(undisturbed.status, 0) << undisturbed.output;
  const std::string expected = Content(temp / "all");
  const std::string dir = temp / "m";
  int kills = 0, most_kept = 0;
  for (const char* kind : {"step", "tile"}) {
    const int stride = *kind == 's' ? 1 : 3;
    for (int number = 0;; number += stride) {
      const Outcome killed = SynthUntil(dir, kind, number);
      if (WIFEXITED(killed.status)) {
        ASSERT_EQ(WEXITSTATUS(killed.status), 0) << killed.output;
        ASSERT_EQ(Content(dir), expected);
        fs::remove_all(dir);
        break;
      }
      ASSERT_EQ(WTERMSIG(killed.status), SIGKILL);
      ++kills;
      if (!fs::exists(dir)) {
        const Outcome resumed = SynthUntil(dir, "step", -1);
        ASSERT_EQ(resumed.status, 0) << resumed.output;
        most_kept = std::max(most_kept, std::atoi(resumed.output.c_str()));
      }
      ASSERT_EQ(Content(dir), expected) << kind << " " << number;
      fs::remove_all(dir);
      for (const auto& entry : fs::directory_iterator(temp.path())) {
        ASSERT_THAT(entry.path().filename().string(), ::testing::AnyOf("all", "m.lock"));
      }
    }
  }
  EXPECT_GE(kills, 50);
  EXPECT_GE(most_kept, 2);  // it does go on, not begin again
}

TEST(SynthCrash, WhatAnotherCommandLeftIsNotGoneOnWith) {
  TempDir temp;
  const auto config = SynthConfig("char", 3, 16, 0.25);
  PackOptions failing{.max_pack_bytes = 200'000, .resume_key = "a"};
  int steps = 0;
  failing.step_hook = [&](const std::string&) {
    return ++steps < 6 ? absl::OkStatus() : absl::UnavailableError("stop here");
  };
  EXPECT_FALSE(Write(*config, 1, temp / "m", failing).ok());
  int64_t kept = -1;
  PackOptions other{.max_pack_bytes = 200'000, .resume_key = "b", .kept_files = &kept};
  ASSERT_TRUE(Write(*config, 2, temp / "m", other).ok());
  EXPECT_EQ(kept, 0);
  ASSERT_TRUE(Write(*config, 2, temp / "same", {.max_pack_bytes = 200'000}).ok());
  EXPECT_EQ(Content(temp / "m"), Content(temp / "same"));
}

TEST(SynthCrash, ADamagedLeftoverIsNamedNotUsed) {
  TempDir temp;
  const auto config = SynthConfig("char", 3, 16, 0.25);
  PackOptions options{.max_pack_bytes = 200'000, .resume_key = "a"};
  PackOptions failing = options;
  int steps = 0;
  failing.step_hook = [&](const std::string&) {
    return ++steps < 6 ? absl::OkStatus() : absl::UnavailableError("stop here");
  };
  ASSERT_FALSE(Write(*config, 1, temp / "m", failing).ok());
  std::string pack;
  for (const auto& entry : fs::recursive_directory_iterator(temp.path())) {
    if (entry.path().filename() == "tiles-000.bin") pack = entry.path();
  }
  ASSERT_FALSE(pack.empty());
  FILE* file = std::fopen(pack.c_str(), "r+b");
  ASSERT_NE(file, nullptr);
  std::fseek(file, 5000, SEEK_SET);
  const int byte = std::fgetc(file);
  std::fseek(file, 5000, SEEK_SET);
  std::fputc(byte ^ 1, file);
  std::fclose(file);
  const absl::Status status = Write(*config, 1, temp / "m", options);
  EXPECT_THAT(std::string(status.message()), HasSubstr("tiles-000.bin"));
  EXPECT_FALSE(fs::exists(temp / "m"));
  fs::remove(pack);
}

TEST(StreamWriter, WritesAndHashesAnyLength) {
  TempDir temp;
  for (int64_t size : {0, 1, 63, 4031, 4032, 4033, (4 << 20) - 64, 4 << 20, (9 << 20) + 5}) {
    std::string bytes(static_cast<size_t>(size), '\0');
    for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * 131 + (i >> 9));
    const std::string head(64, 'h'), path = temp / absl::StrCat("f", size);
    auto writer = StreamWriter::Create(path, head, 0);
    ASSERT_TRUE(writer.ok()) << writer.status();
    for (int64_t at = 0; at < size;) {
      const int64_t n = std::min<int64_t>(size - at, 1 + at % 70001);
      ASSERT_TRUE((*writer)->Append(bytes.data() + at, n).ok());
      at += n;
    }
    EXPECT_EQ((*writer)->size(), size + 64);
    const auto digest = (*writer)->Finish(head, nullptr);
    ASSERT_TRUE(digest.ok()) << digest.status();
    EXPECT_EQ(*ReadText(path, size + 64), head + bytes);
    EXPECT_EQ(digest->bytes, size + 64);
    EXPECT_EQ(digest->hash, ContentHash(head + bytes));
  }
}

TEST(StreamWriter, AnotherHeadIsHashedToo) {
  TempDir temp;
  auto writer = StreamWriter::Create(temp / "f", std::string(64, 'a'), 1 << 20);
  ASSERT_TRUE(writer.ok());
  ASSERT_TRUE((*writer)->Append("body", 4).ok());
  const std::string head(64, 'b');
  const auto digest = (*writer)->Finish(head, nullptr);
  ASSERT_TRUE(digest.ok());
  EXPECT_EQ(*ReadText(temp / "f", 1 << 20), head + "body");
  EXPECT_EQ(digest->hash, ContentHash(head + "body"));
}

TEST(StreamWriter, SaysWhenTheFileMayNotGrow) {
  TempDir temp;
  ::signal(SIGXFSZ, SIG_IGN);
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const rlimit small{1 << 20, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  auto writer = StreamWriter::Create(temp / "f", std::string(64, 'a'), 0);
  absl::Status status = writer.status();
  for (int i = 0; i < 40 && status.ok(); ++i) status = (*writer)->AppendZeros(1 << 20);
  if (status.ok()) status = (*writer)->Finish(std::string(64, 'a'), nullptr).status();
  writer = absl::CancelledError();
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
}

}  // namespace
}  // namespace omni
