#include "actors/memory.h"

#include <cerrno>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/testing/file_calls.h"
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
  // What is too long is not read for its words.
  EXPECT_THAT(std::string((*memory)->Add("a", {{std::string(70'000, '?'), "x"}}).message()),
              HasSubstr("a key of 70000 bytes"));
}

TEST(Memory, AScopeWithARecordThatNobodyCouldHaveAddedSaysSoUntilItIsForgotten) {
  testing::TempDir dir;
  {
    const auto records = MemoryRecords::Open(dir / "memory", true);
    ASSERT_TRUE((*records)->Add("a", {{"a key", "x"}, {"?!", "y"}}).ok());
    ASSERT_TRUE((*records)->Add("b", {{"a key", "x"}}).ok());
  }
  const auto memory = Memory::Open(dir / "memory");
  ASSERT_TRUE(memory.ok()) << memory.status();
  for (const absl::Status& status :
       {(*memory)->Ask("a", "a key").status(), (*memory)->Hold("", {"a", ""}).status()}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
    EXPECT_THAT(std::string(status.message()), HasSubstr("scope 'a' has a record whose key '?!'"));
  }
  EXPECT_EQ(ValueOf(**memory, "b", "a key"), "x");
  EXPECT_EQ(*(*memory)->Forget("a", std::nullopt), 2);
  EXPECT_EQ(ValueOf(**memory, "a", "a key"), "(nothing)");
}

std::string HeldValue(const HeldMemory& held, const std::string& key) {
  const std::optional<Remembered> got = held.memory->Ask(TextVector(key));
  return got.has_value() ? got->value : "(nothing)";
}

TEST(Memory, AnAnswerHoldsTheScopeAsItWasWhenItBegan) {
  testing::TempDir dir;
  const auto memory = Memory::Open(dir / "memory");
  ASSERT_TRUE(memory.ok());
  ASSERT_TRUE((*memory)->Add("a", {{"the captain's name", "Ahab"}}).ok());
  const auto first = (*memory)->Hold("", {"a", ""});
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_EQ((*memory)->Hold("", {"a", ""})->version, first->version);
  ASSERT_TRUE((*memory)->Add("a", {{"the captain's name", "Nemo"}, {"the ship's name", "Nautilus"}}).ok());
  const auto second = (*memory)->Hold("", {"a", ""});
  ASSERT_TRUE(second.ok());
  EXPECT_NE(second->version, first->version);
  EXPECT_EQ(HeldValue(*first, "the captain's name"), "Ahab");
  EXPECT_EQ(HeldValue(*first, "the ship's name"), "(nothing)");
  EXPECT_EQ(HeldValue(*second, "the captain's name"), "Nemo");
  // By its version it is had again: the very one while somebody holds it, else made of its records.
  EXPECT_EQ((*memory)->Hold("", {"a", first->version})->memory, first->memory);
  const std::string version = first->version;
  const auto other = Memory::Open(dir / "other");
  ASSERT_TRUE((*other)->Add("a", {{"the captain's name", "Ahab"}}).ok());
  EXPECT_EQ((*other)->Hold("", {"a", ""})->version, version) << "it follows from what is in it alone";
  ASSERT_TRUE((*other)->Add("a", {{"x", "y"}}).ok());
  const auto made = (*other)->Hold("", {"a", version});
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ(HeldValue(*made, "x"), "(nothing)");
  EXPECT_EQ(HeldValue(*made, "the captain's name"), "Ahab");
}

TEST(Memory, AVersionThatIsNotThereIsRefused) {
  testing::TempDir dir;
  const auto memory = Memory::Open(dir / "memory");
  ASSERT_TRUE((*memory)->Add("a", {{"the captain's name", "Ahab"}}).ok());
  const std::string version = (*memory)->Hold("", {"a", ""})->version;
  EXPECT_THAT(std::string((*memory)->Hold("", {"b", ""}).status().message()),
              HasSubstr("memory scope 'b': nothing is remembered in it"));
  const auto other = Memory::Open(dir / "other");
  ASSERT_TRUE((*other)->Add("a", {{"the captain's name", "Nemo"}}).ok());
  for (const std::string& there :
       {version, std::string("2-00"), std::string("x"), std::string("99999999999-1"), std::string("-1-00")}) {
    const auto refused = (*other)->Hold("", {"a", there});
    EXPECT_TRUE(absl::IsFailedPrecondition(refused.status())) << there << refused.status();
  }
  EXPECT_THAT(std::string((*other)->Hold("", {"a", version}).status().message()),
              HasSubstr("put the memory back that it began with, or begin anew"));
  // What is forgotten takes the versions with it that had it.
  ASSERT_EQ((*memory)->Forget("a", "the CAPTAIN'S name").value(), 1);
  EXPECT_TRUE(absl::IsFailedPrecondition((*memory)->Hold("", {"a", version}).status()));
}

TEST(Memory, ForgetsAKeyOrAScope) {
  testing::TempDir dir;
  {
    const auto memory = Memory::Open(dir / "memory");
    ASSERT_TRUE((*memory)->Add("a", {{"one key", "1"}, {"One key!", "2"}, {"key one", "3"}}).ok());
    ASSERT_TRUE((*memory)->Add("b", {{"one key", "4"}}).ok());
    EXPECT_EQ((*memory)->Forget("a", "one key").value(), 2);
    EXPECT_EQ((*memory)->Forget("a", "one key").value(), 0);
    EXPECT_EQ(ValueOf(**memory, "a", "key one"), "3");
    EXPECT_EQ(ValueOf(**memory, "b", "one key"), "4");
    EXPECT_EQ((*memory)->Forget("b", std::nullopt).value(), 1);
    EXPECT_EQ(ValueOf(**memory, "b", "one key"), "(nothing)");
  }
  const auto memory = Memory::Open(dir / "memory", false);
  EXPECT_EQ(ValueOf(**memory, "b", "one key"), "(nothing)");
  const auto stats = (*memory)->Stats();
  ASSERT_TRUE(stats.ok() && stats->size() == 1);
  EXPECT_EQ((*stats)[0].associations, 1);
}

TEST(Memory, OwnersKnowNothingOfEachOther) {
  testing::TempDir dir;
  const auto memory = Memory::Open(dir / "memory");
  ASSERT_TRUE((*memory)->Add("a", {{"a key", "nobody's"}}).ok());
  ASSERT_TRUE((*memory)->Add("a", {{"a key", "Anna's"}}, "Anna").ok());
  EXPECT_EQ(ValueOf(**memory, "a", "a key"), "nobody's");
  EXPECT_EQ((*(*memory)->Ask("a", "a key", "Anna"))->value, "Anna's");
  EXPECT_FALSE((*memory)->Ask("a", "a key", "Bert")->has_value());
  EXPECT_EQ((*memory)->Hold("Bert", {"a", ""}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ((*memory)->Forget("a", std::nullopt, "Bert").value(), 0);
  EXPECT_EQ((*memory)->Stats("Anna")->at(0).scope, "a");
  EXPECT_EQ((*memory)->Stats()->size(), 1u);
  EXPECT_EQ((*memory)->Stats("Ann")->size(), 0u);
  EXPECT_EQ((*memory)->AllStats()->size(), 2u);
  // Nobody reaches another's by a name that looks like one on disk.
  EXPECT_FALSE((*memory)->Ask("416e6e61~a", "a key").ok());
  EXPECT_FALSE((*memory)->Add("416e6e61~a", {{"a key", "x"}}).ok());
}

TEST(Memory, IsMadeWithTheFirstTextAndSaysWhyItCannotBe) {
  testing::TempDir dir;
  const auto memory = Memory::At(dir / "memory");
  EXPECT_EQ(ValueOf(*memory, "a", "a key"), "(nothing)");
  EXPECT_EQ(memory->Stats()->size(), 0u);
  EXPECT_EQ(memory->Forget("a", std::nullopt).value(), 0);
  EXPECT_FALSE(std::filesystem::exists(dir / "memory"));
  ASSERT_TRUE(memory->Add("a", {{"a key", "x"}}).ok());
  EXPECT_EQ(ValueOf(*memory, "a", "a key"), "x");
  // A folder that somebody else has open, and one that cannot be made: each call says so, until it can.
  const auto second = Memory::At(dir / "memory");
  EXPECT_THAT(std::string(second->Add("a", {{"b", "y"}}).message()), HasSubstr("memory"));
  EXPECT_FALSE(second->Ask("a", "a key").ok());
  const auto nowhere = Memory::At(dir / "missing/memory");
  EXPECT_THAT(std::string(nowhere->Add("a", {{"b", "y"}}).message()), HasSubstr("missing"));
  std::filesystem::create_directory(dir / "missing");
  EXPECT_TRUE(nowhere->Add("a", {{"b", "y"}}).ok());
}

TEST(Memory, HoldsSoManyVersionsAndNoMore) {
  testing::TempDir dir;
  const auto memory = Memory::At(dir / "memory", {.held_versions = 2});
  std::vector<HeldMemory> held;
  const auto add = [&](int i) { return memory->Add("a", {{"key " + std::to_string(i), "x"}}); };
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE(add(i).ok());
    held.push_back(memory->Hold("", {"a", ""}).value());
  }
  const absl::Status refused = add(2);
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("answers under way hold 2 earlier versions"));
  EXPECT_EQ(ValueOf(*memory, "a", "key 2"), "(nothing)");
  held.pop_back();  // the present one is held by nobody, and may change
  EXPECT_TRUE(add(3).ok());
  EXPECT_TRUE(add(4).ok());
  EXPECT_EQ(HeldValue(held[0], "key 0"), "x");
  EXPECT_EQ(HeldValue(held[0], "key 4"), "(nothing)");
}

TEST(Memory, WhatIsNotAskedForLongIsReadAgain) {
  testing::TempDir dir;
  const auto memory = Memory::At(dir / "memory", {.scope_bytes = 1});
  for (const char* scope : {"a", "b", "c"})
    ASSERT_TRUE(memory->Add(scope, {{"a key", std::string("of ") + scope}}).ok());
  for (int round = 0; round < 2; ++round) {
    for (const char* scope : {"a", "b", "c"})
      EXPECT_EQ(ValueOf(*memory, scope, "a key"), std::string("of ") + scope);
  }
  // And with what was added while it was not in memory.
  ASSERT_TRUE(memory->Add("a", {{"another one", "y"}}).ok());
  EXPECT_EQ(ValueOf(*memory, "a", "another one"), "y");
  EXPECT_EQ(ValueOf(*memory, "a", "a key"), "of a");
}

// Of writes to the database's log alone.
class FullDisk : public testing::FileWatcher {
 public:
  bool on = false;
  int Before(const testing::FileCall& call) override {
    return on && call.kind == testing::FileCall::Kind::kWrite && call.path.ends_with(".log") ? ENOSPC : 0;
  }
};

TEST(Memory, OfAFullDiskItSaysSoAndGoesOnWhenThereIsRoom) {
  testing::TempDir dir;
  FullDisk full;
  const testing::WatchFiles watch(full);
  {
    const auto memory = Memory::At(dir / "memory");
    ASSERT_TRUE(memory->Add("a", {{"a key", "before"}}).ok());
    EXPECT_EQ(ValueOf(*memory, "a", "a key"), "before");
    const auto held = memory->Hold("", {"a", ""});
    full.on = true;
    const absl::Status refused = memory->Add("a", {{"a key", "refused"}});
    EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted) << refused;
    EXPECT_THAT(std::string(refused.message()), HasSubstr("memory"));
    EXPECT_EQ(memory->Forget("a", "a key").status().code(), absl::StatusCode::kResourceExhausted);
    EXPECT_EQ(ValueOf(*memory, "a", "a key"), "before");
    EXPECT_EQ(HeldValue(*held, "a key"), "before");
    full.on = false;
    ASSERT_TRUE(memory->Add("a", {{"another", "after"}}).ok());
    EXPECT_EQ(ValueOf(*memory, "a", "another"), "after");
  }
  // What is in memory and what is on disk say the same.
  const auto memory = Memory::Open(dir / "memory", false);
  EXPECT_EQ(ValueOf(**memory, "a", "another"), "after");
  EXPECT_EQ(ValueOf(**memory, "a", "a key"), "before");
}

}  // namespace
}  // namespace omni
