#include "cluster/state_holder.h"

#include <fstream>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/testing/temp_dir.h"

namespace omni {
namespace {

using ::testing::HasSubstr;
using ::testing::MatchesRegex;

TEST(StateHolderTest, AFolderIsKnownAgainAndOthersAreOthers) {
  const testing::TempDir one, other;
  std::string token;
  {
    const auto holder = StateHolder::Take(one.path());
    ASSERT_TRUE(holder.ok()) << holder.status();
    token = (*holder)->token();
    EXPECT_THAT(token, MatchesRegex("[0-9a-f]+"));
    EXPECT_EQ(token.size(), 32u);
  }
  EXPECT_EQ((*StateHolder::Take(one.path()))->token(), token);
  EXPECT_NE((*StateHolder::Take(other.path()))->token(), token);
}

TEST(StateHolderTest, TwoAtATimeCannotHaveIt) {
  const testing::TempDir dir;
  auto holder = StateHolder::Take(dir.path());
  ASSERT_TRUE(holder.ok());
  const absl::Status second = StateHolder::Take(dir.path()).status();
  EXPECT_EQ(second.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(second.message()), HasSubstr("another process"));
  holder->reset();
  EXPECT_TRUE(StateHolder::Take(dir.path()).ok());
}

TEST(StateHolderTest, WhatIsNoTokenIsReplacedAndAMissingFolderIsAnError) {
  const testing::TempDir dir;
  for (const char* text :
       {"", "0123", "0123456789abcdef0123456789abcdeX", "0123456789abcdef0123456789abcdef0"}) {
    std::ofstream(dir / "holder") << text;
    const auto holder = StateHolder::Take(dir.path());
    ASSERT_TRUE(holder.ok()) << holder.status();
    EXPECT_EQ((*holder)->token().size(), 32u);
    EXPECT_NE((*holder)->token(), text);
  }
  EXPECT_THAT(std::string(StateHolder::Take(dir / "none").status().message()), HasSubstr("none/holder"));
}

TEST(StateHolderTest, SeveralTakeFoldersOfTheirOwn) {
  const testing::TempDir dir;
  auto first = TakeFreeFolder(dir / "any");
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_EQ(first->dir, dir / "any/0");
  const auto second = TakeFreeFolder(dir / "any");
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(second->dir, dir / "any/1");
  first->holder = nullptr;
  EXPECT_EQ(TakeFreeFolder(dir / "any")->dir, dir / "any/0");
  EXPECT_EQ(TakeFolder(second->dir).status().code(), absl::StatusCode::kFailedPrecondition);
  std::ofstream(dir / "file") << "x";
  EXPECT_EQ(TakeFreeFolder(dir / "file").status().code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace omni
