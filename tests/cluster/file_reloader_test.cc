// Files that change while they are in use, on a clock that the test sets.
#include "cluster/file_reloader.h"

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/testing/temp_dir.h"

namespace omni {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::ElementsAre;

class FileReloaderTest : public ::testing::Test {
 protected:
  void SetUp() override {
    Write("a", "1");
    Write("b", "1");
  }
  void Open() {
    reloader_ = std::make_unique<FileReloader>(
        std::vector<std::string>{dir_ / "a", dir_ / "b"}, [this] { return Read(); },
        [this](const absl::Status& why) { failed_.emplace_back(why.message()); }, [this] { return ticks_; });
    ASSERT_TRUE(reloader_->Open().ok());
    reads_ = 0;
  }
  absl::Status Read() {
    ++reads_;
    std::string text;
    for (const char* name : {"a", "b"}) {
      std::string one;
      if (!(std::ifstream(dir_ / name) >> one)) return absl::NotFoundError(std::string("no ") + name);
      text += one;
    }
    if (!now_.ok()) return now_;
    taken_ = text;
    return absl::OkStatus();
  }
  void Write(const std::string& name, const std::string& text) {
    std::ofstream(dir_ / "new") << text;
    std::filesystem::rename(dir_ / "new", dir_ / name);
  }
  void Look(milliseconds after = seconds(1)) {
    ticks_ += after;
    reloader_->Look();
  }

  const testing::TempDir dir_;
  std::chrono::steady_clock::time_point ticks_{seconds(100)};
  absl::Status now_;  // what is wrong at the moment
  int reads_ = 0;
  std::string taken_;
  std::vector<std::string> failed_;
  std::unique_ptr<FileReloader> reloader_;
};

TEST_F(FileReloaderTest, WhatHasChangedIsTakenWithinASecond) {
  Open();
  EXPECT_EQ(taken_, "11");
  Write("b", "2");
  Look(milliseconds(999));
  EXPECT_EQ(taken_, "11");
  Look(milliseconds(1));
  EXPECT_EQ(taken_, "12");
  Write("a", "3");
  Look(milliseconds(0));
  EXPECT_EQ(taken_, "12");
  Look();
  EXPECT_EQ(taken_, "32");
  for (int i = 0; i < 5; ++i) Look();
  EXPECT_EQ(reads_, 2);
  EXPECT_TRUE(failed_.empty());
}

TEST_F(FileReloaderTest, WhatCannotBeTakenNowIsTriedAgainThoughItDoesNotChange) {
  Open();
  Write("a", "2");
  now_ = absl::UnavailableError("too many open files");
  for (int i = 0; i < 3; ++i) Look();
  EXPECT_EQ(taken_, "11");
  EXPECT_EQ(reads_, 3);
  EXPECT_THAT(failed_, ElementsAre("too many open files"));
  now_ = absl::OkStatus();
  Look();
  EXPECT_EQ(taken_, "21");
  Look();
  EXPECT_EQ(reads_, 4);
}

TEST_F(FileReloaderTest, AnotherReasonIsToldAndTheSameOneAgainAfterAllWasWell) {
  Open();
  std::filesystem::remove(dir_ / "a");
  Look();
  Look();
  Write("a", "1");
  now_ = absl::UnavailableError("not now");
  Look();
  Look();
  EXPECT_THAT(failed_, ElementsAre("no a", "not now"));
  now_ = absl::OkStatus();
  Look();
  now_ = absl::UnavailableError("not now");
  Write("b", "2");
  Look();
  EXPECT_THAT(failed_, ElementsAre("no a", "not now", "not now"));
}

TEST_F(FileReloaderTest, FilesThatAreTheOldOnesAgainAreNotRead) {
  Open();
  std::filesystem::rename(dir_ / "a", dir_ / "aside");
  Look();
  std::filesystem::rename(dir_ / "aside", dir_ / "a");
  Look();
  EXPECT_EQ(reads_, 1);
  std::filesystem::rename(dir_ / "a", dir_ / "aside");
  Look();
  EXPECT_THAT(failed_, ElementsAre("no a", "no a"));
}

TEST_F(FileReloaderTest, WhatIsWrongAtTheStartIsTheCallersToSay) {
  std::filesystem::remove(dir_ / "b");
  FileReloader reloader(
      {dir_ / "a", dir_ / "b"}, [this] { return Read(); },
      [this](const absl::Status& why) { failed_.emplace_back(why.message()); });
  EXPECT_TRUE(absl::IsNotFound(reloader.Open()));
  EXPECT_TRUE(failed_.empty());
}

TEST_F(FileReloaderTest, ManyMayLookWhileItIsReadByOne) {
  std::atomic<int64_t> now{0};
  std::atomic<int> reading{0}, most{0}, reads{0};
  FileReloader reloader(
      {dir_ / "a"},
      [&] {
        most = std::max<int>(most, ++reading);
        ++reads;
        --reading;
        return absl::OkStatus();
      },
      nullptr, [&] { return std::chrono::steady_clock::time_point(seconds(now += 2)); });
  ASSERT_TRUE(reloader.Open().ok());
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&](const std::stop_token& stop) {
        while (!stop.stop_requested()) reloader.Look();
      });
    }
    for (int i = 0; i < 50; ++i) Write("a", std::to_string(i));
  }
  reloader.Look();
  EXPECT_EQ(most, 1);
  EXPECT_GE(reads, 2);
}

}  // namespace
}  // namespace omni
