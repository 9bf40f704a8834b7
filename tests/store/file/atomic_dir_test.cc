#include "store/file/atomic_dir.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "tests/testing/temp_dir.h"

namespace omni {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::TempDir;

std::vector<std::string> Names(const std::string& dir) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(dir)) names.push_back(entry.path().filename());
  return names;
}

std::string MessageOf(const std::string& dir) {
  return std::string(AtomicDir::Begin(dir).status().message());
}

void Put(const std::string& path) { std::ofstream(path) << "x"; }

TEST(AtomicDir, AppearsOnlyWhenCommitted) {
  TempDir temp;
  {
    auto out = AtomicDir::Begin(temp / "m");
    ASSERT_TRUE(out.ok()) << out.status();
    Put((*out)->path() + "/file");
    EXPECT_FALSE(fs::exists(temp / "m"));
    ASSERT_TRUE((*out)->Commit({}).ok());
    EXPECT_TRUE(fs::exists(temp / "m/file"));
  }
  EXPECT_THAT(Names(temp.path()), ElementsAre("m"));
}

TEST(AtomicDir, LeavesNothingBehindWithoutACommit) {
  TempDir temp;
  {
    auto out = AtomicDir::Begin(temp / "m");
    ASSERT_TRUE(out.ok()) << out.status();
    Put((*out)->path() + "/file");
  }
  EXPECT_THAT(Names(temp.path()), IsEmpty());
}

TEST(AtomicDir, RefusesASecondWriterAndNamesTheLock) {
  TempDir temp;
  auto first = AtomicDir::Begin(temp / "m");
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_THAT(MessageOf(temp / "m"),
              HasSubstr("another process is writing it (it holds " + (temp / "m.lock")));
  EXPECT_TRUE(AtomicDir::Begin(temp / "other").ok());
  first->reset();
  EXPECT_TRUE(AtomicDir::Begin(temp / "m").ok());
}

TEST(AtomicDir, TakesTheLockOfADeadWriterAndRemovesItsTemporaries) {
  TempDir temp;
  const pid_t child = ::fork();
  if (child == 0) ::_exit(0);
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  Put(temp / "m.lock");
  const std::string stale = (temp / "m.tmp-") + std::to_string(child);
  fs::create_directory(stale);
  Put(stale + "/file");
  const std::string alive = (temp / "m.tmp-") + std::to_string(::getppid());
  fs::create_directory(alive);
  fs::create_directory(temp / "m.tmp-notes");
  auto out = AtomicDir::Begin(temp / "m");
  ASSERT_TRUE(out.ok()) << out.status();
  EXPECT_FALSE(fs::exists(stale));
  EXPECT_TRUE(fs::exists(alive));
  EXPECT_TRUE(fs::exists(temp / "m.tmp-notes"));
}

TEST(AtomicDir, ReplacesAnEmptyDirectoryAndNothingElse) {
  TempDir temp;
  fs::create_directory(temp / "empty");
  {
    auto out = AtomicDir::Begin((temp / "empty") + "/");
    ASSERT_TRUE(out.ok()) << out.status();
    Put((*out)->path() + "/file");
    ASSERT_TRUE((*out)->Commit({}).ok());
  }
  EXPECT_TRUE(fs::exists(temp / "empty/file"));
  EXPECT_THAT(MessageOf(temp / "empty"), HasSubstr("exists and is not empty"));
  Put(temp / "file");
  EXPECT_THAT(MessageOf(temp / "file"), HasSubstr("is not a directory"));
  EXPECT_THAT(MessageOf(temp / "no/such/parent"), HasSubstr("cannot create the lock file"));
  EXPECT_FALSE(AtomicDir::Begin("").ok());
  EXPECT_FALSE(AtomicDir::Begin("/").ok());
}

}  // namespace
}  // namespace omni
