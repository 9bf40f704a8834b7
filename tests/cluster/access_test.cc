// Keys: how they are made, kept, shown, read again and refused.
#include "cluster/access.h"

#include <sys/stat.h>

#include <atomic>
#include <chrono>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/testing/recording_log.h"
#include "tests/testing/temp_dir.h"

namespace omni {
namespace {

using std::chrono::hours;
using std::chrono::seconds;
using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::MatchesRegex;
using ::testing::Not;
using ::testing::SizeIs;

constexpr KeyTime kNow{seconds(1'780'000'000)};

std::string Read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

class AccessTest : public ::testing::Test {
 protected:
  NewKey Make(const std::string& name, Scopes scopes, std::optional<seconds> valid = std::nullopt) {
    auto made = CreateKey(path_, name, scopes, valid, kNow);
    EXPECT_TRUE(made.ok()) << made.status();
    return made.ok() ? *made : NewKey();
  }
  void Open() {
    Access::Clocks clocks;
    clocks.now = [this] { return now_; };
    clocks.ticks = [this] { return ticks_; };
    auto access = Access::Open(path_, clocks);
    ASSERT_TRUE(access.ok()) << access.status();
    access_ = *std::move(access);
  }
  // Somebody asks, a second later.
  bool Knows(const NewKey& key) {
    ticks_ += seconds(1);
    return access_->Check(key.key).ok();
  }
  void Write(const std::string& text) {
    std::ofstream(path_ + ".new") << text;
    std::filesystem::rename(path_ + ".new", path_);
  }

  const testing::TempDir dir_;
  const std::string path_ = dir_.path() + "/folder/keys.json";
  std::chrono::system_clock::time_point now_ = kNow;
  std::chrono::steady_clock::time_point ticks_{hours(1)};
  std::unique_ptr<Access> access_;
};

TEST_F(AccessTest, AKeyIsShownOnceAndKeptAsItsHash) {
  const NewKey made = Make("notebook", Scopes(Scope::kInfer) | Scope::kAdmin, hours(24));
  EXPECT_THAT(made.key, MatchesRegex("omni_[0-9a-f]{12}_[0-9a-f]{64}"));
  const std::string text = Read(path_);
  EXPECT_THAT(text, HasSubstr(made.entry.id));
  EXPECT_THAT(text, Not(HasSubstr(made.key.substr(made.key.size() - 64))));
  struct stat st {};
  ASSERT_EQ(stat(path_.c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 07777, 0600u);
  const auto keys = ReadKeys(path_);
  ASSERT_TRUE(keys.ok()) << keys.status();
  ASSERT_THAT(*keys, SizeIs(1));
  EXPECT_EQ(keys->front(), made.entry);
  EXPECT_EQ(keys->front().hash, HashKey(made.key));
}

TEST_F(AccessTest, TheHashIsSha256) {
  const KeyHash hash = HashKey("abc");
  EXPECT_EQ(hash[0], 0xba);
  EXPECT_EQ(hash[1], 0x78);
  EXPECT_EQ(hash[31], 0xad);
}

TEST_F(AccessTest, TellsWhoseKeyItIsAndWhatItMayDo) {
  const NewKey one = Make("one", Scope::kInfer), two = Make("two", Scopes(Scope::kTasks) | Scope::kAdmin);
  Open();
  EXPECT_EQ(access_->keys(), 2u);
  const auto first = access_->Check(one.key), second = access_->Check(two.key);
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_EQ(first->name, "one");
  EXPECT_EQ(second->name, "two");
  EXPECT_TRUE(Allow(*first, Scope::kInfer).ok());
  EXPECT_TRUE(Allow(*second, Scope::kAdmin).ok());
  const absl::Status denied = Allow(*first, Scope::kAdmin);
  EXPECT_TRUE(absl::IsPermissionDenied(denied));
  EXPECT_THAT(std::string(denied.message()), HasSubstr("admin is needed"));
  EXPECT_TRUE(absl::IsPermissionDenied(Allow(*second, Scope::kInfer)));
}

TEST_F(AccessTest, RefusesWhatIsNotAKeyWithoutRepeatingIt) {
  const NewKey made = Make("one", Scope::kInfer), other = Make("other", Scope::kInfer);
  Open();
  std::string last = made.key, upper = made.key, crossed = made.key;
  last.back() = last.back() == '0' ? '1' : '0';
  upper[5] = 'A';
  crossed.replace(5, 12, other.entry.id);
  for (const std::string& key : {std::string(), last, upper, crossed, made.key + "0", made.key.substr(1),
                                 made.entry.id, std::string(1000, 'x'), std::string(82, '\0')}) {
    const absl::Status status = access_->Check(key).status();
    EXPECT_TRUE(absl::IsUnauthenticated(status)) << key;
    if (!key.empty()) {
      EXPECT_THAT(std::string(status.message()), Not(HasSubstr(key)));
    }
  }
}

TEST_F(AccessTest, AKeyEndsAtItsTime) {
  const NewKey made = Make("one", Scope::kInfer, seconds(60));
  Open();
  now_ = kNow + seconds(59);
  EXPECT_TRUE(access_->Check(made.key).ok());
  now_ = kNow + seconds(60);
  const absl::Status over = access_->Check(made.key).status();
  EXPECT_TRUE(absl::IsUnauthenticated(over));
  EXPECT_THAT(std::string(over.message()), HasSubstr("expired"));
  EXPECT_THAT(std::string(over.message()), HasSubstr(made.entry.id));
}

TEST_F(AccessTest, AHeaderIsBearerAndAKey) {
  for (const char* good : {"Bearer k", "bearer k", "BEARER   k ", "Bearer  k"}) {
    const auto key = BearerKey(good);
    ASSERT_TRUE(key.ok()) << good;
    EXPECT_EQ(*key, "k");
  }
  for (const std::string& bad :
       {std::string(), std::string("Bearer"), std::string("Bearer "), std::string("k"),
        std::string("Basic azp2"), std::string("Bearerk"), std::string("Bearer a b"),
        std::string("Bearer a\tb"), std::string("Bearer \xff"), "Bearer " + std::string(600, 'k'),
        std::string("Bearer a\0b", 10)}) {
    const absl::Status status = BearerKey(bad).status();
    EXPECT_TRUE(absl::IsUnauthenticated(status)) << bad;
    EXPECT_THAT(std::string(status.message()), Not(HasSubstr("azp2")));
  }
}

TEST_F(AccessTest, AChangedFileIsReadWithinASecond) {
  const testing::RecordingLog log;
  const NewKey one = Make("one", Scope::kInfer);
  Open();
  const NewKey two = Make("two", Scope::kInfer);
  EXPECT_FALSE(access_->Check(two.key).ok());
  ticks_ += std::chrono::milliseconds(999);
  EXPECT_FALSE(access_->Check(two.key).ok());
  ticks_ += std::chrono::milliseconds(1);
  EXPECT_TRUE(access_->Check(two.key).ok());
  ASSERT_TRUE(RevokeKey(path_, one.entry.id).ok());
  ticks_ += seconds(1);
  EXPECT_FALSE(access_->Check(one.key).ok());
  EXPECT_TRUE(access_->Check(two.key).ok());
  EXPECT_THAT(log.Messages("keys_reloaded"), SizeIs(2));
}

TEST_F(AccessTest, AFileThatIsNoneKeepsTheOldKeysAndIsSaidOnce) {
  const testing::RecordingLog log;
  const NewKey made = Make("one", Scope::kInfer);
  const std::string good = Read(path_);
  Open();
  int told = 0;
  for (const std::string& text :
       {std::string(""), std::string("{"), std::string("{\"version\":2,\"keys\":[]}"),
        std::string("{\"version\":1,\"keys\":[{\"id\":\"x\"}]}"), std::string(5 << 20, ' ')}) {
    Write(text);
    for (int i = 0; i < 3; ++i) EXPECT_TRUE(Knows(made));
    EXPECT_THAT(log.Messages("keys_not_reloaded"), SizeIs(++told));
    Write(good);
    EXPECT_TRUE(Knows(made));
  }
  std::filesystem::remove(path_);
  EXPECT_TRUE(Knows(made));
  EXPECT_THAT(log.Messages("keys_not_reloaded"), SizeIs(++told));
  EXPECT_THAT(log.Messages("keys_not_reloaded"), Each(HasSubstr(path_)));
  // Mended: all are gone, as it says.
  Write("{\"version\":1,\"keys\":[]}");
  EXPECT_FALSE(Knows(made));
}

// What keeps it from being taken is not in the file and need not change it.
TEST_F(AccessTest, AFileThatCouldNotBeReadOnceIsReadLater) {
  const testing::RecordingLog log;
  const NewKey one = Make("one", Scope::kInfer);
  Open();
  const NewKey two = Make("two", Scope::kInfer);
  ASSERT_EQ(chmod(path_.c_str(), 0666), 0);
  EXPECT_FALSE(Knows(two));
  ASSERT_EQ(chmod(path_.c_str(), 0600), 0);
  EXPECT_TRUE(Knows(two));
  EXPECT_THAT(log.Messages("keys_not_reloaded"), SizeIs(1));
}

TEST_F(AccessTest, AFileThatOthersMayWriteIsRefused) {
  const NewKey made = Make("one", Scope::kInfer);
  ASSERT_EQ(chmod(path_.c_str(), 0660), 0);
  const absl::Status status = Access::Open(path_).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("chmod 600"));
}

TEST_F(AccessTest, WithoutAFileItSaysHowToMakeOne) {
  const absl::Status status = Access::Open(path_).status();
  EXPECT_TRUE(absl::IsNotFound(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("omni key create"));
  EXPECT_TRUE(absl::IsNotFound(RevokeKey(path_, "0123456789ab").status()));
  EXPECT_FALSE(std::filesystem::exists(dir_.path() + "/folder"));
}

TEST_F(AccessTest, WhatCannotBeAKeyIsNotMade) {
  for (const char* name : {"", "a b", "a\n", "\xc3\xa4", "a/b"})
    EXPECT_TRUE(absl::IsInvalidArgument(CreateKey(path_, name, Scope::kInfer, std::nullopt, kNow).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(CreateKey(path_, "a", Scopes(), std::nullopt, kNow).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(CreateKey(path_, "a", Scope::kInfer, seconds(0), kNow).status()));
  EXPECT_FALSE(Scopes::Parse("").ok());
  EXPECT_FALSE(Scopes::Parse("infer,").ok());
  EXPECT_FALSE(Scopes::Parse("infer,all").ok());
  EXPECT_EQ(Scopes::Parse("admin,infer")->Text(), "infer,admin");
  EXPECT_EQ(*Scopes::Parse("infer,tasks,admin"), Scopes::All());
}

TEST_F(AccessTest, KeysMadeAtOnceAreAllThere) {
  constexpr int kThreads = 4, kEach = 5;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < kEach; ++i)
        EXPECT_TRUE(CreateKey(path_, "n", Scope::kInfer, std::nullopt, kNow).ok());
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(*ReadKeys(path_), SizeIs(kThreads * kEach));
}

TEST_F(AccessTest, ManyMayCheckWhileTheFileChanges) {
  const NewKey kept = Make("kept", Scope::kInfer);
  std::atomic<int64_t> now{0};
  Access::Clocks clocks;
  clocks.now = [] { return kNow; };
  clocks.ticks = [&] { return std::chrono::steady_clock::time_point(seconds(++now)); };
  auto access = Access::Open(path_, clocks);
  ASSERT_TRUE(access.ok());
  std::vector<std::jthread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&](const std::stop_token& stop) {
      while (!stop.stop_requested()) EXPECT_TRUE((*access)->Check(kept.key).ok());
    });
  }
  for (int i = 0; i < 10; ++i) Make("other", Scope::kAdmin);
  threads.clear();
  EXPECT_TRUE((*access)->Check(kept.key).ok());
  EXPECT_EQ((*access)->keys(), 11u);
}

TEST_F(AccessTest, NothingSecretIsInTheLog) {
  const testing::RecordingLog log;
  const NewKey made = Make("one", Scope::kInfer);
  Open();
  // Somebody put the key itself where its hash belongs.
  Write(
      "{\"version\":1,\"keys\":[{\"id\":\"0123456789ab\",\"name\":\"n\",\"scopes\":[\"infer\"],"
      "\"created\":\"2026-01-01T00:00:00Z\",\"sha256\":\"" +
      made.key + "\"}]}");
  EXPECT_TRUE(Knows(made));
  ASSERT_THAT(log.lines(), Not(IsEmpty()));
  const std::string secret = made.key.substr(made.key.size() - 64);
  for (const auto& line : log.lines()) EXPECT_THAT(line.message, Not(HasSubstr(secret)));
}

}  // namespace
}  // namespace omni
