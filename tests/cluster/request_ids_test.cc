#include "cluster/request_ids.h"

#include <set>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace omni {
namespace {

using ::testing::MatchesRegex;

constexpr char kTrace[] = "0af7651916cd43dd8448eb211c80319c";
const std::string kParent = std::string("00-") + kTrace + "-b7ad6b7169203331-01";

TEST(RequestIds, AClientsIdIsTakenIfItIsOne) {
  for (const std::string id : {"a", "req_01J-9.x:/+=@", "0123456789abcdef"})
    EXPECT_EQ(ReadRequestIds(id, "").request, id);
  EXPECT_EQ(ReadRequestIds(std::string(kMostRequestId, 'x'), "").request, std::string(kMostRequestId, 'x'));
}

TEST(RequestIds, WhatIsNoneIsReplaced) {
  std::set<std::string> seen;
  for (const std::string& id :
       {std::string(), std::string(kMostRequestId + 1, 'x'), std::string("a b"), std::string("a\r\nX: y"),
        std::string("\xc3\xa9"), std::string("\"{}\""), std::string("a\0b", 3)}) {
    const std::string made = ReadRequestIds(id, "").request;
    EXPECT_THAT(made, MatchesRegex("[0-9a-f]{32}"));
    EXPECT_TRUE(seen.insert(made).second);
  }
}

TEST(RequestIds, ATraceIsGoneOnWithAsAPartOfItsOwn) {
  const RequestIds ids = ReadRequestIds("", kParent);
  EXPECT_EQ(ids.trace, kTrace);
  EXPECT_THAT(ids.span, MatchesRegex("[0-9a-f]{16}"));
  EXPECT_NE(ids.span, "b7ad6b7169203331");
  EXPECT_EQ(ids.traceparent, "00-" + ids.trace + "-" + ids.span + "-01");
  EXPECT_NE(ReadRequestIds("", kParent).span, ids.span);
}

TEST(RequestIds, ALaterVersionIsReadAsThisOne) {
  EXPECT_EQ(ReadRequestIds("", "cc" + kParent.substr(2)).trace, kTrace);
  EXPECT_EQ(ReadRequestIds("", "cc" + kParent.substr(2) + "-what-is-new").trace, kTrace);
  EXPECT_EQ(ReadRequestIds("", "cc" + kParent.substr(2) + "what").trace, "");
}

TEST(RequestIds, AMalformedTraceIsIgnored) {
  const std::string zeros(32, '0');
  std::string upper = kParent;
  upper[5] = 'F';
  for (const std::string& bad :
       {std::string(), kParent.substr(1), kParent + "-x", kParent + " ", "ff" + kParent.substr(2), upper,
        "0x" + kParent.substr(2), "00-" + zeros + kParent.substr(35),
        kParent.substr(0, 36) + "0000000000000000-01", kParent.substr(0, 53) + "0g",
        kParent.substr(0, 35) + "_" + kParent.substr(36), std::string(55, '-')}) {
    const RequestIds ids = ReadRequestIds("r", bad);
    EXPECT_EQ(ids.trace + ids.span + ids.traceparent, "") << bad;
    EXPECT_EQ(ids.request, "r");
  }
}

}  // namespace
}  // namespace omni
