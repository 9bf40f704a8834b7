// A directory of its own for one test, removed with everything in it.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <string>
#include <system_error>

namespace omni::testing {

class TempDir {
 public:
  TempDir() : TempDir(::testing::TempDir()) {}
  // In memory where the system has such a place: for what is written so often that a disk would take minutes.
  static TempDir InMemory() {
    std::error_code none;
    return TempDir(std::filesystem::is_directory("/dev/shm", none) ? "/dev/shm" : ::testing::TempDir());
  }
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  explicit TempDir(const std::string& where) {
    std::string pattern = (std::filesystem::path(where) / "omni-test-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) ADD_FAILURE() << "cannot make " << pattern;
    path_ = pattern;
  }

  std::string path_;
};

}  // namespace omni::testing
