#include "store/plan/speeds.h"

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/testing/recording_log.h"
#include "tests/testing/temp_dir.h"

namespace omni {
namespace {

using omni::testing::TempDir;

constexpr int64_t kNow = 1'800'000'000, kDay = 24 * 3600;

MemorySpeed SomeMemory() {
  MemorySpeed speed;
  speed.bytes_per_s = 2.5e10;
  speed.threads = 4;
  speed.buffer_bytes = 1 << 28;
  return speed;
}

DiskSpeed SomeDisk() {
  DiskSpeed speed;
  speed.random_bytes_per_s = 1.5e9;
  speed.sequential_bytes_per_s = 2e9;
  speed.block_bytes = 8192;
  speed.reads_in_flight = 16;
  speed.span_bytes = 1000;
  speed.direct = true;
  return speed;
}

TEST(SpeedsTest, WhatIsKeptIsFound) {
  const TempDir dir;
  const SpeedFile file(dir / "new/folder/speeds.json", "cpu", kNow);
  EXPECT_FALSE(file.Memory(4));
  EXPECT_FALSE(file.Disk("8:1", 8192));
  ASSERT_TRUE(file.Keep(SomeMemory()).ok());
  ASSERT_TRUE(file.Keep("8:1", SomeDisk()).ok());
  const auto memory = file.Memory(4);
  ASSERT_TRUE(memory);
  EXPECT_EQ(memory->time, kNow);
  EXPECT_EQ(memory->speed.bytes_per_s, 2.5e10);
  EXPECT_EQ(memory->speed.buffer_bytes, 1 << 28);
  const auto disk = file.Disk("8:1", 8192);
  ASSERT_TRUE(disk);
  EXPECT_EQ(disk->speed.random_bytes_per_s, 1.5e9);
  EXPECT_EQ(disk->speed.sequential_bytes_per_s, 2e9);
  EXPECT_EQ(disk->speed.reads_in_flight, 16);
  EXPECT_TRUE(disk->speed.direct);
  // Nothing else lies beside it.
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir / "new/folder"), {}), 1);
}

TEST(SpeedsTest, AnotherCpuDeviceOrSettingIsNotFound) {
  const TempDir dir;
  const SpeedFile file(dir / "speeds.json", "cpu", kNow);
  ASSERT_TRUE(file.Keep(SomeMemory()).ok());
  ASSERT_TRUE(file.Keep("8:1", SomeDisk()).ok());
  EXPECT_FALSE(file.Memory(2));
  EXPECT_FALSE(file.Disk("8:2", 8192));
  EXPECT_FALSE(file.Disk("8:1", 4096));
  const SpeedFile other(dir / "speeds.json", "another cpu", kNow);
  EXPECT_FALSE(other.Memory(4));
  EXPECT_FALSE(other.Disk("8:1", 8192));
}

TEST(SpeedsTest, SpeedsAgeAndNoneComeFromTheFuture) {
  const TempDir dir;
  const std::string path = dir / "speeds.json";
  ASSERT_TRUE(SpeedFile(path, "cpu", kNow).Keep(SomeMemory()).ok());
  EXPECT_TRUE(SpeedFile(path, "cpu", kNow + 30 * kDay).Memory(4));
  EXPECT_FALSE(SpeedFile(path, "cpu", kNow + 30 * kDay + 1).Memory(4));
  EXPECT_FALSE(SpeedFile(path, "cpu", kNow - 1).Memory(4));
}

TEST(SpeedsTest, ADamagedFileIsIgnoredAndRewritten) {
  const TempDir dir;
  const std::string path = dir / "speeds.json";
  const SpeedFile file(path, "cpu", kNow);
  ASSERT_TRUE(file.Keep(SomeMemory()).ok());
  std::ifstream in(path);
  const std::string good((std::istreambuf_iterator<char>(in)), {});
  const std::string damaged[] = {"",
                                 "{",
                                 "[]",
                                 "null",
                                 "{}",
                                 std::string(1000, '['),
                                 R"({"format": "omni-speeds", "version": 1, "speeds": 7})",
                                 R"({"format": "omni-speeds", "version": 2, "speeds": {}})",
                                 good.substr(0, good.size() / 2),
                                 std::string(3 << 20, ' ')};
  for (const std::string& text : damaged) {
    std::ofstream(path, std::ios::trunc) << text;
    EXPECT_FALSE(file.Memory(4));
    EXPECT_FALSE(file.Disk("8:1", 8192));
    const testing::RecordingLog log;
    ASSERT_TRUE(file.Keep("8:1", SomeDisk()).ok());
    EXPECT_TRUE(file.Disk("8:1", 8192)) << text.substr(0, 60);
    EXPECT_THAT(log.Messages("state_file_damaged"), ::testing::SizeIs(1)) << text.substr(0, 60);
  }
}

TEST(SpeedsTest, DamagedEntriesAreIgnoredAlone) {
  const TempDir dir;
  const std::string path = dir / "speeds.json";
  const SpeedFile file(path, "cpu", kNow);
  ASSERT_TRUE(file.Keep("8:1", SomeDisk()).ok());
  ASSERT_TRUE(file.Keep(SomeMemory()).ok());
  std::ifstream in(path);
  const nlohmann::json good = nlohmann::json::parse(in);
  const std::pair<const char*, nlohmann::json> changes[] = {{"time", "today"},
                                                            {"time", -1},
                                                            {"bytes_per_s", "fast"},
                                                            {"bytes_per_s", 0},
                                                            {"bytes_per_s", -1},
                                                            {"cpu", 3},
                                                            {"buffer_bytes", nlohmann::json::array()}};
  for (const auto& [key, value] : changes) {
    nlohmann::json bad = good;
    bad["speeds"]["memory, 4 threads"][key] = value;
    std::ofstream(path, std::ios::trunc) << bad;
    EXPECT_FALSE(file.Memory(4)) << key;
    EXPECT_TRUE(file.Disk("8:1", 8192)) << key;
  }
}

TEST(SpeedsTest, NowhereToKeepIsAnErrorOnlyOfKeeping) {
  const TempDir dir;
  std::ofstream(dir / "file") << std::string(100'000, 'x');
  const testing::RecordingLog log;
  for (const std::string& path : {std::string(), dir / "file/speeds.json"}) {
    const SpeedFile file(path, "cpu", kNow);
    EXPECT_FALSE(file.Memory(4));
    EXPECT_FALSE(file.Keep(SomeMemory()).ok());
  }
  EXPECT_TRUE(log.lines().empty());  // whoever keeps them is told
  EXPECT_TRUE(CurrentDiskSpeed(SpeedFile("", "cpu", kNow), dir / "file", 4096, false).ok());
  EXPECT_THAT(
      log.Messages("speeds_not_kept"),
      ::testing::ElementsAre("measured speeds are not kept, and are measured again next time: there is "
                             "no state directory"));
}

TEST(SpeedsTest, ADiskIsMeasuredOnceUnlessRefreshed) {
  const TempDir dir;
  std::ofstream(dir / "data", std::ios::binary) << std::string(100'000, 'x');
  const SpeedFile file(dir / "speeds.json", "cpu", kNow);
  const auto first = CurrentDiskSpeed(file, dir / "data", 5000, false);
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_EQ(first->speed.block_bytes, 8192);
  const auto kept = CurrentDiskSpeed(file, dir / "data", 5000, false);
  ASSERT_TRUE(kept.ok()) << kept.status();
  EXPECT_EQ(kept->time, kNow);
  EXPECT_EQ(kept->speed.random_bytes_per_s, first->speed.random_bytes_per_s);
  const auto again = CurrentDiskSpeed(file, dir / "data", 5000, true);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_NE(again->speed.random_bytes_per_s, first->speed.random_bytes_per_s);
  EXPECT_FALSE(CurrentDiskSpeed(file, dir / "nowhere", 5000, false).ok());
}

}  // namespace
}  // namespace omni
