// A part of a model whose process is killed, or whose machine loses power, at any moment.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

#include <filesystem>
#include <optional>

#include "tests/store/partial/partial_fixture.h"
#include "tests/testing/power_cut.h"

extern char** environ;

namespace omni {
namespace {

namespace fs = std::filesystem;
using testing::CopyTiles;
using testing::FileBytes;
using ::testing::IsEmpty;
using testing::Regions;
using testing::StartFrom;

class PartialCrash : public testing::PartialTest {
 protected:
  // What is wrong with a directory in which a part was being made; empty: nothing. It is no model yet and can
  // be begun (then `*held` is none), or it is one, and every tile that it says it has is the model's.
  std::string Problem(const std::string& at, std::optional<std::vector<RegionId>>* held) {
    held->reset();
    if (!fs::exists(at)) return "";
    if (PartialStart::IsNeeded(at)) {
      const absl::Status begun = PartialStart::Begin(at).status();
      return begun.ok() ? "" : std::string(begun.message());
    }
    const auto part = PartialModel::Open(at);
    if (!part.ok()) return std::string(part.status().message());
    std::string is(static_cast<size_t>(whole_->tile_bytes()), '\0'), want = is;
    for (const auto& [name, digest] : whole_->files().manifest.files) {
      if (name.starts_with("packs/"))
        packs_ = std::max<uint32_t>(packs_, 1 + static_cast<uint32_t>(std::stoi(name.substr(12, 3))));
    }
    for (uint32_t pack = 0; pack < packs_; ++pack) {
      for (uint32_t tile = 0; whole_->Has({pack, tile}); ++tile) {
        if (!(*part)->Has({pack, tile})) continue;
        const absl::Status read = (*part)->Read({pack, tile}, reinterpret_cast<uint8_t*>(is.data()));
        if (!read.ok()) return std::string(read.message());
        if (!whole_->Read({pack, tile}, reinterpret_cast<uint8_t*>(want.data())).ok() || is != want)
          return "another tile";
      }
    }
    *held = (*part)->HeldRegions();
    return "";
  }
  // The exit status as waitpid gives it.
  int Until(int step) {
    std::string program = PARTIAL_UNTIL_STEP, number = absl::StrCat(step), from = whole_dir(), to = dir();
    char* argv[] = {program.data(), from.data(), to.data(), number.data(), nullptr};
    pid_t child = 0;
    if (::posix_spawn(&child, program.c_str(), nullptr, nullptr, argv, environ) != 0) return -1;
    int status = -1;
    return ::waitpid(child, &status, 0) == child ? status : -1;
  }
  std::string PackBytes() {
    std::string all;
    for (const auto& [name, digest] : whole_->files().manifest.files) {
      if (name.starts_with("packs/")) all += FileBytes(dir() + "/" + name);
    }
    return all;
  }
  uint32_t packs_ = 0;
};

TEST_F(PartialCrash, KilledBetweenAnyTwoWritesItIsGoneOnWithAndOnlyWhatIsMissingComes) {
  constexpr int kEnough = 10000;
  ASSERT_EQ(Until(kEnough), 0);
  const std::string want = PackBytes();
  int step = 0, begun = 0, held_some = 0;
  for (;; ++step) {
    ASSERT_LT(step, kEnough);
    fs::remove_all(dir());
    const int status = Until(step);
    if (WIFEXITED(status)) {
      ASSERT_EQ(WEXITSTATUS(status), 0);
      break;
    }
    SCOPED_TRACE(absl::StrCat("killed at step ", step));
    ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << status;
    std::optional<std::vector<RegionId>> held;
    ASSERT_EQ(Problem(dir(), &held), "");
    begun += held.has_value() ? 0 : 1;
    held_some += held.has_value() && !held->empty() ? 1 : 0;
    if (!held.has_value()) {
      ASSERT_EQ(StartFrom(whole_dir(), dir()), absl::OkStatus());
    }
    const auto part = PartialModel::Open(dir());
    ASSERT_TRUE(part.ok()) << part.status();
    const int64_t missing = Missing(**part, {1, 2});
    int64_t moved = 0;
    ASSERT_EQ(CopyTiles(*whole_, **part, Regions({1, 2}), 1000, &moved), absl::OkStatus());
    ASSERT_EQ(moved, missing);
    ASSERT_EQ((*part)->ReleaseAllBut(Regions({1, 2})), absl::OkStatus());
    ASSERT_EQ(PackBytes(), want);
    const std::vector<std::string> names = *ListFiles(dir() + "/partial");
    for (const std::string& name : names)
      ASSERT_TRUE(name == "present" || name == "lock" || name == "incoming/") << name;
  }
  EXPECT_GT(begun, 10);
  EXPECT_GT(held_some, 10);
}

TEST_F(PartialCrash, WhatWasCommittedIsThereAfterAnyPowerCut) {
  const std::string root = temp_ / "disk", at = root + "/part";
  fs::create_directory(root);
  testing::DiskRecorder disk(root);
  ASSERT_EQ(StartFrom(whole_dir(), at), absl::OkStatus());
  {
    const auto part = PartialModel::Open(at);
    ASSERT_TRUE(part.ok()) << part.status();
    disk.Promise("");
    ASSERT_EQ(CopyTiles(*whole_, **part, Regions({0}), 1000), absl::OkStatus());
    disk.Promise("0");
    ASSERT_EQ(CopyTiles(*whole_, **part, Regions({1}), 1000), absl::OkStatus());
    disk.Promise("1");
    ASSERT_EQ((*part)->ReleaseAllBut(Regions({1})), absl::OkStatus());
    ASSERT_EQ(CopyTiles(*whole_, **part, Regions({2}), 1000), absl::OkStatus());
    disk.Promise("2");
  }
  disk.Stop();
  const auto check = [&](const std::string& dir, const std::vector<std::string>& promises) -> std::string {
    std::optional<std::vector<RegionId>> held;
    if (std::string problem = Problem(dir + "/part", &held); !problem.empty()) return problem;
    if (promises.empty()) return "";
    if (!held.has_value()) return "the part of a model is gone";
    for (size_t i = 1; i < promises.size(); ++i) {
      const RegionId region(std::stoi(promises[i]));
      const bool released = region == RegionId(0) && promises.size() > 2;
      if (!released && std::count(held->begin(), held->end(), region) == 0)
        return absl::StrCat("region ", region.value, " is gone");
    }
    return "";
  };
  EXPECT_THAT(ProblemsAfterCuts(disk, temp_ / "scratch", check), IsEmpty());
  // And none of the syncs of tiles and record could be left out.
  const auto asked = [&](size_t step) {
    return disk.steps()[step].path.find("/tiles-") != std::string::npos ||
           disk.steps()[step].path.find("/partial") != std::string::npos;
  };
  EXPECT_THAT(NeedlessSyncs(disk, temp_ / "scratch", check, asked), IsEmpty());
}

}  // namespace
}  // namespace omni
