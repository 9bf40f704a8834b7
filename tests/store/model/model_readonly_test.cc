#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <tuple>

#include "store/model/model.h"
#include "store/pack/pack.h"
#include "tests/store/model/model_digest.h"
#include "tests/testing/checkpoint_fixture.h"
#include "tests/testing/temp_dir.h"

namespace omni {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using testing::TempDir;

using Entry = std::tuple<int64_t, int64_t, int64_t, uint64_t>;  // size, mtime s, mtime ns, inode
std::map<std::string, Entry> Listing(const std::string& dir) {
  std::map<std::string, Entry> out;
  const auto add = [&](const std::string& path) {
    struct stat st = {};
    EXPECT_EQ(::stat(path.c_str(), &st), 0) << path;
    out[path] = {st.st_size, st.st_mtim.tv_sec, st.st_mtim.tv_nsec, st.st_ino};
  };
  add(dir);
  for (const auto& entry : fs::recursive_directory_iterator(dir)) add(entry.path());
  return out;
}

class ReadOnly : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(testing::WriteRandomCheckpoint(temp_ / "c", testing::SmallConfig(), 31).ok());
    ASSERT_TRUE(PackModel(temp_ / "c", temp_ / "m", {}).ok());
  }
  static void Use(const std::string& dir) {
    auto model = OpenModel(dir);
    ASSERT_TRUE(model.ok()) << model.status();
    EXPECT_FALSE(testing::ModelContent(*model).empty());
    EXPECT_GT(model->stats().total_bytes, 0);
  }
  TempDir temp_;
};

TEST_F(ReadOnly, UseChangesNothingInTheDirectory) {
  const auto before = Listing(temp_ / "m");
  Use(temp_ / "m");
  Use(temp_ / "m");
  EXPECT_EQ(Listing(temp_ / "m"), before);
}

TEST_F(ReadOnly, PackedModelHoldsNoFilesThatOnlyAWriterNeeds) {
  for (const auto& [path, entry] : Listing(temp_ / "m")) {
    const std::string name = fs::path(path).filename();
    for (const char* unwanted : {"LOG", "OPTIONS", "LOCK", "IDENTITY"}) {
      EXPECT_NE(name.rfind(unwanted, 0), 0u) << path;
    }
    EXPECT_FALSE(name.ends_with(".log")) << path;
  }
}

// A file system of this test's own, gone with its mount namespace at the latest.
class Mount {
 public:
  bool ReadOnlyBind(const std::string& from, const std::string& to) {
    return Isolate() && Did(::mount(from.c_str(), to.c_str(), nullptr, MS_BIND, nullptr)) && Own(to) &&
           Did(::mount(nullptr, to.c_str(), nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY, nullptr));
  }
  bool Tmpfs(const std::string& to, const std::string& options) {
    return Isolate() && Did(::mount("tmpfs", to.c_str(), "tmpfs", 0, options.c_str())) && Own(to);
  }
  ~Mount() {
    if (!path_.empty()) ::umount2(path_.c_str(), MNT_DETACH);
  }
  std::string reason() const { return std::strerror(error_); }

 private:
  bool Isolate() {
    return Did(::unshare(CLONE_NEWNS)) && Did(::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr));
  }
  bool Did(int result) {
    if (result != 0) error_ = errno;
    return result == 0;
  }
  bool Own(const std::string& path) {
    path_ = path;
    return true;
  }
  std::string path_;
  int error_ = 0;
};

TEST_F(ReadOnly, OpensFromAReadOnlyFileSystem) {
  Mount mount;
  fs::create_directory(temp_ / "ro");
  if (!mount.ReadOnlyBind(temp_ / "m", temp_ / "ro")) {
    GTEST_SKIP() << "SKIPPED: this process may not mount (" << mount.reason() << ")";
  }
  Use(temp_ / "ro");
}

TEST_F(ReadOnly, PackingOntoAReadOnlyFileSystemIsACleanError) {
  Mount mount;
  fs::create_directory(temp_ / "ro");
  if (!mount.ReadOnlyBind(temp_ / "c", temp_ / "ro")) {
    GTEST_SKIP() << "SKIPPED: this process may not mount (" << mount.reason() << ")";
  }
  const absl::Status status = PackModel(temp_ / "c", temp_ / "ro/m", {});
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("Read-only file system; choose a place that can be written"));
}

TEST_F(ReadOnly, AFullDiskIsACleanErrorWhereverItFillsUp) {
  const int64_t whole = OpenModel(temp_ / "m")->stats().total_bytes;
  fs::create_directory(temp_ / "small");
  for (int64_t kib = 8; kib < whole / 1024; kib += 16) {
    Mount mount;
    if (!mount.Tmpfs(temp_ / "small", "size=" + std::to_string(kib) + "k")) {
      GTEST_SKIP() << "SKIPPED: this process may not mount (" << mount.reason() << ")";
    }
    const absl::Status status = PackModel(temp_ / "c", temp_ / "small/m", {});
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << kib << " KiB: " << status;
    EXPECT_TRUE(fs::is_empty(temp_ / "small")) << kib << " KiB";
  }
}

TEST_F(ReadOnly, OpensWithoutWritePermission) {
  for (const auto& [path, entry] : Listing(temp_ / "m")) {
    fs::permissions(path, fs::perms::owner_write | fs::perms::group_write | fs::perms::others_write,
                    fs::perm_options::remove);
  }
  const auto before = Listing(temp_ / "m");
  Use(temp_ / "m");
  EXPECT_EQ(Listing(temp_ / "m"), before);
  for (const auto& [path, entry] : before)
    fs::permissions(path, fs::perms::owner_write, fs::perm_options::add);
}

}  // namespace
}  // namespace omni
