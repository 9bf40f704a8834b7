#include "cli/result_file.h"

#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/testing/temp_dir.h"

namespace omni::cli {
namespace {

using ::testing::HasSubstr;

int Files(const std::string& folder) {
  return static_cast<int>(std::distance(std::filesystem::directory_iterator(folder), {}));
}

TEST(CheckResultFile, ChangesNothingWhereItCanBeWritten) {
  const omni::testing::TempDir dir;
  EXPECT_TRUE(CheckResultFile(dir / "new").ok());
  EXPECT_EQ(Files(dir / ""), 0);
  std::ofstream(dir / "old") << "kept";
  EXPECT_TRUE(CheckResultFile(dir / "old").ok());
  std::string kept;
  std::ifstream(dir / "old") >> kept;
  EXPECT_EQ(kept, "kept");
  EXPECT_EQ(Files(dir / ""), 1);
  EXPECT_TRUE(CheckResultFile("/dev/null").ok());
  EXPECT_TRUE(CheckResultFile("/dev/stdout").ok());
  ASSERT_EQ(mkfifo((dir / "pipe").c_str(), 0600), 0);
  EXPECT_TRUE(CheckResultFile(dir / "pipe").ok());
}

TEST(CheckResultFile, SaysWhatWillNotDo) {
  const omni::testing::TempDir dir;
  const absl::Status nowhere = CheckResultFile(dir / "nowhere/file");
  EXPECT_FALSE(nowhere.ok());
  EXPECT_THAT(std::string(nowhere.message()), HasSubstr("nowhere/file: cannot write"));
  EXPECT_FALSE(CheckResultFile(dir / "").ok());
}

TEST(CheckResultFile, AFolderThatIsNotOursIsOne) {
  const omni::testing::TempDir dir;
  if (geteuid() == 0) GTEST_SKIP() << "root may write everywhere";
  std::filesystem::create_directory(dir / "locked");
  std::filesystem::permissions(dir / "locked", std::filesystem::perms::owner_read);
  EXPECT_FALSE(CheckResultFile(dir / "locked/file").ok());
}

}  // namespace
}  // namespace omni::cli
