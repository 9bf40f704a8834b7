#include "store/file/file_stream.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "tests/testing/file_bytes.h"
#include "tests/testing/temp_dir.h"

namespace omni {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using testing::TempDir;
using testing::WriteBytes;

// A window that keeps bytes shows the same file as one that keeps none, with either way of reading.
TEST(FileStream, ShowsEveryByteOnceAndKeepsWhatItIsTold) {
  TempDir temp;
  std::string bytes((size_t{20} << 20) + 12345, '\0');
  uint64_t state = 1;
  for (size_t i = 0; i + 8 <= bytes.size(); i += 8) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    std::memcpy(&bytes[i], &state, 8);
  }
  WriteBytes(temp / "f", bytes);
  for (const FileStream::Cache cache : {FileStream::Cache::kPass, FileStream::Cache::kUse}) {
    absl::StatusOr<FileStream> stream = FileStream::Open(temp / "f", 5000, cache);
    ASSERT_TRUE(stream.ok()) << stream.status();
    ASSERT_EQ(stream->size(), static_cast<int64_t>(bytes.size()));
    int64_t keep = 0, end = 0;
    while (!stream->at_end()) {
      ASSERT_TRUE(stream->Next(keep).ok());
      EXPECT_EQ(stream->begin(), end - keep);
      end = stream->end();
      EXPECT_EQ((reinterpret_cast<uintptr_t>(stream->data()) - static_cast<uintptr_t>(stream->begin())) % 64,
                0u);
      EXPECT_EQ(std::memcmp(stream->data(), bytes.data() + stream->begin(),
                            static_cast<size_t>(stream->end() - stream->begin())),
                0);
      keep = keep == 0 ? 4999 : 64;
    }
    EXPECT_EQ(end, stream->size());
  }
  WriteBytes(temp / "empty", "");
  EXPECT_TRUE(FileStream::Open(temp / "empty", 0, FileStream::Cache::kPass)->at_end());
}

TEST(FileStream, AFileThatShrinksIsAnError) {
  TempDir temp;
  WriteBytes(temp / "f", std::string(9 << 20, 'x'));
  absl::StatusOr<FileStream> stream = FileStream::Open(temp / "f", 0, FileStream::Cache::kPass);
  ASSERT_TRUE(stream.ok() && stream->Next(0).ok());
  fs::resize_file(temp / "f", 100);
  EXPECT_THAT(stream->Next(0).message(), HasSubstr("became shorter"));
}

}  // namespace
}  // namespace omni
