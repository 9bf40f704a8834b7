// Damaged models made whole again from other nodes.
#include "cluster/tile_repair.h"

#include <cerrno>
#include <filesystem>
#include <functional>
#include <map>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "store/partial/repair.h"
#include "store/verify/verify.h"
#include "tests/cluster/tile_fixture.h"
#include "tests/testing/file_calls.h"

namespace omni {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using testing::FileBytes;
using testing::FileCall;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::OddNode;
using testing::Regions;
using testing::TileNode;
using testing::v1::TileChunk;

class TileRepairTest : public testing::TileTransferTest {
 protected:
  std::string hurt() const { return temp_ / "hurt"; }
  void Copy(const std::string& from) {
    fs::remove_all(hurt());
    fs::copy(from, hurt(), fs::copy_options::recursive);
  }
  void Change(const std::string& name, const std::function<void(std::string*)>& change) {
    std::string bytes = FileBytes(hurt() + "/" + name);
    change(&bytes);
    testing::WriteBytes(hurt() + "/" + name, bytes);
  }
  void Flip(const std::string& name, size_t at) {
    Change(name, [&](std::string* bytes) { (*bytes)[at] ^= 4; });
  }
  static std::map<std::string, std::string> Files(const std::string& dir) {
    std::map<std::string, std::string> files;
    const std::vector<std::string> names = *ListFiles(dir);
    for (const std::string& name : names) files[name] = FileBytes(dir + "/" + name);
    return files;
  }
  RepairReport Repair(const std::vector<std::string>& peers) {
    const auto report = RepairModel(hurt(), From(peers));
    EXPECT_TRUE(report.ok()) << report.status();
    return report.ok() ? *report : RepairReport();
  }
  size_t TileAt(int64_t tile) const {
    return static_cast<size_t>(PackHeader::kBytes + tile * testing::TileBytes(config_));
  }
};

TEST_F(TileRepairTest, WhateverIsDamagedTheModelIsTheSameBytesAgain) {
  const TileNode node(whole());
  const auto want = Files(whole_dir());
  const std::string pack = "packs/tiles-001.bin";
  const std::string table = whole_->files().deltas.files.begin()->first;
  struct Case {
    const char* what;
    std::function<void()> hurt;
    int64_t tiles, files;
  };
  const Case cases[] = {
      {"a tile", [&] { Flip(pack, TileAt(1) + 7); }, 1, 0},
      {"two tiles", [&] { Flip(pack, TileAt(0)), Flip("packs/tiles-000.bin", TileAt(2) + 1000); }, 2, 0},
      {"a header", [&] { Flip(pack, 50); }, 0, 1},
      {"a cut pack file", [&] { Change(pack, [&](std::string* b) { b->resize(TileAt(1) + 5); }); }, 2, 1},
      {"a pack file that grew", [&] { Change(pack, [](std::string* b) { *b += "more"; }); }, 0, 1},
      {"a pack file that is gone", [&] { fs::remove(hurt() + "/" + pack); }, 3, 1},
      {"zeros", [&] { Change(pack, [](std::string* b) { b->assign(b->size(), '\0'); }); }, 3, 1},
      {"shared weights", [&] { Flip("shared.bin", 5000); }, 0, 1},
      {"a tokenizer that is gone", [&] { fs::remove(hurt() + "/tokenizer.omni"); }, 0, 1},
      {"a table", [&] { Flip(table, 3); }, 0, 1},
      {"much of it",
       [&] { Flip(pack, TileAt(1)), Flip(table, 1), Flip("shared.bin", 9), Flip("packs/tiles-000.bin", 3); },
       1, 3},
  };
  for (const Case& damage : cases) {
    SCOPED_TRACE(damage.what);
    Copy(whole_dir());
    damage.hurt();
    ASSERT_NE(Files(hurt()), want);
    const RepairReport report = Repair({node.address()});
    EXPECT_EQ(report.tiles, damage.tiles);
    EXPECT_EQ(static_cast<int64_t>(report.files.size()), damage.files);
    EXPECT_EQ(Files(hurt()), want);
  }
}

TEST_F(TileRepairTest, OfASoundModelNothingIsWritten) {
  const TileNode node(whole());
  Copy(whole_dir());
  class NoWrites : public testing::FileWatcher {
   public:
    explicit NoWrites(std::string dir) : dir_(std::move(dir)) {}
    int Before(const FileCall& call) override {
      if (testing::Changes(call) && call.path.starts_with(dir_)) ADD_FAILURE() << call.path;
      return 0;
    }

   private:
    const std::string dir_;
  } none(hurt());
  const testing::WatchFiles watch(none);
  const RepairReport report = Repair({node.address()});
  EXPECT_EQ(report.tiles, 0);
  EXPECT_THAT(report.files, IsEmpty());
  EXPECT_TRUE(report.whole);
  EXPECT_EQ(report.checked_tiles, whole_->stored_tiles());
  EXPECT_EQ(node.stats().tiles, 0);
}

TEST_F(TileRepairTest, APartIsRepairedWhereItHasTiles) {
  const TileNode node(whole());
  { Part({1}); }
  Copy(dir());
  fs::remove_all(dir());
  fs::rename(hurt(), dir());
  Copy(dir());
  const TilePlace there = [&] {
    const auto part = *PartialModel::Open(dir());
    for (uint32_t tile = 0;; ++tile) {
      if (part->Has({0, tile})) return TilePlace{0, tile};
    }
  }();
  const auto want = Files(dir() + "/packs");
  Flip("packs/tiles-000.bin", TileAt(there.tile) + 1);
  const RepairReport report = Repair({node.address()});
  EXPECT_EQ(report.tiles, 1);
  EXPECT_FALSE(report.whole);
  EXPECT_EQ(Files(hurt() + "/packs"), want);
  ExpectServes(hurt(), {1});
}

TEST_F(TileRepairTest, APartCanGiveWhatAWholeModelLost) {
  Part({0, 1});
  const TileNode part(dir());
  const auto want = Files(whole_dir());
  Copy(whole_dir());
  Flip("packs/tiles-000.bin", TileAt(0));
  EXPECT_EQ(Repair({part.address()}).tiles, 1);
  EXPECT_EQ(Files(hurt()), want);
}

TEST_F(TileRepairTest, WrongBytesAreNotWrittenAndWhatNobodyHasIsSaid) {
  OddNode bad(
      whole(),
      [](std::vector<TileChunk>* chunks) {
        for (TileChunk& chunk : *chunks) (*chunk.mutable_data())[100] ^= 1;
        return grpc::Status::OK;
      },
      [](const std::string&, std::string* bytes) {
        (*bytes)[bytes->size() / 2] ^= 1;
        return grpc::Status::OK;
      });
  const TileNode good(whole());
  for (const std::string name : {"packs/tiles-000.bin", "shared.bin"}) {
    Copy(whole_dir());
    Flip(name, TileAt(1));
    const auto before = Files(hurt());
    const absl::Status refused = RepairModel(hurt(), From({bad.address()})).status();
    EXPECT_TRUE(absl::IsUnavailable(refused)) << refused;
    EXPECT_THAT(refused.message(), AllOf(HasSubstr(hurt()), HasSubstr(bad.address())));
    EXPECT_EQ(Files(hurt()), before);
    Repair({bad.address(), good.address()});
    EXPECT_EQ(Files(hurt()), Files(whole_dir()));
  }
}

TEST_F(TileRepairTest, WithoutItsManifestsNobodyKnowsWhatAModelWas) {
  const TileNode node(whole());
  for (const std::string name : {"model.json", "deltas.json"}) {
    Copy(whole_dir());
    Flip(name, 100);
    const absl::Status refused = RepairModel(hurt(), From({node.address()})).status();
    EXPECT_FALSE(refused.ok());
    EXPECT_THAT(refused.message(), HasSubstr(hurt() + "/" + name));
  }
}

// Every call that changes the disk fails once: what is left is no worse, and the next repair ends it.
TEST_F(TileRepairTest, StoppedByTheDiskAtAnyWriteItIsBegunAgain) {
  const TileNode node(whole());
  const auto want = Files(whole_dir());
  class FailFrom : public testing::FileWatcher {
   public:
    FailFrom(std::string dir, int left) : dir_(std::move(dir)), left_(left) {}
    int Before(const FileCall& call) override {
      if (!call.path.starts_with(dir_) || !testing::Changes(call)) return 0;
      return left_-- > 0 ? 0 : ENOSPC;
    }

   private:
    const std::string dir_;
    int left_;
  };
  int step = 0;
  for (;; ++step) {
    ASSERT_LT(step, 200);
    SCOPED_TRACE(step);
    Copy(whole_dir());
    Flip("shared.bin", 50);
    Flip("packs/tiles-000.bin", 20);
    Flip("packs/tiles-000.bin", TileAt(2));
    Flip("packs/tiles-001.bin", TileAt(0));
    absl::Status status;
    {
      FailFrom fail(hurt(), step);
      const testing::WatchFiles watch(fail);
      status = RepairModel(hurt(), From({node.address()})).status();
    }
    if (status.ok()) break;
    EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
    Repair({node.address()});
    ASSERT_EQ(Files(hurt()), want);
  }
  EXPECT_GT(step, 8);
  EXPECT_EQ(Files(hurt()), want);
}

}  // namespace
}  // namespace omni
