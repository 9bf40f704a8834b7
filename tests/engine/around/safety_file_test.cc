#include "engine/around/safety_file.h"

#include <cstring>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <xxhash.h>

namespace omni {
namespace {

using ::testing::HasSubstr;

Polytope Named(const std::string& name, int64_t d, float bound) {
  Polytope p;
  p.name = name;
  p.d = d;
  p.epsilon = 0.25f;
  p.normals.assign(static_cast<size_t>(2 * d), 0);
  p.normals[0] = 1;
  p.normals[static_cast<size_t>(d)] = -1;
  p.bounds = {bound, bound};
  p.labels = {"above", "below"};
  return p;
}

PolytopeFile TwoOfThem() { return {"abcd", {Named("general", 3, 1), Named("medical", 3, 2)}}; }

std::string MessageOf(const absl::Status& s) { return std::string(s.message()); }

TEST(SafetyFile, WhatIsWrittenIsRead) {
  const absl::StatusOr<PolytopeFile> read = ReadPolytopes(WritePolytopes(TwoOfThem()));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->model_hash, "abcd");
  ASSERT_EQ(read->polytopes.size(), 2u);
  const Polytope want = Named("medical", 3, 2), &got = read->polytopes[1];
  EXPECT_EQ(got.name, want.name);
  EXPECT_EQ(got.epsilon, want.epsilon);
  EXPECT_EQ(got.normals, want.normals);
  EXPECT_EQ(got.bounds, want.bounds);
  EXPECT_EQ(got.labels, want.labels);
}

// As docs/formats/polytopes.md has it.
TEST(SafetyFile, TheBytesAreThePages) {
  const std::string bytes = WritePolytopes({"ab", {Named("g", 1, 1)}});
  std::string want = "OMNIPOLY";
  const auto put = [&](auto value) { want.append(reinterpret_cast<const char*>(&value), sizeof value); };
  for (uint32_t n : {1u, 1u, 1u}) put(n);
  want += std::string("\x02") + "ab" + "\x01" + "g";
  put(0.25f);
  put(uint32_t{2});
  put(1.0f);
  put(1.0f);
  want += std::string("\x05") + "above" + "\x05" + "below";
  put(1.0f);
  put(-1.0f);
  put(static_cast<uint64_t>(XXH3_64bits(want.data(), want.size())));
  EXPECT_EQ(bytes, want);
}

TEST(SafetyFile, CutAndAlteredBytesAreRefused) {
  const std::string bytes = WritePolytopes(TwoOfThem());
  for (size_t size = 0; size < bytes.size(); ++size)
    EXPECT_FALSE(ReadPolytopes(bytes.substr(0, size)).ok()) << size;
  for (size_t i = 0; i < bytes.size(); ++i) {
    std::string altered = bytes;
    altered[i] = static_cast<char>(altered[i] ^ 0x10);
    EXPECT_FALSE(ReadPolytopes(altered).ok()) << i;
  }
  EXPECT_FALSE(ReadPolytopes(bytes + "x").ok());
}

TEST(SafetyFile, BytesThatFitTheirChecksumButNotTheFormatAreRefused) {
  const auto refused = [](const std::string& why, PolytopeFile file) {
    EXPECT_THAT(MessageOf(ReadPolytopes(WritePolytopes(file)).status()), HasSubstr(why));
  };
  refused("0 of width 0", {"", {}});
  refused("two are named 'general'", {"", {Named("general", 3, 1), Named("general", 3, 1)}});
  refused("its name must have", {"", {Named("with space", 3, 1)}});
  PolytopeFile file = TwoOfThem();
  file.polytopes[1].normals[0] = 0.5f;
  refused("normal 0 ('above') has length 0.5", file);
  file = TwoOfThem();
  file.polytopes[0].bounds[1] = std::numeric_limits<float>::infinity();
  refused("bound 1 is not finite", file);
  file = TwoOfThem();
  file.polytopes[0].epsilon = -1;
  refused("epsilon is -1", file);
  // Counts that promise more than there is.
  std::string bytes = WritePolytopes(TwoOfThem());
  for (const size_t at : {size_t{12}, size_t{16}, size_t{20 + 1 + 4 + 1 + 7 + 4}}) {
    std::string altered = bytes;
    const uint32_t many = 60;
    std::memcpy(altered.data() + at, &many, sizeof many);
    const uint64_t checksum = XXH3_64bits(altered.data(), altered.size() - 8);
    std::memcpy(altered.data() + altered.size() - 8, &checksum, sizeof checksum);
    EXPECT_FALSE(ReadPolytopes(altered).ok()) << at;
  }
}

TEST(SafetyFile, ASetIsOfOneModelAndHasNoEmptyPolytope) {
  const std::string bytes = WritePolytopes(TwoOfThem());
  const auto set = PolytopeSet::Parse(bytes, "p.omni");
  ASSERT_TRUE(set.ok()) << set.status();
  EXPECT_EQ((*set)->first(), "general");
  EXPECT_NE((*set)->Find("medical"), nullptr);
  EXPECT_THAT(MessageOf((*set)->Has("creative")),
              HasSubstr("no polytope 'creative'; there are general, medical"));
  EXPECT_TRUE((*set)->Fits(3, "abcd").ok());
  EXPECT_THAT(MessageOf((*set)->Fits(4, "abcd")),
              HasSubstr("p.omni: its polytopes have width 3, the model 4"));
  EXPECT_THAT(MessageOf((*set)->Fits(3, "ef")), HasSubstr("were built for model 'abcd'"));
  EXPECT_THAT(
      MessageOf(PolytopeSet::Parse(WritePolytopes({"", {Named("general", 3, -1)}}), "p.omni").status()),
      HasSubstr("p.omni: polytope 'general' is empty"));
}

}  // namespace
}  // namespace omni
