// What a program can do to its folder, so that nobody sees what is in it or gets rid of it.
#include "cluster/tasks/walk_folder.h"

#include <fcntl.h>
#include <grp.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include <gmock/gmock.h>

#include "tests/testing/temp_dir.h"

namespace omni {
namespace {

using ::testing::UnorderedElementsAre;

// As a user whom permissions bind. What it returns is 0 if all is well.
int AsNobody(const std::string& folder, const std::function<int()>& deed) {
  constexpr uid_t kNobody = 65534;
  const pid_t child = ::fork();
  if (child == 0) {
    if (::geteuid() == 0 && (::chown(folder.c_str(), kNobody, kNobody) != 0 || ::setgroups(0, nullptr) != 0 ||
                             ::setgid(kNobody) != 0 || ::setuid(kNobody) != 0))
      ::_exit(100);
    ::_exit(deed());
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 101;
}

class WalkFolderTest : public ::testing::Test {
 protected:
  // Others may go through it.
  void SetUp() override { ASSERT_EQ(::chmod(temp_.path().c_str(), 0755), 0); }
  testing::TempDir temp_;
};

TEST_F(WalkFolderTest, FoldersThatMayNotBeReadCountAndGo) {
  const std::string work = temp_ / "work";
  std::filesystem::create_directory(work);
  EXPECT_EQ(AsNobody(work,
                     [&] {
                       std::filesystem::create_directories(work + "/a/b");
                       std::ofstream(work + "/a/b/large") << std::string(1 << 20, 'x');
                       ::chmod((work + "/a/b").c_str(), 0);
                       ::chmod((work + "/a").c_str(), 0);
                       if (FolderBytes(work) < 1 << 20) return 1;
                       ::chmod((work + "/a/b").c_str(), 0300);
                       ::chmod((work + "/a").c_str(), 0400);
                       ::chmod(work.c_str(), 0);
                       if (FolderBytes(work) < 1 << 20) return 2;
                       ::chmod((work + "/a").c_str(), 0);
                       ::chmod(work.c_str(), 0);
                       RemoveFolder(work);  // but for itself, whose own folder is another's
                       ::chmod(work.c_str(), 0700);
                       return std::filesystem::is_empty(work) ? 0 : 3;
                     }),
            0);
  RemoveFolder(work);
  EXPECT_FALSE(std::filesystem::exists(work));
}

TEST_F(WalkFolderTest, LinksAreNotFollowed) {
  const std::string work = temp_ / "work", other = temp_ / "other";
  std::filesystem::create_directories(work + "/a");
  std::filesystem::create_directories(other);
  std::ofstream(other + "/file") << std::string(1 << 20, 'x');
  std::filesystem::create_symlink(other, work + "/a/link");
  std::vector<std::string> seen;
  EXPECT_TRUE(WalkFolder(work, [&](const FolderEntry& entry) {
                seen.push_back(entry.path);
                return absl::OkStatus();
              }).ok());
  EXPECT_THAT(seen, UnorderedElementsAre("a", "a/link"));
  EXPECT_LT(FolderBytes(work), 1 << 20);
  EXPECT_FALSE(WalkFolder(work + "/a/link", [](const FolderEntry&) { return absl::OkStatus(); }).ok());
  RemoveFolder(work + "/a/link");
  RemoveFolder(work);
  EXPECT_FALSE(std::filesystem::exists(work));
  EXPECT_TRUE(std::filesystem::exists(other + "/file"));
}

TEST_F(WalkFolderTest, ADepthThatNobodyNeedsCountsAsFullAndIsRemoved) {
  const std::string work = temp_ / "work";
  std::filesystem::create_directory(work);
  int at = ::open(work.c_str(), O_RDONLY | O_DIRECTORY);
  for (int depth = 0; depth < 3000; ++depth) {
    ASSERT_EQ(::mkdirat(at, "down", 0700), 0);
    const int below = ::openat(at, "down", O_RDONLY | O_DIRECTORY);
    ::close(at);
    at = below;
  }
  ::close(at);
  EXPECT_EQ(FolderBytes(work), std::numeric_limits<int64_t>::max());
  RemoveFolder(work);
  EXPECT_FALSE(std::filesystem::exists(work));
  EXPECT_EQ(FolderBytes(work), 0) << "there is none";
}

}  // namespace
}  // namespace omni
