#include "engine/base/open_file.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>

#include "engine/base/system_error.h"
#include "tests/testing/file_calls.h"
#include "tests/testing/temp_dir.h"

namespace omni {
namespace {

using testing::FileCall;
using ::testing::HasSubstr;
using testing::TempDir;

TEST(OpenRegular, OpensAFileForBlockingReads) {
  TempDir temp;
  std::ofstream(temp / "f") << "x";
  const auto file = OpenRegular(temp / "f");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(::fcntl(file->get(), F_GETFL) & (O_NONBLOCK | O_ACCMODE), O_RDONLY);
  char c = 0;
  EXPECT_EQ(::read(file->get(), &c, 1), 1);
}

// Counts the opens of one path.
class CountOpens : public testing::FileWatcher {
 public:
  explicit CountOpens(std::string path) : path_(std::move(path)) {}
  int Before(const FileCall& call) override {
    opens += call.kind == FileCall::Kind::kOpen && call.path == path_;
    return 0;
  }
  int opens = 0;

 private:
  std::string path_;
};

TEST(OpenRegular, RefusesAnythingElseWithoutOpeningIt) {
  TempDir temp;
  ASSERT_EQ(::mkfifo((temp / "fifo").c_str(), 0600), 0);  // without a writer: to open it would hang
  for (const std::string& path : {temp / "fifo", temp.path(), std::string("/dev/null")}) {
    CountOpens count(path);
    const testing::WatchFiles watch(count);
    const auto file = OpenRegular(path);
    EXPECT_EQ(file.status().message(), path + ": not a regular file");
    EXPECT_EQ(count.opens, 0);
  }
}

class Refuse : public testing::FileWatcher {
 public:
  explicit Refuse(int error) : error_(error) {}
  int Before(const FileCall& call) override { return call.kind == FileCall::Kind::kOpen ? error_ : 0; }

 private:
  int error_;
};

TEST(OpenRegular, SaysWhatTheSystemSays) {
  TempDir temp;
  EXPECT_TRUE(absl::IsNotFound(OpenRegular(temp / "none").status()));
  std::ofstream(temp / "f") << "x";
  const std::pair<int, const char*> errors[] = {
      {EMFILE, "Too many open files; allow more open files (ulimit -n)"},
      {EACCES, "cannot open: Permission denied"},
      {EIO, "Input/output error; the device failed"}};
  for (const auto& [error, text] : errors) {
    Refuse refuse(error);
    const testing::WatchFiles watch(refuse);
    const absl::Status status = OpenRegular(temp / "f").status();
    EXPECT_THAT(std::string(status.message()), HasSubstr(text));
    EXPECT_FALSE(absl::IsDataLoss(status));
  }
}

TEST(FileDescriptor, ClosesWhatItOwnsOnce) {
  TempDir temp;
  std::ofstream(temp / "f") << "x";
  int fd = -1;
  {
    FileDescriptor first(::open((temp / "f").c_str(), O_RDONLY | O_CLOEXEC));
    FileDescriptor second(std::move(first));
    EXPECT_EQ(first.get(), -1);
    fd = second.get();
    EXPECT_GE(::fcntl(fd, F_GETFD), 0);
    FileDescriptor third;
    third = std::move(second);
    EXPECT_EQ(third.get(), fd);
  }
  EXPECT_EQ(::fcntl(fd, F_GETFD), -1);
}

}  // namespace
}  // namespace omni
