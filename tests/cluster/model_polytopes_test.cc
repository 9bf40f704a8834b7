// The file of polytopes while it is replaced, on a clock that the test sets.
#include "cluster/model_polytopes.h"

#include <chrono>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/testing/polytopes.h"
#include "tests/testing/recording_log.h"
#include "tests/testing/temp_dir.h"

namespace omni {
namespace {

using omni::testing::PolytopeBytes;
using omni::testing::RandomPolytope;
using omni::testing::RecordingLog;
using omni::testing::TempDir;
using ::testing::HasSubstr;

class ModelPolytopesTest : public ::testing::Test {
 protected:
  std::string Path() { return dir_ / kPolytopesFile; }
  std::string Folder() { return std::filesystem::path(Path()).parent_path().string(); }
  void Write(const std::string& bytes) {
    // As a file is replaced: another inode.
    std::ofstream(dir_ / "new", std::ios::binary) << bytes;
    std::filesystem::rename(dir_ / "new", Path());
  }
  static std::string Bytes(float bound, const std::string& name = "general", int64_t d = 8,
                           const std::string& hash = "") {
    return PolytopeBytes({RandomPolytope(name, d, 6, bound, 1)}, hash);
  }
  absl::StatusOr<std::unique_ptr<ModelPolytopes>> Open(const std::string& named = "") {
    return ModelPolytopes::Open({named, Folder(), "abcd", 8}, [this] { return ticks_; });
  }
  void Later() { ticks_ += std::chrono::seconds(2); }
  static std::string Message(const absl::Status& s) { return std::string(s.message()); }

  TempDir dir_;
  std::chrono::steady_clock::time_point ticks_;
};

TEST_F(ModelPolytopesTest, ThoseBesideTheModelAreThereFromWhenTheirFileIs) {
  const auto polytopes = *Open();
  const auto none = polytopes->Take({"general", ""});
  EXPECT_EQ(none.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(none.status()), HasSubstr("there are none here"));
  EXPECT_THAT(Message(none.status()), HasSubstr(Path()));
  Write(Bytes(1));
  Later();
  const auto held = polytopes->Take({"general", ""});
  ASSERT_TRUE(held.ok()) << held.status();
  EXPECT_EQ(held->projector->polytope().half_spaces(), 6);
}

TEST_F(ModelPolytopesTest, AFileThatIsReplacedIsReadAgainAndWhoHasTheOldOneKeepsIt) {
  Write(Bytes(1));
  const auto polytopes = *Open(Path());
  const auto before = *polytopes->Take({"general", ""});
  Write(Bytes(2));
  Later();
  const auto after = *polytopes->Take({"general", ""});
  EXPECT_NE(before.hash, after.hash);
  EXPECT_EQ(before.projector->polytope().bounds[0], 1);
  EXPECT_EQ(after.projector->polytope().bounds[0], 2);
  // What goes on with the old one does not go on with the new one.
  const auto mixed = polytopes->Take({"general", before.hash});
  EXPECT_EQ(mixed.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Message(mixed.status()), HasSubstr(after.hash));
  // The same half-spaces are the same polytope, under any name.
  Write(Bytes(1, "other"));
  Later();
  EXPECT_EQ(polytopes->Take({"other", ""})->hash, before.hash);
  EXPECT_THAT(Message(polytopes->Take({"general", ""}).status()), HasSubstr("there are other"));
}

TEST_F(ModelPolytopesTest, AFileThatCannotBeUsedLeavesTheOldOneInForceAndIsSaid) {
  Write(Bytes(1));
  const auto polytopes = *Open(Path());
  const std::string hash = polytopes->Take({"general", ""})->hash;
  Polytope empty = RandomPolytope("general", 8, 2, -1, 1);
  for (size_t i = 0; i < 8; ++i) empty.normals[8 + i] = -empty.normals[i];
  for (const std::string& bad : {std::string("nothing"), PolytopeBytes({empty}), Bytes(1, "general", 9),
                                 Bytes(1, "general", 8, "another model"), Bytes(2).substr(0, 60)}) {
    RecordingLog log;
    Write(bad);
    Later();
    EXPECT_EQ(polytopes->Take({"general", ""})->hash, hash);
    EXPECT_EQ(log.Messages("polytopes_not_reloaded").size(), 1u);
  }
  std::filesystem::remove(Path());
  Later();
  EXPECT_EQ(polytopes->Take({"general", ""})->hash, hash);
  Write(Bytes(3));
  Later();
  EXPECT_NE(polytopes->Take({"general", ""})->hash, hash);
}

TEST_F(ModelPolytopesTest, ANamedFileIsReadAtOnce) {
  EXPECT_THAT(Message(Open(dir_ / "nowhere").status()), HasSubstr("nowhere"));
  Write(Bytes(1, "general", 9));
  EXPECT_THAT(Message(Open(Path()).status()), HasSubstr("width 9, the model 8"));
  // What nobody named is not in the way of who asks for nothing.
  EXPECT_TRUE(Open().ok());
  EXPECT_THAT(Message((*Open())->Take({"general", ""}).status()), HasSubstr("width 9, the model 8"));
}

}  // namespace
}  // namespace omni
