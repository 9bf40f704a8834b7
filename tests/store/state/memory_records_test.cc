#include "store/state/memory_records.h"

#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "store/state/database.h"
#include "tests/testing/temp_dir.h"

namespace omni {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<Association> All(const MemoryRecords& records, const std::string& scope) {
  std::vector<Association> all;
  EXPECT_TRUE(records.ForEach(scope, [&](const Association& a) { return all.push_back(a), true; }).ok());
  return all;
}

TEST(MemoryRecords, AreThereInTheirOrderWhenTheFolderIsOpenedAgain) {
  testing::TempDir dir;
  const std::string bytes("\0\xff/a", 4);
  {
    const auto records = MemoryRecords::Open(dir / "m", true);
    ASSERT_TRUE(records.ok()) << records.status();
    ASSERT_TRUE((*records)->Add("b", {{"k1", "v1"}, {bytes, bytes}}).ok());
    ASSERT_TRUE((*records)->Add("a", {{"k2", ""}}).ok());
  }
  const auto records = MemoryRecords::Open(dir / "m", false);
  ASSERT_TRUE(records.ok()) << records.status();
  ASSERT_TRUE((*records)->Add("b", {{"k1", "v3"}}).ok());
  EXPECT_THAT(All(**records, "b"),
              ElementsAre(Association{"k1", "v1"}, Association{bytes, bytes}, Association{"k1", "v3"}));
  EXPECT_THAT(All(**records, "a"), ElementsAre(Association{"k2", ""}));
  EXPECT_TRUE(All(**records, "ab").empty());
  EXPECT_THAT(*(*records)->Scopes(), ElementsAre("a", "b"));
}

TEST(MemoryRecords, RefusesOtherFoldersAndOtherVersions) {
  testing::TempDir dir;
  {
    const auto database = Database::Open(dir / "other", {});
    ASSERT_TRUE(database.ok());
    ASSERT_TRUE((*database)->Put("k", "v").ok());
  }
  EXPECT_THAT(std::string(MemoryRecords::Open(dir / "other", false).status().message()),
              HasSubstr("no memory's folder"));
  char name = 'a';
  const std::string number = "12345678", good("\1\0\0\0kv", 6), none = "is no association";
  for (const auto& [key, value, why] : std::vector<std::tuple<std::string, std::string, std::string>>{
           {"version", "2", "version '2'"},
           {"a/s/1234567", good, none},
           {"a/s/" + number, "xy", none},
           {"a/s/" + number, std::string("\0\0\0\0v", 5), none},
           {"a//" + number, good, none},
           {"a/no/scope/" + number, good, none},
           {"a/x~s/" + number, good, none},
           {"a/s/" + std::string(8, '\xff'), good, none}}) {
    const std::string folder = dir / std::string(1, name++);
    {
      const auto records = MemoryRecords::Open(folder, true);
      ASSERT_TRUE(records.ok());
    }
    {
      const auto database = Database::Open(folder, {});
      ASSERT_TRUE((*database)->Put(key, value).ok());
    }
    EXPECT_THAT(std::string(MemoryRecords::Open(folder, true).status().message()), HasSubstr(why));
  }
}

}  // namespace
}  // namespace omni
