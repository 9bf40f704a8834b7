#include "store/state/state_dir.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <nlohmann/json.hpp>
#include <thread>

#include "store/state/state_file.h"
#include "tests/testing/power_cut.h"
#include "tests/testing/recording_log.h"
#include "tests/testing/temp_dir.h"

namespace omni {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using testing::FileCall;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::RecordingLog;
using testing::TempDir;

const RoutingCounts kRun = {2, 3, {1, 0, 2, 0, 0, 4}};

std::string Text(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

std::vector<int64_t> Rows(const std::string& path) {
  const auto json = nlohmann::json::parse(Text(path), nullptr, false);
  return json.is_object() ? json.value("rows", std::vector<int64_t>()) : std::vector<int64_t>();
}

class StateDirTest : public ::testing::Test {
 protected:
  absl::Status Add() const { return AddRoutingCounts(temp_ / "state", "abc", kRun); }
  void Put(const std::string& text) const {
    std::ofstream(path_, std::ios::binary | std::ios::trunc) << text;
  }

  TempDir temp_, memory_ = TempDir::InMemory();
  std::string path_ = temp_ / "state/routing-abc.json";
};

TEST_F(StateDirTest, CountsAddUp) {
  const RecordingLog log;
  ASSERT_TRUE(Add().ok());
  ASSERT_TRUE(Add().ok());
  EXPECT_THAT(Rows(path_), ElementsAre(2, 0, 4, 0, 0, 8));
  EXPECT_THAT(log.lines(), IsEmpty());
}

TEST_F(StateDirTest, RunsAtTheSameTimeLoseNothing) {
  constexpr int kRuns = 20;
  std::vector<std::thread> runs;
  for (int i = 0; i < 4; ++i) {
    runs.emplace_back([this] {
      for (int j = 0; j < kRuns / 4; ++j) EXPECT_TRUE(Add().ok());
    });
  }
  for (std::thread& run : runs) run.join();
  EXPECT_THAT(Rows(path_), ElementsAre(kRuns, 0, 2 * kRuns, 0, 0, 4 * kRuns));
}

TEST_F(StateDirTest, ADamagedFileIsMovedAsideSaidAndCountedAnew) {
  ASSERT_TRUE(Add().ok());
  const std::string good = Text(path_);
  nlohmann::json negative = nlohmann::json::parse(good), many = negative, other = negative;
  negative["rows"][0] = -1;
  many["rows"][0] = INT64_MAX;  // one more run would overflow it
  other["experts"] = 4;
  const std::string damaged[] = {"",
                                 good.substr(0, good.size() / 2),
                                 std::string(100, '\0'),
                                 std::string(1 << 20, '['),
                                 std::string(1 << 20, ' ') + good,
                                 "[]",
                                 "{}",
                                 "null",
                                 R"({"layers": 2, "experts": 3, "rows": 7})",
                                 R"({"layers": 2, "experts": 3, "rows": [1, 2]})",
                                 R"({"layers": 2, "experts": 3, "rows": [1, 2, 3, 4, 5, "6"]})",
                                 negative.dump(),
                                 many.dump(),
                                 other.dump()};
  for (const std::string& text : damaged) {
    Put(text);
    const RecordingLog log;
    ASSERT_TRUE(Add().ok());
    EXPECT_THAT(Rows(path_), ElementsAre(1, 0, 2, 0, 0, 4)) << text.substr(0, 80);
    EXPECT_THAT(log.Messages("state_file_damaged"),
                ElementsAre(AllOf(HasSubstr(path_ + " was damaged"), HasSubstr(path_ + ".damaged"))));
    EXPECT_EQ(Text(path_ + ".damaged"), text);
  }
}

TEST_F(StateDirTest, APipeOrFolderInItsPlaceIsMovedAsideToo) {
  fs::create_directories(path_ + "/sub");
  ASSERT_TRUE(Add().ok());
  EXPECT_TRUE(fs::is_directory(path_ + ".damaged/sub"));
  fs::remove(path_);
  ASSERT_EQ(::mkfifo(path_.c_str(), 0600), 0);
  ASSERT_TRUE(Add().ok());
  EXPECT_TRUE(fs::is_fifo(path_ + ".damaged"));
  EXPECT_THAT(Rows(path_), ElementsAre(1, 0, 2, 0, 0, 4));
}

class RefuseOpens : public testing::FileWatcher {
 public:
  RefuseOpens(std::string path, int error) : path_(std::move(path)), error_(error) {}
  int Before(const FileCall& call) override {
    return call.kind == FileCall::Kind::kOpen && call.path == path_ ? error_ : 0;
  }

 private:
  std::string path_;
  int error_;
};

TEST_F(StateDirTest, WhatCannotBeReadIsNotTakenForDamaged) {
  ASSERT_TRUE(Add().ok());
  for (const int error : {EACCES, EMFILE, EIO}) {
    const RecordingLog log;
    RefuseOpens refuse(path_, error);
    const testing::WatchFiles watch(refuse);
    const absl::Status status = Add();
    EXPECT_THAT(std::string(status.message()), HasSubstr("routing-abc.json: cannot open: "));
    EXPECT_FALSE(absl::IsDataLoss(status));
    EXPECT_THAT(log.lines(), IsEmpty());
  }
  EXPECT_THAT(Rows(path_), ElementsAre(1, 0, 2, 0, 0, 4));
}

TEST_F(StateDirTest, APlaceThatCannotBeWrittenIsNamed) {
  std::ofstream(temp_ / "file") << "x";
  const absl::Status status = AddRoutingCounts(temp_ / "file/state", "abc", kRun);
  EXPECT_THAT(std::string(status.message()), HasSubstr("file/state: cannot create the directory"));
}

TEST_F(StateDirTest, APowerCutLeavesTheOldCountsOrTheNewAndEverySyncIsNeeded) {
  fs::create_directory(temp_ / "state");
  ASSERT_TRUE(Add().ok());
  testing::DiskRecorder disk(temp_ / "state");
  ASSERT_TRUE(Add().ok());
  disk.Promise("2");
  ASSERT_TRUE(Add().ok());
  disk.Promise("3");
  disk.Stop();
  const auto check = [](const std::string& dir, const std::vector<std::string>& promises) -> std::string {
    const std::vector<int64_t> rows = Rows(dir + "/routing-abc.json");
    if (rows.size() != 6) return "damaged";
    const int64_t promised = promises.empty() ? 1 : std::stoll(promises.back());
    return rows[0] >= promised && rows[5] == 4 * rows[0] ? "" : "counts are lost";
  };
  EXPECT_THAT(ProblemsAfterCuts(disk, memory_ / "scratch", check), IsEmpty());
  EXPECT_THAT(NeedlessSyncs(disk, memory_ / "scratch", check), IsEmpty());
}

TEST(ReadStateFile, GivesTheObjectOrNullWhereThereIsNone) {
  TempDir temp;
  const auto any = [](const nlohmann::json&) { return true; };
  const auto none = ReadStateFile(temp / "f", 100, any);
  ASSERT_TRUE(none.ok());
  EXPECT_TRUE(none->is_null());
  std::ofstream(temp / "f") << R"({"a": 1})";
  EXPECT_EQ(*ReadStateFile(temp / "f", 100, any), (nlohmann::json{{"a", 1}}));
}

}  // namespace
}  // namespace omni
