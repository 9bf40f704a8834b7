#include "store/plan/disk_speed.h"

#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/testing/temp_dir.h"

namespace omni {
namespace {

using omni::testing::TempDir;
using std::chrono::milliseconds;
using ::testing::HasSubstr;

void WriteBytes(const std::string& path, size_t bytes) {
  std::ofstream(path, std::ios::binary) << std::string(bytes, 'x');
}

DiskSpeedOptions Short(int64_t block_bytes) {
  DiskSpeedOptions options;
  options.block_bytes = block_bytes;
  options.reads_in_flight = 4;
  options.limit = milliseconds(20);
  return options;
}

TEST(DiskSpeedTest, MeasuresAFileAndADirectory) {
  const TempDir dir;
  std::filesystem::create_directory(dir / "packs");
  WriteBytes(dir / "packs/tiles-000.bin", 300'000);
  WriteBytes(dir / "packs/tiles-001.bin", 70'001);
  WriteBytes(dir / "short", 10);
  for (const std::string& path : {dir / "packs/tiles-000.bin", dir.path()}) {
    const absl::StatusOr<DiskSpeed> speed = MeasureDiskSpeed(path, Short(9'000));
    ASSERT_TRUE(speed.ok()) << speed.status();
    EXPECT_GT(speed->random_bytes_per_s, 0);
    EXPECT_GT(speed->sequential_bytes_per_s, 0);
    EXPECT_EQ(speed->block_bytes, 12'288);
    EXPECT_EQ(speed->reads_in_flight, 4);
    EXPECT_EQ(speed->span_bytes, path == dir.path() ? 370'001 : 300'000);
    EXPECT_EQ(speed->direct, *ReadsDirectly(path));
  }
}

TEST(DiskSpeedTest, TakesNoLongerThanItsLimits) {
  const TempDir dir;
  WriteBytes(dir / "file", 1 << 20);
  const auto start = std::chrono::steady_clock::now();
  ASSERT_TRUE(MeasureDiskSpeed(dir / "file", Short(4096)).ok());
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));
}

TEST(DiskSpeedTest, ErrorsNameThePathAndTheReason) {
  const TempDir dir;
  WriteBytes(dir / "short", 4095);
  EXPECT_THAT(MeasureDiskSpeed(dir / "nowhere", Short(4096)).status().message(), HasSubstr("nowhere"));
  EXPECT_THAT(ReadsDirectly(dir / "nowhere").status().message(), HasSubstr("nowhere"));
  for (const std::string& path : {dir / "short", dir.path()}) {
    const absl::Status status = MeasureDiskSpeed(path, Short(1)).status();
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
    EXPECT_THAT(status.message(), HasSubstr(path + ": holds no readable file of 4096 bytes"));
  }
}

TEST(DiskSpeedTest, WhatIsNoFileIsLeftOut) {
  const TempDir dir;
  ASSERT_EQ(mkfifo((dir / "pipe").c_str(), 0600), 0);
  EXPECT_TRUE(absl::IsFailedPrecondition(MeasureDiskSpeed(dir / "pipe", Short(4096)).status()));
}

TEST(DiskSpeedTest, WhereLittleMemoryIsFreeItCannotBeMeasured) {
  const TempDir dir;
  WriteBytes(dir / "file", 10'000);
  DiskSpeedOptions options = Short(4096);
  options.free_bytes = int64_t{127} << 20;
  const absl::Status status = MeasureDiskSpeed(dir / "file", options).status();
  EXPECT_TRUE(absl::IsResourceExhausted(status));
  EXPECT_EQ(status.message(), "cannot be measured: that takes 64 MiB of memory, and only 127 are free");
  options.free_bytes = int64_t{128} << 20;
  EXPECT_TRUE(MeasureDiskSpeed(dir / "file", options).ok());
}

}  // namespace
}  // namespace omni
