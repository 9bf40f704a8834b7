#include "store/partial/partial_start.h"

#include <filesystem>
#include <functional>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/store/partial/partial_fixture.h"

namespace omni {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using testing::CopyTiles;
using testing::FileBytes;
using ::testing::HasSubstr;
using testing::StartFrom;

class PartialStartTest : public testing::PartialTest {
 protected:
  std::string Manifest(const char* name) { return FileBytes(whole_dir() + "/" + name); }
  std::string hash() const { return whole_->hash(); }
};

TEST_F(PartialStartTest, AnEmptyDirectoryBecomesAPartWithoutTiles) {
  EXPECT_TRUE(PartialStart::IsNeeded(dir()));
  ASSERT_EQ(StartFrom(whole_dir(), dir()), absl::OkStatus());
  EXPECT_FALSE(PartialStart::IsNeeded(dir()));
  const auto part = PartialModel::Open(dir());
  ASSERT_TRUE(part.ok()) << part.status();
  EXPECT_EQ((*part)->present_tiles(), 0);
  EXPECT_EQ((*part)->hash(), hash());
  EXPECT_EQ((*part)->stored_tiles(), whole_->stored_tiles());
  EXPECT_TRUE(absl::IsFailedPrecondition(PartialStart::Begin(dir()).status()));
}

TEST_F(PartialStartTest, WhatIsNeitherEmptyNorBegunIsLeftAlone) {
  fs::create_directory(dir());
  for (const std::string name : {"thesis.txt", "deltas.json", "packs"}) {
    testing::WriteBytes(dir() + "/" + name, "mine");
    const absl::Status refused = PartialStart::Begin(dir()).status();
    EXPECT_TRUE(absl::IsFailedPrecondition(refused)) << refused;
    EXPECT_THAT(refused.message(), AllOf(HasSubstr(dir()), HasSubstr(name)));
    EXPECT_EQ(FileBytes(dir() + "/" + name), "mine");
    fs::remove(dir() + "/" + name);
  }
  EXPECT_TRUE(absl::IsFailedPrecondition(PartialStart::Begin(whole_dir()).status()));
  EXPECT_TRUE(absl::IsNotFound(PartialStart::Begin(temp_ / "no/such").status()));
}

TEST_F(PartialStartTest, ManifestsOfAnotherModelAreRefused) {
  auto start = PartialStart::Begin(dir());
  ASSERT_TRUE(start.ok()) << start.status();
  const std::string other(32, '7');
  const absl::Status refused = start->SetManifests(other, Manifest("model.json"), Manifest("deltas.json"));
  EXPECT_TRUE(absl::IsInvalidArgument(refused)) << refused;
  EXPECT_THAT(refused.message(), AllOf(HasSubstr(other), HasSubstr(hash())));
  std::string damaged = Manifest("model.json");
  damaged[damaged.find("\"bytes\": ") + 10] ^= 1;
  EXPECT_FALSE(start->SetManifests(hash(), damaged, Manifest("deltas.json")).ok());
  EXPECT_FALSE(start->SetManifests(hash(), Manifest("model.json"), Manifest("model.json")).ok());
  EXPECT_FALSE(start->Finish().ok());
  EXPECT_FALSE(fs::exists(dir() + "/model.json"));
}

// Sizes and counts are no part of a model's hash: what a peer says of them is checked.
TEST_F(PartialStartTest, ManifestsThatNameFilesElsewhereOrSizesThatCannotBeAreRefused) {
  const ModelFiles files = *ReadModelFiles(whole_dir());
  auto start = PartialStart::Begin(dir());
  ASSERT_TRUE(start.ok()) << start.status();
  for (const char* name : {"model.json", "partial/present", "deltas/", "deltas/a/b", "deltas/.", "deltasx"}) {
    DeltaManifest deltas = files.deltas;
    deltas.files[name] = {10, {1, 1}};
    const absl::Status refused = start->SetManifests(hash(), Manifest("model.json"), deltas.Encode());
    EXPECT_TRUE(absl::IsDataLoss(refused)) << name << refused;
    EXPECT_THAT(refused.message(), HasSubstr(absl::StrCat("lists ", name)));
  }
  const int64_t stride = testing::TileBytes(config_);
  const auto refuse = [&](const std::function<void(omni::Manifest&)>& change) {
    omni::Manifest manifest = files.manifest;
    change(manifest);
    const absl::Status refused = start->SetManifests(hash(), manifest.Encode(), Manifest("deltas.json"));
    EXPECT_TRUE(absl::IsDataLoss(refused)) << refused;
  };
  for (const int64_t bytes : {int64_t{0}, int64_t{63}, 64 + stride + 1, 64 + stride * 100000, INT64_MAX})
    refuse([&](omni::Manifest& manifest) { manifest.files["packs/tiles-000.bin"].bytes = bytes; });
  for (const int64_t alignment : {int64_t{0}, int64_t{32}, int64_t{65}, int64_t{1} << 40})
    refuse([&](omni::Manifest& manifest) { manifest.counts.tile_alignment = alignment; });
  refuse([&](omni::Manifest& manifest) { ++manifest.delta_keys; });
}

TEST_F(PartialStartTest, IsGoneOnWithWhereItWasStopped) {
  {
    auto start = PartialStart::Begin(dir());
    ASSERT_TRUE(start->SetManifests(hash(), Manifest("model.json"), Manifest("deltas.json")).ok());
    const std::string name = start->missing().begin()->first;
    ASSERT_GE(start->missing().size(), 2u);
    auto file = *start->BeginFile(name);
    ASSERT_TRUE(file.Append(Manifest(name.c_str())).ok());
    ASSERT_EQ(start->FinishFile(name, std::move(file)), absl::OkStatus());
    auto next = *start->BeginFile(start->missing().begin()->first);
    ASSERT_TRUE(next.Append(Manifest(start->missing().begin()->first.c_str()).substr(0, 5)).ok());
    EXPECT_FALSE(start->BeginFile(name).ok());
    EXPECT_FALSE(start->Finish().ok());
    EXPECT_TRUE(absl::IsFailedPrecondition(PartialStart::Begin(dir()).status()));  // another process
  }
  const absl::Status unfinished = OpenModel(dir()).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(unfinished)) << unfinished;
  EXPECT_THAT(unfinished.message(), HasSubstr("the beginning of a part of a model"));
  {
    auto start = PartialStart::Begin(dir());
    ASSERT_TRUE(start->SetManifests(hash(), Manifest("model.json"), Manifest("deltas.json")).ok());
    EXPECT_EQ(start->missing().size(), ReadModelFiles(whole_dir())->deltas.files.size() - 1);
    EXPECT_EQ(start->BeginFile(start->missing().begin()->first)->size(), 5);
  }
  EXPECT_EQ(StartFrom(whole_dir(), dir()), absl::OkStatus());
  EXPECT_TRUE(PartialModel::Open(dir()).ok());
}

// Two packs of one checkpoint are one model, with equal entries in databases of different files.
TEST_F(PartialStartTest, AnotherDatabaseOfTheSameModelBeginsAnew) {
  ASSERT_TRUE(PackModel(temp_ / "c", temp_ / "other", testing::SmallPacks()).ok());
  ASSERT_NE(FileBytes(temp_ / "other/deltas.json"), Manifest("deltas.json"));
  {
    auto start = PartialStart::Begin(dir());
    ASSERT_TRUE(
        start->SetManifests(hash(), Manifest("model.json"), FileBytes(temp_ / "other/deltas.json")).ok());
    for (int i = 0; i < 2; ++i) {
      const std::string name = start->missing().begin()->first;
      auto file = *start->BeginFile(name);
      ASSERT_TRUE(file.Append(FileBytes(temp_ / "other/" + name)).ok());
      ASSERT_TRUE(start->FinishFile(name, std::move(file)).ok());
    }
  }
  ASSERT_EQ(StartFrom(whole_dir(), dir()), absl::OkStatus());
  EXPECT_EQ(FileBytes(dir() + "/deltas.json"), Manifest("deltas.json"));
  const auto part = PartialModel::Open(dir());
  ASSERT_TRUE(part.ok()) << part.status();
  EXPECT_EQ(CopyTiles(*whole_, **part, testing::Regions({1})), absl::OkStatus());
  ExpectServes(dir(), {1});
}

}  // namespace
}  // namespace omni
