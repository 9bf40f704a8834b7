#include "store/read/read_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cerrno>
#include <fstream>

#include "tests/testing/recording_log.h"
#include "tests/testing/temp_dir.h"

namespace omni {
namespace {

using ::testing::HasSubstr;
using testing::TempDir;

// Gives one read the answers of a system that exists only here.
class ReadProgressTest : public ::testing::Test {
 protected:
  ReadProgressTest() {
    std::ofstream(temp_ / "f") << "x";
    files_ = *ReadFiles::Open({temp_ / "f"});
  }
  // Never written to. Aligned as O_DIRECT wants it.
  uint8_t* Destination() { return reinterpret_cast<uint8_t*>(uintptr_t{64} << 20); }
  ReadRequest Request(int64_t bytes, int64_t needed) {
    return {.file = 0, .offset = 8192, .bytes = bytes, .needed = needed, .to = Destination(), .tag = 1};
  }

  TempDir temp_;
  std::unique_ptr<ReadFiles> files_;
};

TEST_F(ReadProgressTest, AShortReadGoesOnWhereItStoppedAndADirectOneWithThatBlock) {
  for (const bool direct : {true, false}) {
    if (!direct) files_->StopDirect(0);
    if (direct && !files_->direct(0)) continue;  // this file system has no O_DIRECT
    ReadProgress read(Request(20480, 20000), files_.get());
    ReadProgress::Step step = read.Next();
    EXPECT_EQ(step.direct, direct);
    EXPECT_EQ(step.offset, 8192u);
    EXPECT_EQ(step.bytes, 20480u);
    EXPECT_FALSE(read.Take(5000));
    step = read.Next();
    const int64_t at = direct ? 4096 : 5000;
    EXPECT_EQ(step.offset, static_cast<uint64_t>(8192 + at));
    EXPECT_EQ(step.to, Destination() + at);
    EXPECT_EQ(step.bytes, 20480 - at);
    EXPECT_TRUE(read.Take(20000 - at));
    EXPECT_TRUE(read.status().ok());
    EXPECT_EQ(read.got(), 20000);
  }
}

TEST_F(ReadProgressTest, WhatMovesNothingOnIsTheEndOfTheFile) {
  for (const bool direct : {true, false}) {
    if (!direct) files_->StopDirect(0);
    if (direct && !files_->direct(0)) continue;
    ReadProgress read(Request(20480, 20000), files_.get());
    (void)read.Next();
    EXPECT_FALSE(read.Take(5000));
    (void)read.Next();
    EXPECT_TRUE(read.Take(direct ? 904 : 0));
    EXPECT_EQ(read.status().code(), absl::StatusCode::kDataLoss);
    EXPECT_THAT(std::string(read.status().message()),
                HasSubstr("/f: read 5000 bytes of 20000 at 8192; the file is shorter than its header says"));
  }
}

TEST_F(ReadProgressTest, ARefusedDirectReadIsRepeatedThroughThePageCacheForTheWholeFile) {
  if (!files_->direct(0)) GTEST_SKIP() << "the file system of " << temp_.path() << " has no O_DIRECT";
  EXPECT_EQ(files_->Describe(), "O_DIRECT");
  const testing::RecordingLog log;
  ReadProgress read(Request(4096, 4096), files_.get());
  EXPECT_TRUE(read.Next().direct);
  EXPECT_FALSE(read.Take(-EINVAL));
  EXPECT_FALSE(files_->direct(0));
  EXPECT_EQ(files_->Describe(), "through the page cache");
  files_->StopDirect(0);  // another read was on its way
  EXPECT_THAT(
      log.Messages("direct_refused"),
      ::testing::ElementsAre(HasSubstr("/f is read through the page cache: its file system refuses")));
  EXPECT_FALSE(read.Next().direct);
  EXPECT_TRUE(read.Take(-EINVAL));  // now it is an error like any other
  EXPECT_THAT(std::string(read.status().message()),
              HasSubstr("/f: cannot read 4096 bytes at 8192: Invalid argument"));
}

TEST_F(ReadProgressTest, InterruptedReadsAreRepeatedButNotForever) {
  ReadProgress read(Request(4096, 4096), files_.get());
  for (int i = 0; i < 1000; ++i) {
    (void)read.Next();
    EXPECT_FALSE(read.Take(-EINTR));
  }
  int refusals = 0;
  do {
    (void)read.Next();
    ASSERT_LT(++refusals, 10000);
  } while (!read.Take(-EAGAIN));
  EXPECT_GT(refusals, 10);
  EXPECT_THAT(std::string(read.status().message()), HasSubstr("temporarily unavailable"));
}

TEST_F(ReadProgressTest, AnErrorNamesFileOffsetAndReason) {
  ReadProgress read(Request(4096, 1), files_.get());
  (void)read.Next();
  EXPECT_TRUE(read.Take(-EIO));
  EXPECT_EQ(read.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(read.status().message()),
              HasSubstr("/f: cannot read 4096 bytes at 8192: Input/output error"));
}

TEST_F(ReadProgressTest, AReadOfManyGibibytesIsTakenInSteps) {
  const int64_t bytes = int64_t{5} << 30;
  ReadProgress read(Request(bytes, bytes), files_.get());
  for (int64_t got = 0; got < bytes;) {
    const ReadProgress::Step step = read.Next();
    EXPECT_EQ(step.offset, static_cast<uint64_t>(8192 + got));
    got += step.bytes;
    EXPECT_EQ(read.Take(step.bytes), got == bytes);
  }
  EXPECT_TRUE(read.status().ok());
}

TEST_F(ReadProgressTest, OnlyReadsOfWholeBlocksAreDirect) {
  ReadRequest aligned = Request(4096, 1);
  EXPECT_EQ(ReadProgress(aligned, files_.get()).Next().direct, files_->direct(0));
  ReadRequest bad = aligned;
  bad.offset += 512;
  EXPECT_FALSE(ReadProgress(bad, files_.get()).Next().direct);
  bad = aligned;
  bad.bytes -= 1;
  EXPECT_FALSE(ReadProgress(bad, files_.get()).Next().direct);
  bad = aligned;
  bad.to += 64;
  EXPECT_FALSE(ReadProgress(bad, files_.get()).Next().direct);
}

TEST_F(ReadProgressTest, RefusesRequestsThatMakeNoSense) {
  const ReadRequest good = Request(4096, 4096);
  EXPECT_TRUE(files_->Check(good).ok());
  const auto refuses = [&](auto change, const std::string& text) {
    ReadRequest request = good;
    change(request);
    const absl::Status status = files_->Check(request);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr(text));
  };
  refuses([](ReadRequest& r) { r.file = 1; }, "cannot read file 1: the queue has 1 files");
  refuses([](ReadRequest& r) { r.file = -1; }, "cannot read file -1");
  refuses([](ReadRequest& r) { r.bytes = r.needed = 0; }, "/f: cannot read 0 bytes at 8192");
  refuses([](ReadRequest& r) { r.bytes = -4096; }, "-4096 bytes");
  refuses([](ReadRequest& r) { r.needed = 4097; }, "of which 4097 needed");
  refuses([](ReadRequest& r) { r.needed = -1; }, "of which -1 needed");
  refuses([](ReadRequest& r) { r.to = nullptr; }, "to no address");
  refuses([](ReadRequest& r) { r.offset = uint64_t{1} << 63; }, "at 9223372036854775808");
  refuses([](ReadRequest& r) { r.offset = INT64_MAX - 4095; }, "makes no sense");
}

TEST(ReadFiles, RefusesAPipeAtOnce) {
  TempDir temp;
  ASSERT_EQ(::mkfifo((temp / "pipe").c_str(), 0600), 0);
  EXPECT_EQ(ReadFiles::Open({temp / "pipe"}).status().message(), (temp / "pipe") + ": not a regular file");
}

}  // namespace
}  // namespace omni
