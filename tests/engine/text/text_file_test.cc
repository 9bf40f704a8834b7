#include "engine/text/text_file.h"

#include <lzma.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/testing/temp_dir.h"

namespace omni {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

class TextFileTest : public ::testing::Test {
 protected:
  std::string Write(const std::string& name, const std::string& bytes) {
    std::ofstream(dir_ / name, std::ios::binary) << bytes;
    return dir_ / name;
  }
  void ExpectRefused(const std::string& path, const std::string& part) {
    const absl::StatusOr<std::string> text = ReadText(path);
    ASSERT_FALSE(text.ok()) << path;
    EXPECT_THAT(std::string(text.status().message()), StartsWith(path + ": "));
    EXPECT_THAT(std::string(text.status().message()), HasSubstr(part));
  }

  testing::TempDir dir_;
};

std::string Xz(const std::string& text) {
  std::string packed(text.size() + 1000, '\0');
  size_t size = 0;
  EXPECT_EQ(
      lzma_easy_buffer_encode(6, LZMA_CHECK_CRC64, nullptr, reinterpret_cast<const uint8_t*>(text.data()),
                              text.size(), reinterpret_cast<uint8_t*>(packed.data()), &size, packed.size()),
      LZMA_OK);
  packed.resize(size);
  return packed;
}

TEST_F(TextFileTest, PlainTextIsReadAsItIs) {
  const std::string any("\0\xff\r\n<|endoftext|>\r\n", 19);
  for (const std::string& text : {std::string(), std::string("a\n"), std::string(200'000, 'x'), any,
                                  std::string("BZhou Enlai"), std::string("PK"), std::string("]")}) {
    EXPECT_EQ(ReadText(Write("plain.txt", text)).value(), text);
  }
}

TEST_F(TextFileTest, XzIsRecognisedByItsContentWhateverItsName) {
  const std::string text(100'000, 'y'), packed = Xz(text);
  for (const char* name : {"a.xz", "a.XZ", "a.txt", "noname", "a.gz"})
    EXPECT_EQ(ReadText(Write(name, packed)).value(), text) << name;
  EXPECT_EQ(ReadText(Write("two.xz", packed + packed)).value(), text + text);
  ExpectRefused(Write("cut.txt", packed.substr(0, packed.size() / 2)), "not a whole .xz file");
  ExpectRefused(Write("plain.Xz", "plain"), "not a whole .xz file");
}

TEST_F(TextFileTest, OtherCompressionsAreRefusedByContentAndByName) {
  const std::pair<std::string, std::string> kinds[] = {
      {"gzip", "\x1f\x8b\x08rest"},         {"bzip2", "BZh91AY&SYrest"}, {"zstd", "\x28\xb5\x2f\xfdrest"},
      {"lz4", "\x04\x22\x4d\x18rest"},      {"zip", "PK\x03\x04rest"},   {"7-zip", "7z\xbc\xaf\x27\x1crest"},
      {"lzma", std::string("]\0\0rest", 7)}};
  for (const auto& [program, bytes] : kinds)
    ExpectRefused(Write("text", bytes),
                  "is compressed with " + program + ", which is not read; decompress it");
  for (const char* name : {"a.gz", "a.GZ", "a.bz2", "a.zst", "a.lz4", "a.zip", "a.7z", "a.lzma"})
    ExpectRefused(Write(name, "plain"), "if it is plain text, rename it");
}

TEST_F(TextFileTest, WhatIsNoFileIsRefusedAndNothingHangs) {
  ExpectRefused(dir_ / "missing", "cannot be read: No such file or directory");
  ExpectRefused(dir_.path(), "is a directory");
  ExpectRefused("/dev/zero", "is a device");
  ExpectRefused("/dev/null", "is a device");
  ASSERT_EQ(mkfifo((dir_ / "fifo").c_str(), 0600), 0);
  ExpectRefused(dir_ / "fifo", "is a pipe into which nothing is written");
}

TEST_F(TextFileTest, WhatMayNotBeReadIsSaidToBeSo) {
  if (geteuid() == 0) GTEST_SKIP() << "root may read everything";
  Write("secret", "x");
  std::filesystem::permissions(dir_ / "secret", std::filesystem::perms::none);
  ExpectRefused(dir_ / "secret", "Permission denied");
}

// As of a shell's <(command): the writer is there but may come late.
TEST_F(TextFileTest, APipeWithAWriterIsReadToItsEnd) {
  int fds[2];
  ASSERT_EQ(pipe(fds), 0);
  const std::string name = "/dev/fd/" + std::to_string(fds[0]);
  std::string text(1 << 20, 'z');
  std::thread writer([&] {
    std::string_view rest = text;
    while (!rest.empty()) {
      const ssize_t n = write(fds[1], rest.data(), rest.size());
      if (n <= 0) break;
      rest.remove_prefix(static_cast<size_t>(n));
    }
    close(fds[1]);
  });
  EXPECT_EQ(ReadText(name).value(), text);
  writer.join();
  close(fds[0]);
}

}  // namespace
}  // namespace omni
