#include "store/file/files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <functional>

#include "store/file/file_stream.h"
#include "store/file/random_reader.h"
#include "tests/testing/temp_dir.h"

namespace omni {
namespace {

using ::testing::HasSubstr;
using testing::TempDir;

struct Reader {
  const char* name;
  std::function<absl::Status(const std::string& path)> read;
};
const Reader kReaders[] = {
    {"ReadAligned", [](const std::string& path) { return ReadAligned(path, 1).status(); }},
    {"ReadText", [](const std::string& path) { return ReadText(path, 10).status(); }},
    {"ReadStart", [](const std::string& path) { return ReadStart(path, 10).status(); }},
    {"DigestFile", [](const std::string& path) { return DigestFile(path).status(); }},
    {"RandomReader", [](const std::string& path) { return RandomReader::Open(path).status(); }},
    {"FileStream direct",
     [](const std::string& path) { return FileStream::Open(path, 0, FileStream::Cache::kPass).status(); }},
    {"FileStream",
     [](const std::string& path) { return FileStream::Open(path, 0, FileStream::Cache::kUse).status(); }},
};

// A pipe without a writer would be waited for: this test then never ends.
TEST(Files, EveryReaderRefusesAPipeAFolderAndADeviceAtOnce) {
  TempDir temp;
  ASSERT_EQ(::mkfifo((temp / "pipe").c_str(), 0600), 0);
  std::filesystem::create_symlink("pipe", temp / "link");
  for (const Reader& reader : kReaders) {
    for (const std::string& path : {temp / "pipe", temp / "link", temp.path(), std::string("/dev/zero")}) {
      const absl::Status status = reader.read(path);
      EXPECT_TRUE(absl::IsInvalidArgument(status)) << reader.name << ": " << status;
      EXPECT_EQ(status.message(), path + ": not a regular file") << reader.name;
    }
  }
}

TEST(Files, EveryReaderTakesAFileAndSaysWhenThereIsNone) {
  TempDir temp;
  std::ofstream(temp / "f") << "x";
  for (const Reader& reader : kReaders) {
    EXPECT_TRUE(reader.read(temp / "f").ok()) << reader.name;
    EXPECT_TRUE(absl::IsNotFound(reader.read(temp / "none"))) << reader.name;
  }
}

}  // namespace
}  // namespace omni
