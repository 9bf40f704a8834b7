#include "store/file/stream_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include <cerrno>
#include <csignal>
#include <filesystem>
#include <new>
#include <string>

#include <absl/strings/str_cat.h>

#include "tests/testing/power_cut.h"
#include "tests/testing/seccomp.h"
#include "tests/testing/temp_dir.h"

namespace omni {
namespace {

namespace fs = std::filesystem;
using testing::FileCall;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::TempDir;

TEST(StreamWriter, WritesAndHashesAnyLength) {
  TempDir temp;
  for (int64_t size : {0, 1, 63, 4031, 4032, 4033, (4 << 20) - 64, 4 << 20, (9 << 20) + 5}) {
    std::string bytes(static_cast<size_t>(size), '\0');
    for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * 131 + (i >> 9));
    const std::string head(64, 'h'), path = temp / absl::StrCat("f", size);
    auto writer = StreamWriter::Create(path, head, 0);
    ASSERT_TRUE(writer.ok()) << writer.status();
    for (int64_t at = 0; at < size;) {
      const int64_t n = std::min<int64_t>(size - at, 1 + at % 70001);
      ASSERT_TRUE((*writer)->Append(bytes.data() + at, n).ok());
      at += n;
    }
    EXPECT_EQ((*writer)->size(), size + 64);
    const auto digest = (*writer)->Finish(head);
    ASSERT_TRUE(digest.ok()) << digest.status();
    EXPECT_EQ(*ReadText(path, size + 64), head + bytes);
    EXPECT_EQ(digest->bytes, size + 64);
    EXPECT_EQ(digest->hash, ContentHash(head + bytes));
  }
}

TEST(StreamWriter, AnotherHeadIsHashedToo) {
  TempDir temp;
  auto writer = StreamWriter::Create(temp / "f", std::string(64, 'a'), 1 << 20);
  ASSERT_TRUE(writer.ok());
  ASSERT_TRUE((*writer)->Append("body", 4).ok());
  const std::string head(64, 'b');
  const auto digest = (*writer)->Finish(head);
  ASSERT_TRUE(digest.ok());
  EXPECT_EQ(*ReadText(temp / "f", 1 << 20), head + "body");
  EXPECT_EQ(digest->hash, ContentHash(head + "body"));
}

TEST(StreamWriter, SaysWhenTheFileMayNotGrow) {
  TempDir temp;
  ::signal(SIGXFSZ, SIG_IGN);
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const rlimit small{1 << 20, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  auto writer = StreamWriter::Create(temp / "f", std::string(64, 'a'), 0);
  absl::Status status = writer.status();
  for (int i = 0; i < 40 && status.ok(); ++i) status = (*writer)->AppendZeros(1 << 20);
  if (status.ok()) status = (*writer)->Finish(std::string(64, 'a')).status();
  writer = absl::CancelledError();
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
}

// Fails writes with what it is told, or as if there were no memory left.
class SpoilWrites : public testing::FileWatcher {
 public:
  explicit SpoilWrites(int error) : error_(error) {}
  int Before(const FileCall& call) override {
    if (call.kind != FileCall::Kind::kWrite) return 0;
    if (error_ == ENOMEM) throw std::bad_alloc();
    return error_;
  }

 private:
  int error_;
};

absl::Status WriteMuch(const std::string& path) {
  const std::string head(64, 'a');
  auto writer = StreamWriter::Create(path, head, 0);
  absl::Status status = writer.status();
  for (int i = 0; i < 40 && status.ok(); ++i) status = (*writer)->AppendZeros(1 << 20);
  return status.ok() ? (*writer)->Finish(head).status() : status;
}

TEST(StreamWriter, AnErrorOfItsThreadComesOutOfALaterCall) {
  TempDir temp;
  SpoilWrites spoil(ENOSPC);
  const testing::WatchFiles watch(spoil);
  const absl::Status status = WriteMuch(temp / "f");
  EXPECT_TRUE(absl::IsResourceExhausted(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("f: cannot write: No space left on device"));
}

TEST(StreamWriter, NoMemoryInItsThreadIsAnErrorAndEndsNothing) {
  TempDir temp;
  SpoilWrites spoil(ENOMEM);
  const testing::WatchFiles watch(spoil);
  const absl::Status status = WriteMuch(temp / "f");
  EXPECT_TRUE(absl::IsResourceExhausted(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("f: no memory was left"));
}

TEST(StreamWriter, SaysWhenItGetsNoThread) {
  TempDir temp;
  absl::Status status;
  const bool ran =
      testing::RunWithout({.call = SYS_clone3, .error = EAGAIN}, [&] { status = WriteMuch(temp / "f"); });
  if (!ran) GTEST_SKIP() << "this system has no seccomp";
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("f: cannot start 1 thread to write a file: "));
}

// The head vouches for the rest.
TEST(StreamWriter, AFileThatBeginsWithItsHeadIsWholeAfterAnyPowerCut) {
  TempDir temp;
  const std::string head(64, 'h'), body(10000, 'b');
  fs::create_directory(temp / "d");
  testing::DiskRecorder disk(temp / "d");
  auto writer = StreamWriter::Create(temp / "d/f", head, 0);
  ASSERT_TRUE(writer.ok()) << writer.status();
  ASSERT_TRUE((*writer)->Append(body.data(), static_cast<int64_t>(body.size())).ok());
  ASSERT_TRUE((*writer)->Finish(head).ok());
  ASSERT_TRUE(SyncDirectory(temp / "d").ok());
  disk.Promise("written");
  disk.Stop();
  const auto check = [&](const std::string& dir, const std::vector<std::string>& promises) -> std::string {
    const std::string text = ReadText(dir + "/f", 1 << 20).value_or("");
    const bool finished = text.starts_with(head);
    if (finished && text != head + body) return "a head without the rest";
    return promises.empty() || finished ? "" : "it is gone";
  };
  EXPECT_THAT(ProblemsAfterCuts(disk, TempDir::InMemory() / "scratch", check), IsEmpty());
  EXPECT_EQ(NeedlessSyncs(disk, TempDir::InMemory() / "scratch", check).size(), 0u);
}

}  // namespace
}  // namespace omni
