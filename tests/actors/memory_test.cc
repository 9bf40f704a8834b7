#include "actors/memory.h"

#include <optional>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/testing/temp_dir.h"

namespace omni {
namespace {

using ::testing::HasSubstr;

std::string ValueOf(Memory& memory, const std::string& scope, const std::string& key) {
  const absl::StatusOr<std::optional<Remembered>> got = memory.Ask(scope, key);
  EXPECT_TRUE(got.ok()) << got.status();
  return got.ok() && got->has_value() ? (*got)->value : "(nothing)";
}

TEST(Memory, RemembersByLikeKeysInScopesOfTheirOwn) {
  testing::TempDir dir;
  {
    const auto memory = Memory::Open(dir / "memory");
    ASSERT_TRUE(memory.ok()) << memory.status();
    ASSERT_TRUE(
        (*memory)
            ->Add("a", {{"The key of the boat house", "under the stone"}, {"the captain's name", "Ahab"}})
            .ok());
    ASSERT_TRUE((*memory)->Add("b", {{"the captain's name", "Nemo"}}).ok());
    EXPECT_EQ(ValueOf(**memory, "a", "the KEY of the boat-house"), "under the stone");
    EXPECT_EQ(ValueOf(**memory, "a", "the captain's name"), "Ahab");
    EXPECT_EQ(ValueOf(**memory, "b", "the captain's name"), "Nemo");
    EXPECT_EQ(ValueOf(**memory, "b", "the key of the boat house"), "(nothing)");
    EXPECT_EQ(ValueOf(**memory, "a", "what the weather was like in spring"), "(nothing)");
    EXPECT_EQ(ValueOf(**memory, "a", "?"), "(nothing)");
    ASSERT_TRUE((*memory)->Add("a", {{"The captain's name", "Bligh"}}).ok());
    EXPECT_EQ(ValueOf(**memory, "a", "the captain's name"), "Bligh");
  }
  // Another process's turn.
  const auto memory = Memory::Open(dir / "memory", false);
  ASSERT_TRUE(memory.ok()) << memory.status();
  EXPECT_EQ(ValueOf(**memory, "a", "the captain's name"), "Bligh");
  EXPECT_EQ(ValueOf(**memory, "a", "the key of the boat house"), "under the stone");
  const auto stats = (*memory)->Stats();
  ASSERT_TRUE(stats.ok());
  ASSERT_EQ(stats->size(), 2u);
  EXPECT_EQ((*stats)[0].scope, "a");
  EXPECT_EQ((*stats)[0].associations, 2);
  EXPECT_EQ((*stats)[1].associations, 1);
}

TEST(Memory, AKeyOfManyWordsIsFoundWithOneOfThemWrong) {
  testing::TempDir dir;
  const auto memory = Memory::Open(dir / "memory");
  ASSERT_TRUE(memory.ok());
  std::vector<Association> many;
  for (int i = 0; i < 500; ++i) {
    const std::string n = std::to_string(i);
    many.push_back({"how deep the water was where ship number " + n + " lay at anchor that year s" + n +
                        " t" + n + " u" + n,
                    "value " + n});
  }
  ASSERT_TRUE((*memory)->Add("a", many).ok());
  int right = 0;
  for (int i = 0; i < 500; ++i) {
    const std::string n = std::to_string(i);
    right += ValueOf(**memory, "a",
                     "how deep the water was where boat number " + n + " lay at anchor that year s" + n +
                         " t" + n + " u" + n) == "value " + n;
  }
  EXPECT_GE(right, 450);
}

TEST(Memory, RefusesWhatCannotBeAKey) {
  testing::TempDir dir;
  const auto memory = Memory::Open(dir / "memory");
  ASSERT_TRUE(memory.ok());
  EXPECT_THAT(std::string((*memory)->Add("a", {{"fine", "x"}, {"?!", "x"}}).message()),
              HasSubstr("no letter"));
  EXPECT_EQ(ValueOf(**memory, "a", "fine"), "(nothing)");
  EXPECT_FALSE((*memory)->Add("with space", {{"k", "v"}}).ok());
  EXPECT_FALSE((*memory)->Add("a", {{std::string(kMostKeyBytes + 1, 'k'), "v"}}).ok());
  EXPECT_THAT(std::string(Memory::Open(dir / "none", false).status().message()), HasSubstr(dir / "none"));
}

}  // namespace
}  // namespace omni
