#include "store/partial/partial_model.h"

#include <sys/stat.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <functional>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "store/format/model_summary.h"
#include "store/verify/verify.h"
#include "tests/store/partial/partial_fixture.h"
#include "tests/testing/file_calls.h"
#include "tests/testing/power_cut.h"

namespace omni {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using testing::CopyTiles;
using ::testing::ElementsAre;
using testing::FileBytes;
using testing::FileCall;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::PartialTest;
using testing::Regions;
using testing::StartFrom;

TEST_F(PartialTest, RegionsWhoseTilesAreAllThereAreServedByteForByte) {
  for (const std::vector<int32_t>& regions : {std::vector<int32_t>{1}, {0, 2}, {2, 1, 0}}) {
    fs::remove_all(dir());
    const auto part = Part(regions);
    for (const int32_t region : {0, 1, 2}) {
      EXPECT_EQ(part->Holds(RegionId(region)), std::count(regions.begin(), regions.end(), region) > 0);
    }
    ExpectServes(dir(), regions);
  }
}

TEST_F(PartialTest, ExpertsHeldAsScatteredDeltasAreServedToo) {
  Pack(testing::NearlyEqualExperts(testing::ShortConfig()));
  ASSERT_GT(OpenModel(whole_dir())->stats().inline_tiles, 0);
  const auto part = Part({0, 2});
  ExpectServes(dir(), {0, 2});
  EXPECT_EQ(Missing(*part, {0, 2}), 0);
}

TEST_F(PartialTest, ARegionThatLacksATileIsRefusedAndTheOthersNamed) {
  auto part = Part({1});
  const absl::Status refused = OpenModel(dir(), Opening({1, 2})).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(refused)) << refused;
  EXPECT_THAT(refused.message(),
              AllOf(HasSubstr(dir()), HasSubstr(absl::StrCat(Missing(*part, {2}), " of ")),
                    HasSubstr("tiles of region 2 are missing"), HasSubstr("all of the regions [1]")));
}

TEST_F(PartialTest, IsNeverTakenForAWholeModel) {
  Part({1, 2});
  OpenOptions streamed;
  streamed.residency = Residency::kStreamed;
  streamed.ram_bytes = int64_t{1} << 30;
  OpenOptions experts;
  experts.shared = false;
  testing::WriteBytes(dir() + "/shared.bin", FileBytes(whole_dir() + "/shared.bin"));
  testing::WriteBytes(dir() + "/tokenizer.omni", FileBytes(whole_dir() + "/tokenizer.omni"));
  for (const absl::Status& refused :
       {OpenModel(dir()).status(), OpenModel(dir(), streamed).status(), OpenModel(dir(), experts).status(),
        SummarizeModel(dir()).status(), VerifyModel(dir(), {}).status(),
        RepackModel(dir(), temp_ / "again", {})}) {
    EXPECT_TRUE(absl::IsFailedPrecondition(refused)) << refused;
    EXPECT_THAT(refused.message(), AllOf(HasSubstr(dir()), HasSubstr("holds a part of the model, "),
                                         HasSubstr(absl::StrCat(" of ", whole_->stored_tiles(), " tiles")),
                                         HasSubstr("all of the regions [1, 2]")));
  }
}

TEST_F(PartialTest, WithoutSharedWeightsOnlyExpertsAreServed) {
  Part({0, 1, 2});
  OpenOptions options = Opening({0});
  options.shared = true;
  const absl::Status refused = OpenModel(dir(), options).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(refused)) << refused;
  EXPECT_THAT(refused.message(), AllOf(HasSubstr("shared.bin"), HasSubstr("a part of the model")));
}

TEST_F(PartialTest, FilledToTheLastTileAndFileItIsTheWholeModel) {
  const auto part = Part({0, 1, 2});
  EXPECT_THAT(part->MissingFiles(), ElementsAre("shared.bin", "tokenizer.omni"));
  for (const std::string& name : part->MissingFiles()) {
    auto file = part->BeginFile(name);
    ASSERT_TRUE(file.ok()) << file.status();
    ASSERT_TRUE(file->Append(FileBytes(whole_dir() + "/" + name)).ok());
    ASSERT_EQ(file->Finish(), absl::OkStatus());
  }
  EXPECT_THAT(part->MissingFiles(), IsEmpty());
  for (const auto& [name, digest] : part->files().manifest.files)
    EXPECT_EQ(FileBytes(dir() + "/" + name), FileBytes(whole_dir() + "/" + name)) << name;
  const auto report = VerifyModel(dir(), {});
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_THAT(report->defects, IsEmpty());
  const auto model = OpenModel(dir());
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->hash(), OpenModel(whole_dir())->hash());
}

TEST_F(PartialTest, AFileThatCameHalfIsGoneOnWithAndAWrongOneThrownAway) {
  const std::string bytes = FileBytes(whole_dir() + "/shared.bin");
  auto part = Part({});
  { ASSERT_TRUE(part->BeginFile("shared.bin")->Append(bytes.substr(0, 1000)).ok()); }
  part = nullptr;
  part = *PartialModel::Open(dir());
  {
    auto file = *part->BeginFile("shared.bin");
    EXPECT_EQ(file.size(), 1000);
    ASSERT_TRUE(file.Append(std::string(bytes.size() - 1000, 'x')).ok());
    EXPECT_TRUE(absl::IsDataLoss(file.Append("y")));
    EXPECT_TRUE(absl::IsDataLoss(file.Finish()));
  }
  auto file = *part->BeginFile("shared.bin");
  EXPECT_EQ(file.size(), 0);
  ASSERT_TRUE(file.Append(bytes).ok());
  EXPECT_EQ(file.Finish(), absl::OkStatus());
  EXPECT_FALSE(part->BeginFile("shared.bin").ok());
  EXPECT_FALSE(part->BeginFile("../etc/passwd").ok());
}

TEST_F(PartialTest, TilesThatRegionsShareAreMissingOnce) {
  const auto part = Part({});
  const int64_t first = Missing(*part, {0}), second = Missing(*part, {1}), both = Missing(*part, {0, 1});
  EXPECT_LT(both, first + second);  // this model's regions share tiles
  EXPECT_EQ(Missing(*part, {0, 1, 0}), both);
  int64_t moved = 0;
  ASSERT_TRUE(CopyTiles(*whole_, *part, Regions({0}), 4, &moved).ok());
  EXPECT_EQ(moved, first);
  EXPECT_EQ(Missing(*part, {1}), both - first);
  ASSERT_TRUE(CopyTiles(*whole_, *part, Regions({0, 1, 2}), 4, &moved).ok());
  EXPECT_EQ(moved, whole_->stored_tiles());
  EXPECT_TRUE(absl::IsInvalidArgument(part->MissingTiles(Regions({3})).status()));
  EXPECT_FALSE(part->Holds(RegionId(-1)));
}

TEST_F(PartialTest, WhatIsNotTheTileIsNotWritten) {
  const auto part = Part({});
  const std::vector<TilePlace> missing = *part->MissingTiles(Regions({0}));
  const testing::FileTree before = testing::ReadTree(dir());
  std::string bytes(static_cast<size_t>(part->tile_bytes()), '\0'), other = bytes;
  ASSERT_TRUE(whole_->Read(missing[0], reinterpret_cast<uint8_t*>(bytes.data())).ok());
  ASSERT_TRUE(whole_->Read(missing[1], reinterpret_cast<uint8_t*>(other.data())).ok());
  std::string flipped = bytes;
  flipped[flipped.size() / 2] ^= 1;
  for (const std::string& wrong : {other, flipped, bytes + "x", bytes.substr(1), std::string()}) {
    const absl::Status refused = part->Add(missing[0], wrong);
    EXPECT_TRUE(absl::IsDataLoss(refused)) << refused;
    EXPECT_THAT(refused.message(), HasSubstr("packs/tiles-000.bin: tile number 0"));
  }
  EXPECT_TRUE(absl::IsInvalidArgument(part->Add({0, 3}, bytes)));
  EXPECT_TRUE(absl::IsInvalidArgument(part->Add({99999, 0}, bytes)));
  ASSERT_TRUE(part->Commit().ok());
  const testing::FileTree after = testing::ReadTree(dir());
  for (const auto& [name, was] : before) {
    if (was != nullptr) {
      EXPECT_EQ(*after.at(name), *was) << name;
    }
  }
}

TEST_F(PartialTest, ATileIsThereOnlyOnceItIsCommitted) {
  auto part = Part({});
  const TilePlace tile = part->MissingTiles(Regions({0}))->front();
  std::string bytes(static_cast<size_t>(part->tile_bytes()), '\0'), read = bytes;
  ASSERT_TRUE(whole_->Read(tile, reinterpret_cast<uint8_t*>(bytes.data())).ok());
  ASSERT_TRUE(part->Add(tile, bytes).ok());
  EXPECT_FALSE(part->Has(tile));
  EXPECT_TRUE(absl::IsNotFound(part->Read(tile, reinterpret_cast<uint8_t*>(read.data()))));
  // Its process ends: what was not recorded is a hole again.
  part = nullptr;
  part = *PartialModel::Open(dir());
  EXPECT_FALSE(part->Has(tile));
  EXPECT_EQ(FileBytes(dir() + "/packs/tiles-000.bin").find(bytes.substr(0, 100)), std::string::npos);
  ASSERT_TRUE(part->Add(tile, bytes).ok());
  ASSERT_TRUE(part->Commit().ok());
  EXPECT_TRUE(part->Has(tile));
  ASSERT_TRUE(part->Read(tile, reinterpret_cast<uint8_t*>(read.data())).ok());
  EXPECT_EQ(read, bytes);
}

TEST_F(PartialTest, ADamagedTileIsNotRead) {
  auto part = Part({0});
  const std::string path = dir() + "/packs/tiles-000.bin";
  std::string bytes = FileBytes(path);
  bytes[100] ^= 1;
  testing::WriteBytes(path, bytes);
  const absl::Status refused = part->Read(
      {0, 0}, reinterpret_cast<uint8_t*>(std::string(static_cast<size_t>(part->tile_bytes()), 0).data()));
  EXPECT_TRUE(absl::IsDataLoss(refused)) << refused;
  EXPECT_THAT(refused.message(), HasSubstr(path + ": tile number 0"));
  EXPECT_TRUE(absl::IsDataLoss(OpenModel(dir(), Opening({0})).status()));
}

int64_t BlocksOf(const std::string& dir) {
  int64_t blocks = 0;
  for (const auto& file : fs::directory_iterator(dir + "/packs")) {
    struct stat st {};
    if (::stat(file.path().c_str(), &st) == 0) blocks += st.st_blocks;
  }
  return blocks;
}

TEST_F(PartialTest, ReleasedRegionsGiveBackTheirRoomAndCanBeFilledAgain) {
  const auto part = Part({0, 1, 2});
  const int64_t shared_only = Missing(*part, {});
  EXPECT_EQ(shared_only, 0);
  const int64_t before = BlocksOf(dir()), all = part->present_tiles();
  ASSERT_EQ(part->ReleaseAllBut(Regions({1})), absl::OkStatus());
  EXPECT_THAT(part->HeldRegions(), ElementsAre(RegionId(1)));
  EXPECT_LT(BlocksOf(dir()), before);
  ExpectServes(dir(), {1});  // tiles that region 1 shares with the others stayed
  EXPECT_EQ(part->present_tiles() + Missing(*part, {0, 2}), all);
  const std::string pack = FileBytes(dir() + "/packs/tiles-000.bin");
  EXPECT_EQ(pack.size(), FileBytes(whole_dir() + "/packs/tiles-000.bin").size());
  int64_t moved = 0;
  const int64_t missing = Missing(*part, {0});
  ASSERT_TRUE(CopyTiles(*whole_, *part, Regions({0}), 4, &moved).ok());
  EXPECT_EQ(moved, missing);
  ExpectServes(dir(), {0, 1});
  EXPECT_TRUE(absl::IsInvalidArgument(part->ReleaseAllBut(Regions({7}))));
  ASSERT_EQ(part->ReleaseAllBut({}), absl::OkStatus());
  EXPECT_EQ(part->present_tiles(), 0);
}

TEST_F(PartialTest, AWholeModelIsAPartThatHasAllAndIsNeverWritten) {
  const testing::FileTree before = testing::ReadTree(whole_dir());
  EXPECT_TRUE(whole_->whole());
  EXPECT_EQ(Missing(*whole_, {0, 1, 2}), 0);
  EXPECT_THAT(whole_->HeldRegions(), ElementsAre(RegionId(0), RegionId(1), RegionId(2)));
  EXPECT_THAT(whole_->MissingFiles(), IsEmpty());
  EXPECT_EQ(whole_->Add({0, 0}, "anything"), absl::OkStatus());
  EXPECT_EQ(whole_->Commit(), absl::OkStatus());
  EXPECT_EQ(whole_->ReleaseAllBut({}), absl::OkStatus());
  EXPECT_TRUE(PartialModel::Open(whole_dir()).ok());  // any number of processes
  const testing::FileTree after = testing::ReadTree(whole_dir());
  ASSERT_EQ(after.size(), before.size());
  for (const auto& [name, bytes] : before) {
    if (bytes != nullptr) {
      EXPECT_EQ(*after.at(name), *bytes) << name;
    }
  }
}

TEST_F(PartialTest, OneProcessFillsADirectoryAndOthersRead) {
  const auto part = Part({0});
  const absl::Status refused = PartialModel::Open(dir()).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(refused)) << refused;
  EXPECT_THAT(refused.message(), AllOf(HasSubstr(dir()), HasSubstr("another process fills")));
  ExpectServes(dir(), {0});
}

TEST_F(PartialTest, ADamagedRecordIsNeverBelieved) {
  Part({0, 1});
  const std::string path = dir() + "/partial/present", good = FileBytes(path);
  for (size_t i = 0; i <= good.size(); ++i) {
    std::string bad = good.substr(0, i);  // cut, or
    if (i < good.size()) bad = good, bad[i] = static_cast<char>(bad[i] ^ 0x10);
    if (i == good.size()) bad = good + '\0';
    testing::WriteBytes(path, bad);
    const absl::Status refused = OpenModel(dir(), Opening({0})).status();
    EXPECT_FALSE(refused.ok()) << i;
    EXPECT_THAT(refused.message(), HasSubstr(path));
    EXPECT_FALSE(PartialModel::Open(dir()).ok());
  }
  fs::remove(path);
  EXPECT_TRUE(absl::IsNotFound(OpenModel(dir(), Opening({0})).status()));
}

// Fails calls as a rule says.
class Refuse : public testing::FileWatcher {
 public:
  explicit Refuse(std::function<int(const FileCall&)> rule) : rule_(std::move(rule)) {}
  int Before(const FileCall& call) override { return rule_(call); }

 private:
  std::function<int(const FileCall&)> rule_;
};

TEST_F(PartialTest, WhenTheDiskIsFullNothingWrongIsRecordedAndItGoesOnLater) {
  const auto part = Part({0});
  const auto full = [&](FileCall::Kind kind, const std::string& of) {
    return [=](const FileCall& call) {
      return call.kind == kind && call.path.find(of) != std::string::npos ? ENOSPC : 0;
    };
  };
  for (const auto& [kind, of] : {std::pair{FileCall::Kind::kWrite, "/packs/"},
                                 {FileCall::Kind::kSync, "/packs/"},
                                 {FileCall::Kind::kWrite, "/partial/"},
                                 {FileCall::Kind::kSync, "/partial/present"},
                                 {FileCall::Kind::kRename, "/partial/present"}}) {
    SCOPED_TRACE(absl::StrCat(of, " ", static_cast<int>(kind)));
    ASSERT_TRUE(part->ReleaseAllBut(Regions({0})).ok());
    const std::string record = FileBytes(dir() + "/partial/present");
    {
      Refuse refuse(full(kind, of));
      const testing::WatchFiles watch(refuse);
      const absl::Status failed = CopyTiles(*whole_, *part, Regions({0, 1}));
      EXPECT_TRUE(absl::IsResourceExhausted(failed)) << failed;
      EXPECT_THAT(failed.message(), AllOf(HasSubstr(dir()), HasSubstr("free some space")));
    }
    EXPECT_FALSE(part->Holds(RegionId(1)));
    EXPECT_EQ(FileBytes(dir() + "/partial/present"), record);
    ExpectServes(dir(), {0});
    ASSERT_EQ(CopyTiles(*whole_, *part, Regions({0, 1})), absl::OkStatus());
    EXPECT_TRUE(part->Holds(RegionId(1)));
    ExpectServes(dir(), {0, 1});
  }
}

// What was synced and could not be recorded is not fetched again.
TEST_F(PartialTest, ASyncThatFailedIsNotTrustedAndARecordThatFailedIsWrittenLater) {
  const auto part = Part({});
  const int64_t missing = Missing(*part, {2});
  const auto fail = [&](const std::string& of) {
    Refuse refuse([&](const FileCall& call) {
      return call.kind == FileCall::Kind::kSync && call.path.find(of) != std::string::npos ? EIO : 0;
    });
    const testing::WatchFiles watch(refuse);
    EXPECT_TRUE(absl::IsUnavailable(CopyTiles(*whole_, *part, Regions({2}), 1000)));
  };
  fail("/packs/");
  EXPECT_EQ(Missing(*part, {2}), missing);
  fail("/partial/present");
  EXPECT_EQ(Missing(*part, {2}), 0);
  EXPECT_FALSE(part->Holds(RegionId(2)));
  ASSERT_EQ(part->Commit(), absl::OkStatus());
  EXPECT_TRUE(part->Holds(RegionId(2)));
  ExpectServes(dir(), {2});
}

}  // namespace
}  // namespace omni
