#include "engine/base/replace_file.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <thread>
#include <vector>

#include "tests/testing/file_names.h"
#include "tests/testing/power_cut.h"
#include "tests/testing/temp_dir.h"

namespace omni {
namespace {

namespace fs = std::filesystem;
using testing::DiskRecorder;
using ::testing::ElementsAre;
using testing::FileCall;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::Names;
using testing::TempDir;
using ::testing::UnorderedElementsAre;

std::string Text(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void Put(const std::string& path, const std::string& text) { std::ofstream(path, std::ios::binary) << text; }

TEST(ReplaceFile, MakesAndReplacesAndLeavesNothingBeside) {
  TempDir temp;
  ASSERT_TRUE(ReplaceFile(temp / "f", "one").ok());
  EXPECT_EQ(Text(temp / "f"), "one");
  ASSERT_TRUE(ReplaceFile(temp / "f", "").ok());
  EXPECT_EQ(Text(temp / "f"), "");
  EXPECT_THAT(Names(temp.path()), ElementsAre("f"));
}

TEST(ReplaceFile, IsNothingWithoutACommit) {
  TempDir temp;
  Put(temp / "f", "old");
  {
    auto file = FileReplacement::Begin(temp / "f");
    ASSERT_TRUE(file.ok() && file->Append("new").ok());
  }
  EXPECT_EQ(Text(temp / "f"), "old");
  EXPECT_THAT(Names(temp.path()), ElementsAre("f"));
}

TEST(ReplaceFile, KeepsTheModeOfWhatItReplacesAndFollowsLinks) {
  TempDir temp;
  fs::create_directory(temp / "d");
  Put(temp / "d/f", "old");
  ASSERT_EQ(::chmod((temp / "d/f").c_str(), 0640), 0);
  fs::create_symlink("d/f", temp / "link");
  ASSERT_TRUE(ReplaceFile(temp / "link", "new").ok());
  EXPECT_TRUE(fs::is_symlink(temp / "link"));
  EXPECT_EQ(Text(temp / "d/f"), "new");
  struct stat st {};
  ASSERT_EQ(::stat((temp / "d/f").c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 07777, 0640u);
  fs::create_symlink("made", temp / "dangling");
  ASSERT_TRUE(ReplaceFile(temp / "dangling", "new").ok());
  EXPECT_EQ(Text(temp / "made"), "new");
  fs::create_symlink("loop", temp / "loop");
  EXPECT_THAT(std::string(ReplaceFile(temp / "loop", "x").message()), HasSubstr("symbolic links"));
}

TEST(ReplaceFile, RefusesWhatIsNoFileAndSaysWhyItCannot) {
  TempDir temp;
  fs::create_directory(temp / "d");
  ASSERT_EQ(::mkfifo((temp / "fifo").c_str(), 0600), 0);
  for (const char* name : {"d", "fifo"}) {
    const absl::Status status = ReplaceFile(temp / name, "x");
    EXPECT_EQ(status.message(), (temp / name) + ": not a regular file; give another name");
  }
  EXPECT_THAT(std::string(ReplaceFile(temp / "no/such/f", "x").message()),
              HasSubstr("no/such/f: cannot write: No such file or directory"));
  EXPECT_THAT(Names(temp.path()), UnorderedElementsAre("d", "fifo"));
}

TEST(ReplaceFile, ALongNameIsNoProblem) {
  TempDir temp;
  const std::string name(255, 'x');
  ASSERT_TRUE(ReplaceFile(temp / name, "1").ok());
  EXPECT_THAT(Names(temp.path()), ElementsAre(name));
}

TEST(ReplaceFile, RemovesWhatDeadWritersLeftAndNothingElse) {
  TempDir temp;
  const pid_t child = ::fork();
  if (child == 0) {  // killed while it writes
    auto file = FileReplacement::Begin(temp / "f");
    if (file.ok() && file->Append("half").ok()) ::kill(::getpid(), SIGKILL);
    ::_exit(1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status));
  ASSERT_EQ(Names(temp.path()).size(), 1u);
  auto alive = FileReplacement::Begin(temp / "f");  // removes it, and lives
  ASSERT_TRUE(alive.ok() && alive->Append("alive").ok());
  ASSERT_EQ(Names(temp.path()).size(), 1u);
  Put(temp / "f.tmp-notes", "mine");
  Put(temp / "f.tmp-0123456789ABCDEF", "mine");
  Put(temp / "other.tmp-0123456789abcdef", "another's");
  fs::create_directory(temp / "f.tmp-0123456789abcdef");
  ASSERT_TRUE(ReplaceFile(temp / "f", "second").ok());
  ASSERT_TRUE(alive->Commit().ok()) << "a writer that lives keeps its temporary file";
  EXPECT_EQ(Text(temp / "f"), "alive");
  EXPECT_THAT(Names(temp.path()),
              UnorderedElementsAre("f", "f.tmp-notes", "f.tmp-0123456789ABCDEF", "f.tmp-0123456789abcdef",
                                   "other.tmp-0123456789abcdef"));
}

TEST(ReplaceFile, ManyWritersAtOnceLeaveOneWholeFile) {
  TempDir temp;
  std::vector<std::thread> writers;
  for (char c = 'a'; c < 'e'; ++c) {
    writers.emplace_back([&, c] {
      for (int i = 0; i < 10; ++i) {
        const absl::Status status = ReplaceFile(temp / "f", std::string(10000, c));
        EXPECT_TRUE(status.ok()) << status;
      }
    });
  }
  for (std::thread& writer : writers) writer.join();
  const std::string text = Text(temp / "f");
  EXPECT_EQ(text.size(), 10000u);
  EXPECT_EQ(std::set<char>(text.begin(), text.end()).size(), 1u);
  EXPECT_THAT(Names(temp.path()), ElementsAre("f"));
}

// Fails the first call of one kind.
class FailOne : public testing::FileWatcher {
 public:
  FailOne(FileCall::Kind kind, int error) : kind_(kind), error_(error) {}
  int Before(const FileCall& call) override { return call.kind == kind_ && !failed_++ ? error_ : 0; }

 private:
  FileCall::Kind kind_;
  int error_, failed_ = 0;
};

TEST(ReplaceFile, AnErrorAnywhereKeepsTheOldFileAndLeavesNothingBeside) {
  TempDir temp;
  Put(temp / "f", "old");
  for (const auto kind : {FileCall::Kind::kWrite, FileCall::Kind::kSync, FileCall::Kind::kRename}) {
    FailOne fail(kind, ENOSPC);
    const testing::WatchFiles watch(fail);
    const absl::Status status = ReplaceFile(temp / "f", "new");
    EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr((temp / "f") + ": cannot "));
    EXPECT_EQ(Text(temp / "f"), "old");
    EXPECT_THAT(Names(temp.path()), ElementsAre("f"));
  }
}

TEST(ReplaceFile, APowerCutLeavesTheOldFileOrTheNewAndEverySyncIsNeeded) {
  TempDir temp;
  fs::create_directory(temp / "d");
  Put(temp / "d/f", "old");
  DiskRecorder disk(temp / "d");
  ASSERT_TRUE(ReplaceFile(temp / "d/f", "new").ok());
  disk.Promise("new");
  disk.Stop();
  const auto check = [](const std::string& dir, const std::vector<std::string>& promises) -> std::string {
    const std::string text = Text(dir + "/f");
    if (text != "new" && (!promises.empty() || text != "old")) return "holds '" + text + "'";
    // Whatever lies beside it goes with the next writer.
    if (!ReplaceFile(dir + "/f", "next").ok()) return "cannot be replaced any more";
    return Names(dir).size() == 1 ? "" : "a leftover stays";
  };
  EXPECT_THAT(ProblemsAfterCuts(disk, TempDir::InMemory() / "scratch", check), IsEmpty());
  EXPECT_THAT(NeedlessSyncs(disk, TempDir::InMemory() / "scratch", check), IsEmpty());
}

TEST(WriteOutput, ReplacesAFileAndWritesToAPipeOrDevice) {
  TempDir temp;
  Put(temp / "f", "a longer old text");
  ASSERT_TRUE(WriteOutput(temp / "f", "new").ok());
  EXPECT_EQ(Text(temp / "f"), "new");
  ASSERT_TRUE(WriteOutput("/dev/null", "x").ok());
  EXPECT_TRUE(fs::is_character_file("/dev/null"));
  EXPECT_TRUE(absl::IsResourceExhausted(WriteOutput("/dev/full", "x")));
  EXPECT_FALSE(WriteOutput(temp.path(), "x").ok());

  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  ASSERT_TRUE(WriteOutput("/dev/fd/" + std::to_string(ends[1]), "through").ok());
  char got[16] = {};
  EXPECT_EQ(::read(ends[0], got, sizeof got), 7);
  EXPECT_STREQ(got, "through");
  ::close(ends[0]);
  ::close(ends[1]);
}

// Nothing that does not end may come of a name.
TEST(WriteOutput, APipeIsWrittenToIfItIsReadAndNotWaitedFor) {
  TempDir temp;
  const std::string pipe = temp / "pipe";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  const absl::Status alone = WriteOutput(pipe, "text");
  EXPECT_EQ(alone.message(), pipe + ": is a pipe that nobody reads");
  const int reader = ::open(pipe.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  ASSERT_GE(reader, 0);
  EXPECT_EQ(WriteOutput(pipe, "text"), absl::OkStatus());
  char got[16] = {};
  EXPECT_EQ(::read(reader, got, sizeof got), 4);
  EXPECT_STREQ(got, "text");
  EXPECT_TRUE(fs::is_fifo(pipe));
  ::close(reader);
}

TEST(WriteOutput, AnOpenFileByItsProcLinkIsWrittenToAndNotReplaced) {
  TempDir temp;
  const int fd = ::open((temp / "out").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  ASSERT_GE(fd, 0);
  ASSERT_TRUE(WriteOutput("/proc/self/fd/" + std::to_string(fd), "text").ok());
  struct stat st {};
  ASSERT_EQ(::fstat(fd, &st), 0);
  EXPECT_EQ(st.st_nlink, 1u);
  EXPECT_EQ(st.st_size, 4);
  ::close(fd);
}

}  // namespace
}  // namespace omni
