// Synthetic models: that they are models, the same every time, with the sharing asked for; and that a run
// which is killed anywhere can be gone on with.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include <absl/strings/str_cat.h>

#include "store/file/files.h"
#include "store/file/hash.h"
#include "store/format/tile.h"
#include "store/model/model.h"
#include "store/pack/pack_writer.h"
#include "store/pack/synth_source.h"
#include "tests/store/model/model_digest.h"
#include "tests/testing/power_cut.h"
#include "tests/testing/temp_dir.h"

namespace omni {
namespace {

namespace fs = std::filesystem;
using testing::DiskRecorder;
using testing::FileCall;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
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

TEST(SynthConfig, SharesTilesAmongTheGroups) {
  const auto config =
      SynthConfig("perspective-1t", 0, 0, 0.1,
                  {.route_from = RouteFrom::kAddress, .slow_rate = 0.0625f, .base = 0.25, .member = 0.25});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->base_neurons, 43 * 64);
  EXPECT_EQ(config->member_neurons, 43 * 64);
  EXPECT_EQ(config->own_neurons, 17 * 64);
  EXPECT_EQ(config->format(), 2);
  EXPECT_EQ(CountParameters(*config).total(), CountParameters(*Preset("perspective-1t")).total());
  EXPECT_EQ(SynthConfig("tiny", 0, 0, 0, {.member = 0.5})->member_neurons, 64);
  EXPECT_FALSE(SynthConfig("tiny", 0, 0, 0.5, {.base = 0.5, .member = 0.5}).ok());
}

TEST(SynthConfig, OfThePresetsRoutesIsThePreset) {
  for (const char* name : {"perspective-1t", "mini"}) {
    const ModelConfig preset = *Preset(name);
    EXPECT_EQ(*SynthConfig(name, 0, 0, 0.1, RoutesOf(preset)), preset) << name;
  }
  EXPECT_EQ(SynthConfig("perspective-1t", 0, 0, 0.1)->format(), 1);
}

TEST(SynthBytes, OfTheWholePresetAreThirtySevenGigabytesAndFortySixInFormatOne) {
  const auto known = SynthConfig("perspective-1t", 0, 0, 0.1, RoutesOf(*Preset("perspective-1t")));
  EXPECT_NEAR(static_cast<double>(SynthBytes(*known, false)), 37.8e9, 0.5e9);
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

class SynthShares : public ::testing::TestWithParam<SynthRoutes> {};

INSTANTIATE_TEST_SUITE_P(Routes, SynthShares,
                         ::testing::Values(SynthRoutes{},
                                           SynthRoutes{RouteFrom::kAddress, 0.0625f, 0.125, 0.25},
                                           SynthRoutes{RouteFrom::kAhead, 1.0f, 0.0, 0.5}),
                         [](const auto& info) { return absl::StrCat("Kind", info.index); });

TEST_P(SynthShares, WhatIsAskedForAndTheSameWeightsWhole) {
  TempDir temp;
  const auto config = SynthConfig("char", 0, 16, 0.25, GetParam());
  ASSERT_TRUE(Write(*config, 1, temp / "delta", {}).ok());
  ASSERT_TRUE(Write(*config, 1, temp / "whole", {.whole = true}).ok());
  EXPECT_EQ(Content(temp / "delta"), Content(temp / "whole"));
  const ModelStats delta = OpenModel(temp / "delta")->stats(), whole = OpenModel(temp / "whole")->stats();
  if (config->member_neurons == 0) {
    EXPECT_DOUBLE_EQ(delta.keyframe_delta, 0.25);
  }
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
  const TempDir temp = TempDir::InMemory();
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

// Refuses one fsync.
class FailSync : public testing::FileWatcher {
 public:
  FailSync(std::string end, int before) : end_(std::move(end)), before_(before) {}
  int Before(const FileCall& call) override {
    if (call.kind != FileCall::Kind::kSync) return 0;
    return call.path.ends_with(end_) && before_-- == 0 ? EIO : kPretend;
  }

 private:
  std::string end_;
  int before_;
};

// Seed 1; ends with an error when the third pack file is synced.
void WriteUntilThirdPack(const ModelConfig& config, const std::string& dir, const PackOptions& options) {
  FailSync fail("tiles-002.bin", 0);
  const testing::WatchFiles watch(fail);
  EXPECT_THAT(std::string(Write(config, 1, dir, options).message()), HasSubstr("Input/output error"));
}

TEST(SynthCrash, WhatAnotherCommandLeftIsNotGoneOnWith) {
  TempDir temp;
  const auto config = SynthConfig("char", 3, 16, 0.25);
  WriteUntilThirdPack(*config, temp / "m", {.max_pack_bytes = 200'000, .resume_key = "a"});
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
  WriteUntilThirdPack(*config, temp / "m", options);
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

class NoSyncs : public testing::FileWatcher {
 public:
  NoSyncs() : watch_(*this) {}
  int Before(const FileCall& call) override { return call.kind == FileCall::Kind::kSync ? kPretend : 0; }

 private:
  testing::WatchFiles watch_;
};

// A small model of three pack files, all full.
class SynthPowerCut : public ::testing::Test {
 protected:
  void SetUp() override {
    config_ = *SynthConfig("tiny", 0, 8, 0.25);
    ASSERT_TRUE(Write(config_, 1, temp_ / "whole", {}).ok());
    expected_ = Content(temp_ / "whole");
    const auto whole = static_cast<int64_t>(fs::file_size(temp_ / "whole/packs/tiles-000.bin"));
    options_.max_pack_bytes = (whole + 2 * PackHeader::kBytes) / 3;
    options_.resume_key = "key";
    fs::create_directory(temp_ / "disk");
  }

  // Whose pack files each promise to be kept by the next run once they are finished.
  absl::Status Run(DiskRecorder& disk) {
    options_.progress = [&](double) { disk.Promise(absl::StrCat(Finished(temp_ / "disk"))); };
    absl::Status written = Write(config_, 1, temp_ / "disk/m", options_);
    if (written.ok()) disk.Promise("written");
    return written;
  }
  // Pack files that have their head.
  static int Finished(const std::string& dir) {
    int finished = 0;
    for (const auto& [path, bytes] : testing::ReadTree(dir))
      finished += path.ends_with(".bin") && path.find("/packs/") != path.npos && (*bytes)[0] != 0;
    return finished;
  }

  // After the cut the same command makes the model, and keeps what was finished. All that it looks at are the
  // pack files, so that states which are equal in those are tried once.
  std::string Problem(const std::string& dir, const std::vector<std::string>& promises) {
    const NoSyncs no_syncs;
    int64_t promised = 0;
    for (const std::string& promise : promises)
      promised = std::max<int64_t>(promised, std::atoi(promise.c_str()));
    if (fs::exists(dir + "/m")) {
      const auto model = OpenModel(dir + "/m");
      if (!model.ok()) return std::string(model.status().message());
      return ModelContent(*model) == expected_ ? "" : "another model";
    }
    if (!promises.empty() && promises.back() == "written") return "the model is gone";
    std::string state = absl::StrCat(promised);
    for (const auto& [path, bytes] : testing::ReadTree(dir)) {
      const bool inside = path.find('/') != path.npos, pack = path.find("/packs") != path.npos;
      if (!inside || pack) absl::StrAppend(&state, "\n", path, ContentHash(bytes ? *bytes : "").Hex());
    }
    const auto [known, fresh] = problems_.try_emplace(state);
    if (fresh) known->second = ProblemOfGoingOn(dir, promised);
    return known->second;
  }
  std::string ProblemOfGoingOn(const std::string& dir, int64_t promised) {
    PackOptions options = options_;
    int64_t kept = 0;
    options.progress = nullptr;
    options.kept_files = &kept;
    const absl::Status written = Write(config_, 1, dir + "/m", options);
    if (!written.ok()) return std::string(written.message());
    if (kept < promised) return absl::StrCat("of ", promised, " finished files ", kept, " were kept");
    for (const auto& entry : fs::directory_iterator(dir)) {
      const std::string name = entry.path().filename();
      if (name != "m") return "a leftover stays: " + name;
    }
    return Content(dir + "/m") == expected_ ? "" : "another model";
  }

  testing::CutCheck Check() {
    return [this](const std::string& dir, const std::vector<std::string>& promises) {
      return Problem(dir, promises);
    };
  }

  TempDir temp_, memory_ = TempDir::InMemory();
  ModelConfig config_;
  PackOptions options_;
  std::string expected_;
  std::map<std::string, std::string> problems_;
};

TEST_F(SynthPowerCut, GoesOnWithWhatWasFinishedAndEverySyncIsNeeded) {
  DiskRecorder disk(temp_ / "disk");
  ASSERT_TRUE(Run(disk).ok());
  disk.Stop();
  ASSERT_EQ(std::distance(fs::directory_iterator(temp_ / "disk/m/packs"), {}), 3);
  EXPECT_THAT(ProblemsAfterCuts(disk, memory_ / "scratch", Check()), IsEmpty());
  EXPECT_THAT(NeedlessSyncs(disk, memory_ / "scratch", Check()), IsEmpty());
}

// A run is stopped before it has synced what it made; the next one takes that over, and then the power fails.
TEST_F(SynthPowerCut, WhatAStoppedRunHadNotSyncedIsSyncedByTheNext) {
  const std::string temporary = absl::StrCat("/m.tmp-", Checksum64("key", 3));
  const struct {
    std::string path;  // how it ends: the first run's fsync number `before` of it fails
    int before;
  } stops[] = {{"/disk", 0}, {temporary, 0}, {"/tiles-000.bin", 1 /* after its head */}, {"/packs", 0}};
  for (const auto& stop : stops) {
    fs::remove_all(temp_ / "disk");
    fs::create_directory(temp_ / "disk");
    DiskRecorder disk(temp_ / "disk");
    int before = stop.before;
    disk.Refuse([&](const FileCall& call) {
      const bool it = call.kind == FileCall::Kind::kSync && call.path.ends_with(stop.path);
      return it && before-- == 0 ? EIO : 0;
    });
    ASSERT_FALSE(Run(disk).ok());
    disk.Refuse(nullptr);
    const size_t first_run = disk.steps().size();
    ASSERT_TRUE(Run(disk).ok());
    disk.Stop();
    EXPECT_THAT(ProblemsAfterCuts(disk, memory_ / "scratch", Check()), IsEmpty()) << stop.path;
    EXPECT_THAT(NeedlessSyncs(disk, memory_ / "scratch", Check(),
                              [&](size_t step) {
                                return step >= first_run && disk.steps()[step].path.ends_with(stop.path);
                              }),
                IsEmpty())
        << stop.path;
  }
}

}  // namespace
}  // namespace omni
