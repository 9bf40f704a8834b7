#include "cluster/http/response_store.h"

#include <string>

#include <gtest/gtest.h>

namespace omni {
namespace {

StoredResponse Of(size_t bytes) { return {std::string(bytes, 'x'), {{"user", "hello"}}}; }

TEST(ResponseStoreTest, AResponseIsItsCallersOwn) {
  ResponseStore store;
  store.Put("ann", "1", Of(10));
  ASSERT_NE(store.Find("ann", "1"), nullptr);
  EXPECT_EQ(store.Find("ann", "1")->json, std::string(10, 'x'));
  EXPECT_EQ(store.Find("ben", "1"), nullptr);
  EXPECT_EQ(store.Find("", "1"), nullptr);
  EXPECT_EQ(store.Find("ann", "2"), nullptr);
  EXPECT_FALSE(store.Remove("ben", "1"));
  EXPECT_TRUE(store.Remove("ann", "1"));
  EXPECT_FALSE(store.Remove("ann", "1"));
  EXPECT_EQ(store.Find("ann", "1"), nullptr);
  EXPECT_EQ(store.bytes(), 0u);
}

TEST(ResponseStoreTest, ItStaysBoundedByForgettingTheOldestOfWhoeverHasMost) {
  constexpr size_t kMost = 100'000;
  ResponseStore store(kMost);
  store.Put("ben", "b", Of(1000));
  for (int i = 0; i < 1000; ++i) {
    store.Put("ann", std::to_string(i), Of(1000));
    EXPECT_LE(store.bytes(), kMost);
  }
  EXPECT_NE(store.Find("ben", "b"), nullptr);
  EXPECT_NE(store.Find("ann", "999"), nullptr);
  EXPECT_NE(store.Find("ann", "990"), nullptr);
  EXPECT_EQ(store.Find("ann", "0"), nullptr);
  store.Put("ann", "large", Of(kMost));  // alone more than all may be
  EXPECT_EQ(store.Find("ann", "large"), nullptr);
  EXPECT_NE(store.Find("ann", "999"), nullptr);
}

}  // namespace
}  // namespace omni
