#include "tests/testing/power_cut.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest-spi.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "tests/testing/temp_dir.h"

namespace omni::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

// Replaces `dir`/file as told, and promises that it holds "new".
struct Steps {
  bool sync_file = true, sync_folder = true, sync_again = false;
};

void Sync(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY);
  ASSERT_EQ(::fsync(fd), 0);
  ::close(fd);
}

void Replace(DiskRecorder& disk, const std::string& dir, const Steps& steps) {
  const std::string fresh = dir + "/fresh";
  const int fd = ::open(fresh.c_str(), O_WRONLY | O_CREAT | O_EXCL, 0644);
  ASSERT_EQ(::write(fd, "ne", 2), 2);
  ASSERT_EQ(::write(fd, "w", 1), 1);
  if (steps.sync_file) {
    ASSERT_EQ(::fsync(fd), 0);
  }
  ::close(fd);
  ASSERT_EQ(::rename(fresh.c_str(), (dir + "/file").c_str()), 0);
  if (steps.sync_folder) Sync(dir);
  if (steps.sync_again) Sync(dir);
  disk.Promise("new");
}

std::string Check(const std::string& dir, const std::vector<std::string>& promises) {
  std::string text;
  std::getline(std::ifstream(dir + "/file"), text);
  if (text == "new" || (promises.empty() && text == "old")) return "";
  return "the file holds '" + text + "'";
}

class PowerCut : public ::testing::Test {
 protected:
  void Run(const Steps& steps) {
    fs::create_directory(temp_ / "d");
    std::ofstream(temp_ / "d/file") << "old";
    DiskRecorder disk(temp_ / "d");
    Replace(disk, temp_ / "d", steps);
    disk.Stop();
    problems_ = ProblemsAfterCuts(disk, memory_ / "scratch", Check);
    needless_ = NeedlessSyncs(disk, memory_ / "scratch", Check);
  }

  TempDir temp_, memory_ = TempDir::InMemory();
  std::vector<std::string> problems_, needless_;
};

TEST_F(PowerCut, FindsNothingWhereAllIsSynced) {
  Run({});
  EXPECT_THAT(problems_, IsEmpty());
  EXPECT_THAT(needless_, IsEmpty());
}

TEST_F(PowerCut, EmptiesOrTearsAFileThatIsRenamedBeforeItIsSynced) {
  Run({.sync_file = false});
  EXPECT_THAT(problems_, Contains(HasSubstr("holds ''")));
  EXPECT_THAT(problems_, Contains(HasSubstr("only the last write kept")));
}

TEST_F(PowerCut, LosesARenameWhoseFolderIsNotSynced) {
  Run({.sync_folder = false});
  EXPECT_THAT(problems_, Contains(HasSubstr("holds 'old'")));
  EXPECT_THAT(problems_, Not(Contains(HasSubstr("holds ''"))));
}

TEST_F(PowerCut, NamesASyncThatNothingNeeds) {
  Run({.sync_again = true});
  EXPECT_THAT(problems_, IsEmpty());
  EXPECT_EQ(needless_.size(), 2u) << "each of the two syncs of the folder makes the other needless";
}

TEST_F(PowerCut, ANewFolderAndWhatIsInItAreLostSeparately) {
  fs::create_directory(temp_ / "d");
  DiskRecorder disk(temp_ / "d");
  fs::create_directory(temp_ / "d/sub");
  const int fd = ::open((temp_ / "d/sub/file").c_str(), O_WRONLY | O_CREAT, 0644);
  ASSERT_EQ(::write(fd, "x", 1), 1);
  ASSERT_EQ(::fsync(fd), 0);
  ::close(fd);
  Sync(temp_ / "d");
  disk.Stop();
  std::vector<std::string> states;
  ForEachCut(disk, std::nullopt, [&](const CutState& state) {
    if (state.steps < disk.steps().size()) return false;
    std::string& names = states.emplace_back();
    for (const auto& [path, bytes] : state.tree) names += path + " ";
    return true;
  });
  EXPECT_THAT(states, ElementsAre("sub sub/file ", "sub "));
}

TEST_F(PowerCut, SeesFoldersRemovedFilesCutAndNamesExchanged) {
  fs::create_directories(temp_ / "d/a/b");
  std::ofstream(temp_ / "d/a/b/file") << "12345";
  std::ofstream(temp_ / "d/long") << "12345";
  fs::create_directory(temp_ / "d/c");
  DiskRecorder disk(temp_ / "d");
  ASSERT_EQ(
      ::renameat2(AT_FDCWD, (temp_ / "d/a").c_str(), AT_FDCWD, (temp_ / "d/c").c_str(), RENAME_EXCHANGE), 0);
  fs::remove_all(temp_ / "d/c");
  fs::resize_file(temp_ / "d/long", 2);
  const int fd = ::open((temp_ / "d/long").c_str(), O_WRONLY | O_TRUNC);
  ASSERT_EQ(::write(fd, "x", 1), 1);
  ASSERT_EQ(::ftruncate(fd, 7), 0);
  ::close(fd);
  disk.Stop();  // compares
}

TEST_F(PowerCut, SaysSoWhenACallWasNotSeen) {
  fs::create_directory(temp_ / "d");
  EXPECT_NONFATAL_FAILURE(
      {
        DiskRecorder disk(temp_ / "d");
        std::FILE* file = std::fopen((temp_ / "d/file").c_str(), "w");
        std::fclose(file);
        disk.Stop();
      },
      "the recorded calls make");
}

class RefuseWrites : public FileWatcher {
 public:
  int Before(const FileCall& call) override { return call.kind == FileCall::Kind::kWrite ? ENOSPC : 0; }
};

TEST(WatchFiles, RefusesACallOfTheCxxLibraryToo) {
  TempDir temp;
  RefuseWrites full;
  const WatchFiles watch(full);
  std::ofstream out(temp / "f");
  out << "x";
  out.flush();
  EXPECT_FALSE(out.good());
}

}  // namespace
}  // namespace omni::testing
