#include "cluster/cluster_records.h"

#include <string>

#include <absl/strings/str_cat.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace omni {
namespace {

using ::testing::HasSubstr;

TEST(ClusterRecordsTest, RecordsAreReadAsTheyWereWritten) {
  const ClusterRecord cluster{"name \"x\"", "hash", 4096, 3, "id"};
  EXPECT_EQ(*ParseClusterRecord(ToJson(cluster)), cluster);
  const auto leader = ParseLeaderRecord(ToJson(LeaderRecord{{"n"}, "host:1"}));
  EXPECT_EQ(leader->node.value, "n");
  EXPECT_EQ(leader->address, "host:1");
  EXPECT_EQ(leader->token, "");
  EXPECT_EQ(ParseLeaderRecord(ToJson(LeaderRecord{{"n"}, "host:1", "t"}))->token, "t");
  const LoadsRecord loads{0, 0.25, 1, 0.12345};
  EXPECT_EQ(*ParseLoadsRecord(ToJson(loads)), loads);
  for (bool draining : {false, true}) {
    const NodeRecord node{"host:2", uint64_t{1} << 60, draining};
    EXPECT_EQ(*ParseNodeRecord(ToJson(node)), node);
  }
  for (const RegionRecord& region :
       {RegionRecord{{"a"}, {}, {}, {}}, RegionRecord{{"a"}, {"b"}, {"c"}, {"d"}}, RegionRecord{}}) {
    EXPECT_EQ(*ParseRegionRecord(ToJson(region)), region);
  }
}

TEST(ClusterRecordsTest, NoNameIsTooOddToBeWritten) {
  const std::string odd = "n\xff\n\"";
  EXPECT_EQ(ParseLeaderRecord(ToJson(LeaderRecord{{odd}, odd}))->node.value, "n\uFFFD\n\"");
  EXPECT_EQ(ParseClusterRecord(ToJson(ClusterRecord{odd, "h", 1, 1, odd}))->name, "n\uFFFD\n\"");
  EXPECT_EQ(ParseNodeRecord(ToJson(NodeRecord{odd, 1, false}))->address, "n\uFFFD\n\"");
  EXPECT_EQ(ParseRegionRecord(ToJson(RegionRecord{{odd}, {}, {}, {}}))->owner.value, "n\uFFFD\n\"");
}

TEST(ClusterRecordsTest, KeysOfRegionsAreInTheirOrder) {
  EXPECT_EQ(RegionKey(RegionId(7)), "swarm/region/0007");
  EXPECT_LT(RegionKey(RegionId(9)), RegionKey(RegionId(10)));
  for (int32_t r : {0, 7, 9999, 12345}) EXPECT_EQ(*RegionOfKey(RegionKey(RegionId(r))), RegionId(r));
  for (const char* key : {"", "x", "-1", "1x", "99999999999"})
    EXPECT_EQ(RegionOfKey(absl::StrCat(kRegionPrefix, key)).status().code(), absl::StatusCode::kDataLoss)
        << key;
  EXPECT_EQ(RegionOfKey("swarm/node/1").status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(NodeKey({"n"}), "swarm/node/n");
}

TEST(ClusterRecordsTest, WhatIsNoRecordIsDataLoss) {
  for (const char* text :
       {"", "x", "null", "[]", "{}", "{\"owner\":1}", "{\"owner\":\"a\"", "[{\"owner\":\"a\"}]"}) {
    const absl::Status status = ParseRegionRecord(text).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << text;
    EXPECT_THAT(std::string(status.message()), HasSubstr("record of a region"));
    EXPECT_EQ(ParseClusterRecord(text).status().code(), absl::StatusCode::kDataLoss) << text;
    EXPECT_EQ(ParseLeaderRecord(text).status().code(), absl::StatusCode::kDataLoss) << text;
    EXPECT_EQ(ParseNodeRecord(text).status().code(), absl::StatusCode::kDataLoss) << text;
  }
  for (const char* text : {"", "[]", "{\"shares\":[2]}", "{\"shares\":[\"1\"]}", "{\"shares\":{}}"})
    EXPECT_EQ(ParseLoadsRecord(text).status().code(), absl::StatusCode::kDataLoss) << text;
  // Members of another kind count as not there, and what a later program adds does not matter.
  EXPECT_EQ(*ParseNodeRecord("{\"address\":\"a\",\"offered_bytes\":-3,\"draining\":7,\"more\":[]}"),
            (NodeRecord{"a", 0, false}));
}

}  // namespace
}  // namespace omni
