#include "store/file/atomic_dir.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <functional>
#include <vector>

#include <absl/strings/str_cat.h>

#include "tests/testing/file_calls.h"
#include "tests/testing/file_names.h"
#include "tests/testing/temp_dir.h"

namespace omni {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::Names;
using testing::TempDir;
using ::testing::UnorderedElementsAre;

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
    ASSERT_TRUE((*out)->Commit().ok());
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
  Put(temp / "m.lock");
  // Numbers mean nothing: this one is also that of a living process.
  const std::string stale = absl::StrCat(temp / "m.tmp-", ::getppid());
  fs::create_directory(stale);
  Put(stale + "/file");
  fs::create_directory(temp / "m.tmp-notes");
  Put(temp / "m.tmp-7");
  auto out = AtomicDir::Begin(temp / "m");
  ASSERT_TRUE(out.ok()) << out.status();
  EXPECT_FALSE(fs::exists(stale));
  EXPECT_TRUE(fs::exists(temp / "m.tmp-notes"));
  EXPECT_TRUE(fs::exists(temp / "m.tmp-7"));  // a file is nothing that this makes
}

TEST(AtomicDir, WhatALivingWriterHoldsIsLeftAlone) {
  TempDir temp;
  auto first = AtomicDir::Begin(temp / "m");
  ASSERT_TRUE(first.ok());
  Put((*first)->path() + "/file");
  fs::remove(temp / "m.lock");  // by somebody who thought it was stale
  auto second = AtomicDir::Begin(temp / "m");
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_TRUE(fs::exists((*first)->path() + "/file"));
  EXPECT_NE((*first)->path(), (*second)->path());
}

TEST(AtomicDir, WhatAWriterOfTheSameKeyLeftIsGoneOnWith) {
  TempDir temp;
  std::string left;
  {
    auto out = AtomicDir::Begin(temp / "m", "key");
    ASSERT_TRUE(out.ok()) << out.status();
    left = (*out)->path();
    fs::create_directory(left + "/packs");
    Put(left + "/packs/file");
    Put(left + "/manifest");
    EXPECT_THAT(AtomicDir::Begin(temp / "m", "key").status().message(), HasSubstr("another process"));
  }
  {
    auto out = AtomicDir::Begin(temp / "m", "key");
    ASSERT_TRUE(out.ok()) << out.status();
    EXPECT_EQ((*out)->path(), left);
    EXPECT_TRUE(fs::exists(left + "/packs/file"));
    EXPECT_FALSE(fs::exists(left + "/manifest"));
  }
  EXPECT_THAT(Names(temp.path()), ElementsAre(fs::path(left).filename())) << "it stays for the next";
  ASSERT_TRUE(AtomicDir::Begin(temp / "m", "another key").ok());
  EXPECT_FALSE(fs::exists(left));
}

// In a child with namespaces of its own. 77: there are none to be had.
int InNamespaces(const std::function<int()>& body) {
  const pid_t child = ::fork();
  if (child == 0) {
    if (::unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0 ||
        ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
      ::_exit(77);
    }
    ::_exit(body());
  }
  int status = 0;
  return ::waitpid(child, &status, 0) == child && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST(AtomicDir, RefusesAMountPointBeforeAnythingIsWritten) {
  for (const bool bind : {false, true}) {
    TempDir temp;
    const std::string dir = temp / "m";
    fs::create_directory(dir);
    fs::create_directory(temp / "other");
    const int result = InNamespaces([&] {
      const int mounted = bind ? ::mount((temp / "other").c_str(), dir.c_str(), nullptr, MS_BIND, nullptr)
                               : ::mount("none", dir.c_str(), "tmpfs", 0, nullptr);
      if (mounted != 0) return 77;
      const std::string message(AtomicDir::Begin(dir).status().message());
      std::ofstream(temp / "message") << message;
      return 0;
    });
    if (result == 77) GTEST_SKIP() << "no user and mount namespace to be had, or no mount in it";
    ASSERT_EQ(result, 0);
    std::string message;
    std::getline(std::ifstream(temp / "message"), message);
    EXPECT_THAT(message, HasSubstr(dir + ": is a mount point"));
    EXPECT_THAT(message, HasSubstr("give a directory inside it, such as " + dir + "/model"));
    EXPECT_THAT(Names(temp.path()), UnorderedElementsAre("m", "other", "message"));
  }
}

class RefuseRename : public testing::FileWatcher {
 public:
  explicit RefuseRename(int error) : error_(error) {}
  int Before(const testing::FileCall& call) override {
    return call.kind == testing::FileCall::Kind::kRename ? error_ : 0;
  }

 private:
  int error_;
};

TEST(AtomicDir, RefusesADirectoryThatMayNotBeReplacedBeforeAnythingIsWritten) {
  TempDir temp;
  fs::create_directory(temp / "m");
  for (const int error : {EPERM, EACCES, EBUSY, EROFS}) {  // another user's in a sticky folder, ...
    RefuseRename refuse(error);
    const testing::WatchFiles watch(refuse);
    EXPECT_THAT(MessageOf(temp / "m"), HasSubstr("m: cannot replace the empty directory: ")) << error;
    EXPECT_THAT(Names(temp.path()), ElementsAre("m"));
  }
  RefuseRename cannot(EINVAL);  // a file system that knows no exchange
  const testing::WatchFiles watch(cannot);
  EXPECT_EQ(MessageOf(temp / "m"), "");
}

TEST(AtomicDir, ReplacesAnEmptyDirectoryAndNothingElse) {
  TempDir temp;
  fs::create_directory(temp / "empty");
  {
    auto out = AtomicDir::Begin((temp / "empty") + "/");
    ASSERT_TRUE(out.ok()) << out.status();
    Put((*out)->path() + "/file");
    ASSERT_TRUE((*out)->Commit().ok());
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
