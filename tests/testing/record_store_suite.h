// What every store of records does: a suite of tests over each of them.
#pragma once

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "store/state/record_store.h"

namespace omni::testing {

// One store, and what it needs to be there; empty at first.
struct RecordStoreUnderTest {
  virtual ~RecordStoreUnderTest() = default;
  virtual RecordStore& store() = 0;
  virtual void Restart() = 0;  // its process ends and another begins
};
struct RecordStoreKind {
  std::string name;
  std::function<std::unique_ptr<RecordStoreUnderTest>()> make;
};

class RecordStoreSuite : public ::testing::TestWithParam<RecordStoreKind> {
 protected:
  void SetUp() override {
    tested_ = GetParam().make();
    ASSERT_NE(tested_, nullptr);
  }
  RecordStore& store() { return tested_->store(); }
  std::vector<std::string> Keys(const std::string& prefix, const std::string& from = "", size_t most = 1000) {
    std::vector<std::string> keys;
    const absl::Status s = store().Scan(prefix, from, [&](std::string_view key, std::string_view) {
      keys.emplace_back(key);
      return keys.size() < most;
    });
    EXPECT_TRUE(s.ok()) << s;
    return keys;
  }
  std::optional<std::string> Get(const std::string& key) {
    const auto value = store().Get(key);
    EXPECT_TRUE(value.ok()) << value.status();
    return value.ok() ? *value : std::nullopt;
  }
  std::unique_ptr<RecordStoreUnderTest> tested_;
};
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(RecordStoreSuite);

TEST_P(RecordStoreSuite, KeepsWhatWasWrittenOverARestart) {
  const std::string bytes("\0\xff\n", 3);
  ASSERT_TRUE(store().Write({{"a", "1"}, {"b", bytes}, {"c", ""}}).ok());
  ASSERT_TRUE(store().Write({{"a", std::nullopt}, {"c", "3"}, {"never", std::nullopt}}).ok());
  tested_->Restart();
  EXPECT_EQ(Get("a"), std::nullopt);
  EXPECT_EQ(Get("b"), bytes);
  EXPECT_EQ(Get("c"), "3");
}

TEST_P(RecordStoreSuite, WalksAPrefixInOrderFromWhereItIsTold) {
  ASSERT_TRUE(
      store().Write({{"p/1", ""}, {"p/2", ""}, {"p/3", ""}, {"p", ""}, {"p0", ""}, {"q/1", ""}}).ok());
  using Strings = std::vector<std::string>;
  EXPECT_EQ(Keys("p/"), (Strings{"p/1", "p/2", "p/3"}));
  EXPECT_EQ(Keys("p/", "p/2"), (Strings{"p/2", "p/3"}));
  EXPECT_EQ(Keys("p/", std::string("p/2\0", 4)), (Strings{"p/3"}));
  EXPECT_EQ(Keys("p/", "", 2), (Strings{"p/1", "p/2"}));
  EXPECT_EQ(Keys("p/", "q"), Strings());
  EXPECT_EQ(Keys("none/"), Strings());
}

TEST_P(RecordStoreSuite, TakesAsManyChangesAsItSays) {
  const size_t most = std::min<size_t>(store().max_changes(), 2000);
  RecordWrites writes;
  for (size_t n = 0; n < most; ++n) writes.emplace("key/" + std::to_string(n), "value");
  ASSERT_TRUE(store().Write(writes).ok());
  EXPECT_EQ(Keys("key/", "", most + 1).size(), most);
  for (auto& [key, value] : writes) value.reset();
  ASSERT_TRUE(store().Write(writes).ok());
  EXPECT_TRUE(Keys("key/").empty());
}

TEST_P(RecordStoreSuite, ReadersSeeWholeWritesOnly) {
  ASSERT_TRUE(store().Write({{"x/1", "0"}, {"x/2", "0"}}).ok());
  std::atomic<bool> done = false;
  std::thread reader([&] {
    while (!done) {
      std::vector<std::string> values;
      const absl::Status s = store().Scan("x/", "", [&](std::string_view, std::string_view value) {
        values.emplace_back(value);
        return true;
      });
      EXPECT_TRUE(s.ok()) << s;
      ASSERT_EQ(values.size(), 2u);
      EXPECT_EQ(values.front(), values.back());
    }
  });
  for (int n = 1; n <= 50; ++n)
    EXPECT_TRUE(store().Write({{"x/1", std::to_string(n)}, {"x/2", std::to_string(n)}}).ok());
  done = true;
  reader.join();
}

TEST_P(RecordStoreSuite, RecoveringWithoutAFailureChangesNothing) {
  ASSERT_TRUE(store().Write({{"a", "1"}}).ok());
  ASSERT_TRUE(store().Recover().ok());
  EXPECT_EQ(Get("a"), "1");
  ASSERT_TRUE(store().Write({{"a", "2"}}).ok());
  EXPECT_EQ(Get("a"), "2");
}

}  // namespace omni::testing
