#include "store/state/adapter_files.h"

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/testing/temp_dir.h"

namespace omni {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::TempDir;

TEST(AdapterFiles, WhatIsSavedIsLoadedListedReplacedAndRemoved) {
  TempDir dir;
  const AdapterFiles files(dir / "adapters");
  EXPECT_TRUE(files.Names()->empty());
  EXPECT_THAT(files.Load("me").status().message(), HasSubstr("there is none at all"));
  ASSERT_TRUE(files.Save("me", "bytes\0of mine").ok());
  ASSERT_TRUE(files.Save("a.b-c_1", "others").ok());
  EXPECT_THAT(*files.Names(), ElementsAre("a.b-c_1", "me"));
  ASSERT_TRUE(files.Save("me", "new").ok());
  EXPECT_EQ(*files.Load("me"), "new");
  EXPECT_THAT(files.Load("you").status().message(), HasSubstr("there are a.b-c_1, me"));
  ASSERT_TRUE(files.Remove("me").ok());
  EXPECT_THAT(*files.Names(), ElementsAre("a.b-c_1"));
  EXPECT_EQ(files.Remove("me").code(), absl::StatusCode::kNotFound);
}

TEST(AdapterFiles, OtherFilesOfTheFolderAreNoAdapters) {
  TempDir dir;
  const AdapterFiles files(dir / "adapters");
  ASSERT_TRUE(files.Save("me", "x").ok());
  std::ofstream(dir / "adapters/me.adapter.tmp-0123456789abcdef") << "half";
  std::ofstream(dir / "adapters/notes.txt") << "x";
  std::ofstream(dir / "adapters/.hidden.adapter") << "x";
  EXPECT_THAT(*files.Names(), ElementsAre("me"));
}

TEST(AdapterFiles, NamesNeverLeaveTheFolder) {
  TempDir dir;
  const AdapterFiles files(dir / "adapters");
  for (const std::string name : {"", ".", "..", "../x", "a/b", "-x", "a b", "\xc3\xa4"}) {
    EXPECT_FALSE(CheckAdapterName(name).ok()) << name;
    EXPECT_FALSE(files.Save(name, "x").ok()) << name;
    EXPECT_FALSE(files.Load(name).ok()) << name;
  }
  EXPECT_FALSE(CheckAdapterName(std::string(65, 'a')).ok());
  EXPECT_FALSE(std::filesystem::exists(dir / "adapters"));
}

}  // namespace
}  // namespace omni
