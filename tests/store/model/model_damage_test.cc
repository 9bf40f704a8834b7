#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rocksdb/db.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <memory>

#include "store/file/bytes.h"
#include "store/format/delta_db.h"
#include "store/format/manifest.h"
#include "store/format/tile_table.h"
#include "store/pack/pack.h"
#include "tests/store/model/model_digest.h"
#include "tests/testing/checkpoint_fixture.h"
#include "tests/testing/file_bytes.h"
#include "tests/testing/random_model.h"
#include "tests/testing/temp_dir.h"

namespace omni {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using testing::FileBytes;
using ::testing::HasSubstr;
using testing::ModelContent;
using testing::ShortConfig;
using testing::TempDir;
using testing::WriteBytes;

std::vector<std::string> Files(const std::string& dir) { return ListFiles(dir).value(); }

class DamagedModel : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(testing::WriteRandomCheckpoint(temp_ / "c", ShortConfig(), 21).ok());
    ASSERT_TRUE(PackModel(temp_ / "c", dir_, {}).ok());
    auto model = OpenModel(dir_);
    ASSERT_TRUE(model.ok()) << model.status();
    content_ = ModelContent(*model);
    hash_ = model->hash();
    names_ = Files(dir_);
  }
  std::string OpenError() const { return std::string(OpenModel(dir_).status().message()); }
  // True if it does not open; a model that opens must be the one that was packed.
  bool RejectsOrIsUnchanged() const {
    auto model = OpenModel(dir_);
    if (!model.ok()) return true;
    EXPECT_EQ(model->hash(), hash_);
    return ModelContent(*model) == content_;
  }
  std::string PathOf(const std::string& name) const { return dir_ + "/" + name; }

  TempDir temp_;
  std::string dir_ = temp_ / "m";
  std::string content_, hash_;
  std::vector<std::string> names_;
};

TEST_F(DamagedModel, FlippedBitsInAnyFileNeverChangeTheModelSilently) {
  testing::Random random(22);
  constexpr int kFlipsPerFile = 60;
  int rejected = 0;
  for (const std::string& name : names_) {
    const std::string good = FileBytes(PathOf(name));
    ASSERT_FALSE(good.empty()) << name;
    for (int i = 0; i < kFlipsPerFile; ++i) {
      const int64_t bit = random.Below(8 * static_cast<int64_t>(good.size()));
      std::string bad = good;
      bad[static_cast<size_t>(bit / 8)] =
          static_cast<char>(bad[static_cast<size_t>(bit / 8)] ^ (1 << bit % 8));
      WriteBytes(PathOf(name), bad);
      ASSERT_TRUE(RejectsOrIsUnchanged()) << name << " bit " << bit;
      rejected += !OpenModel(dir_).ok();
    }
    WriteBytes(PathOf(name), good);
  }
  EXPECT_EQ(rejected, static_cast<int>(names_.size()) * kFlipsPerFile);
  EXPECT_GE(rejected, 200);
  EXPECT_TRUE(OpenModel(dir_).ok());
}

TEST_F(DamagedModel, CutOrLengthenedFilesAreRejectedByName) {
  for (const std::string& name : names_) {
    const std::string good = FileBytes(PathOf(name));
    for (const size_t keep : {size_t{0}, size_t{1}, good.size() / 2, good.size() - 1}) {
      WriteBytes(PathOf(name), good.substr(0, keep));
      EXPECT_THAT(OpenError(), HasSubstr(PathOf(name))) << keep;
    }
    WriteBytes(PathOf(name), good + '\0');
    EXPECT_THAT(OpenError(), HasSubstr(PathOf(name)));
    WriteBytes(PathOf(name), good);
  }
  EXPECT_TRUE(OpenModel(dir_).ok());
}

TEST_F(DamagedModel, MissingFilesAreNamed) {
  for (const std::string& name : names_) {
    fs::rename(PathOf(name), temp_ / "away");
    EXPECT_THAT(OpenError(), HasSubstr(name));
    fs::rename(temp_ / "away", PathOf(name));
  }
  EXPECT_TRUE(OpenModel(dir_).ok());
}

TEST_F(DamagedModel, FilesThatDoNotBelongAreNamed) {
  for (const std::string name : {"notes.txt", "packs/tiles-001.bin", "deltas/000099.log", "deltas/LOG"}) {
    WriteBytes(PathOf(name), "x");
    EXPECT_THAT(OpenError(), HasSubstr(PathOf(name) + ": no part of the model"));
    fs::remove(PathOf(name));
  }
  fs::create_directory(PathOf("more"));
  EXPECT_THAT(OpenError(), HasSubstr("more/: no part of the model"));
}

TEST_F(DamagedModel, ADirectoryInAFilesPlaceIsAnError) {
  for (const std::string& name : names_) {
    fs::rename(PathOf(name), temp_ / "away");
    fs::create_directory(PathOf(name));
    EXPECT_FALSE(OpenModel(dir_).ok()) << name;
    fs::remove(PathOf(name));
    fs::rename(temp_ / "away", PathOf(name));
  }
}

TEST_F(DamagedModel, ABadTileIsNamedWithItsExpertAndLayer) {
  const std::string name = PathOf("packs/tiles-000.bin");
  std::string bytes = FileBytes(name);
  // The file begins with the three tiles of expert 0 in layer 0. The other expert of its region is held as
  // scattered deltas; then comes expert 1, the keyframe of region 1.
  const int64_t payload = TileLayout(ShortConfig().d).payload();
  bytes[static_cast<size_t>(64 + 4 * payload + 100)] ^= 1;
  WriteBytes(name, bytes);
  EXPECT_EQ(OpenError(), name +
                             ": tile 1 of expert 1, layer 0 fails its checksum; the file is damaged: copy it "
                             "again or pack the model again");
}

TEST_F(DamagedModel, ABadSectionIsNamed) {
  std::string bytes = FileBytes(PathOf("shared.bin"));
  bytes[bytes.size() - 64] ^= 1;
  WriteBytes(PathOf("shared.bin"), bytes);
  EXPECT_THAT(OpenError(), AllOf(HasSubstr("shared.bin: section layers."), HasSubstr("fails its checksum")));
}

// Rewrites model.json after `change`, as an attacker or a buggy writer would: with checksums that hold.
template <typename Change>
void Forge(const std::string& dir, Change change) {
  const std::string path = dir + "/" + kModelFile;
  Manifest m = *Manifest::Parse(path, FileBytes(path));
  change(m);
  WriteBytes(path, m.Encode());
}

TEST_F(DamagedModel, AnotherConfigThanTheFilesIsRejected) {
  const std::string good = FileBytes(PathOf(kModelFile));
  const std::map<std::string, void (*)(ModelConfig&)> changes = {
      {"wider", [](ModelConfig& c) { c.d = 75; }},
      {"huge", [](ModelConfig& c) { c.vocab = 1 << 24; }},
      {"more layers", [](ModelConfig& c) { c.layers = 4; }},
      {"more experts", [](ModelConfig& c) { c.lattice[0] = 6; }},
      {"other regions",
       [](ModelConfig& c) {
         c.region = {3, 1, 1};
       }},
      {"more neurons", [](ModelConfig& c) { c.f = 194; }},
      {"no readout norm", [](ModelConfig& c) { c.readout_norm = false; }},
  };
  for (const auto& [name, change] : changes) {
    Forge(dir_, [change = change](Manifest& m) { change(m.config); });
    EXPECT_FALSE(OpenModel(dir_).ok()) << name;
    WriteBytes(PathOf(kModelFile), good);
  }
}

// Writes deltas/ again after `change` of the first table (layer 0, expert 0), with a digest and file hashes
// that hold.
template <typename Change>
void ForgeFirstTable(const std::string& dir, Change change) {
  const std::string path = dir + "/" + kDeltasFolder;
  std::vector<std::pair<std::string, std::string>> entries;
  ASSERT_TRUE(ReadDeltaDb(path, [&](std::string_view key, std::string_view value) {
                entries.emplace_back(key, value);
                return absl::OkStatus();
              }).ok());
  TileTable first = DecodeTable(entries[0].second, TilesPerExpert(ShortConfig())).value();
  change(first);
  entries[0].second = EncodeTable(first);
  fs::remove_all(path);
  DeltaDigest digest;
  auto db = DeltaDbWriter::Create(path);
  ASSERT_TRUE(db.ok()) << db.status();
  for (const auto& [key, value] : entries) {
    ASSERT_TRUE(db->Put(key, value).ok());
    digest.Add(key, value);
  }
  ASSERT_TRUE(db->Finish().ok());
  DeltaManifest deltas;
  deltas.delta_digest = digest.hash();
  for (const std::string& file : Files(dir)) {
    if (file.starts_with("deltas/")) deltas.files[file] = *DigestFile(dir + "/" + file);
  }
  WriteBytes(dir + "/" + kDeltasFile, deltas.Encode());
  Forge(dir, [&](Manifest& m) { m.delta_digest = digest.hash(); });
}

TEST_F(DamagedModel, TilesWithForgedChecksumsAreStillChecked) {
  const std::string name = "packs/tiles-000.bin";
  std::string bytes = FileBytes(PathOf(name));
  bytes[64] = static_cast<char>(250);  // no code of five trits
  WriteBytes(PathOf(name), bytes);
  const size_t payload = static_cast<size_t>(TileLayout(ShortConfig().d).payload());
  ForgeFirstTable(dir_, [&](TileTable& table) {
    table.tiles[0].hash = ContentHash(bytes.data() + 64, payload);
    table.tiles[0].checksum = Checksum64(bytes.data() + 64, payload);
  });
  Forge(dir_, [&](Manifest& m) { m.files.at(name) = *DigestFile(PathOf(name)); });
  EXPECT_THAT(OpenError(), AllOf(HasSubstr("tile 0 of expert 0, layer 0"), HasSubstr("above 242")));
}

TEST_F(DamagedModel, TablesThatPointAstrayAreRejectedThoughEveryFileChecks) {
  const uint64_t stride = static_cast<uint64_t>(TileLayout(ShortConfig().d).payload());
  const std::pair<std::function<void(TileTable&)>, const char*> cases[] = {
      {[](TileTable& t) { t.tiles[1].checksum ^= 1; }, "tile 1 of expert 0, layer 0 fails its checksum"},
      {[](TileTable& t) { t.tiles[1].hash.low ^= 1; }, "tile 1 of expert 0, layer 0 fails its checksum"},
      {[](TileTable& t) { t.tiles[1].pack = 1; }, "lies in pack 1, which is not there"},
      {[](TileTable& t) { t.tiles[1].offset += 64; }, "where no tile begins"},
      {[](TileTable& t) { t.tiles[0].offset = 0; }, "where no tile begins"},
      {[](TileTable& t) { t.tiles[0].offset = UINT64_MAX - 63; }, "where no tile begins"},
      {[=](TileTable& t) { t.tiles[1].offset += 100000 * stride; }, "where no tile begins"},
      {[](TileTable& t) { t.tiles[0] = t.tiles[1]; }, "belongs to no expert"},
      {[](TileTable& t) { t.whole = false; }, "is a delta, but its keyframe is not there"},
      {[](TileTable& t) { t.tiles.pop_back(); }, "lists 2 tiles, an expert has 3"},
  };
  fs::copy(dir_, temp_ / "good", fs::copy_options::recursive);
  for (const auto& [change, message] : cases) {
    fs::remove_all(dir_);
    fs::copy(temp_ / "good", dir_, fs::copy_options::recursive);
    ForgeFirstTable(dir_, change);
    EXPECT_THAT(OpenError(), HasSubstr(message));
  }
}

TEST_F(DamagedModel, AnotherModelsDeltasAreRejected) {
  ASSERT_TRUE(testing::WriteRandomCheckpoint(temp_ / "c2", ShortConfig(), 99).ok());
  ASSERT_TRUE(PackModel(temp_ / "c2", temp_ / "m2", {}).ok());
  fs::remove_all(PathOf("deltas"));
  fs::copy(temp_ / "m2/deltas", PathOf("deltas"), fs::copy_options::recursive);
  EXPECT_THAT(OpenError(), HasSubstr("deltas/"));
  fs::copy(temp_ / "m2/deltas.json", PathOf("deltas.json"), fs::copy_options::overwrite_existing);
  EXPECT_THAT(OpenError(), HasSubstr("the database of another model"));
}

TEST_F(DamagedModel, AForeignRocksDbIsRejected) {
  fs::remove_all(PathOf("deltas"));
  rocksdb::Options options;
  options.create_if_missing = true;
  rocksdb::DB* db = nullptr;
  ASSERT_TRUE(rocksdb::DB::Open(options, PathOf("deltas"), &db).ok());
  ASSERT_TRUE(db->Put({}, "hello", "world").ok());
  delete db;
  EXPECT_FALSE(OpenModel(dir_).ok());
  // Even listed with checksums that hold.
  DeltaManifest deltas;
  Forge(dir_, [&](Manifest& m) { deltas.delta_digest = m.delta_digest; });
  for (const std::string& file : Files(dir_)) {
    if (file.starts_with("deltas/")) deltas.files[file] = *DigestFile(PathOf(file));
  }
  WriteBytes(PathOf(kDeltasFile), deltas.Encode());
  EXPECT_THAT(OpenError(), HasSubstr("no expert of this model"));
}

TEST(OpenError, SaysWhatAPathIsInstead) {
  TempDir temp;
  const auto error = [](const std::string& path) { return std::string(OpenModel(path).status().message()); };
  EXPECT_THAT(error(temp / "none"), HasSubstr("no such directory"));
  EXPECT_THAT(error(temp.path()), HasSubstr("the directory is empty"));
  WriteBytes(temp / "file", "x");
  EXPECT_THAT(error(temp / "file"), HasSubstr("not a directory"));
  EXPECT_THAT(error(temp.path()), HasSubstr("there is no model.json"));
  ASSERT_TRUE(testing::WriteRandomCheckpoint(temp / "c", ShortConfig(), 1).ok());
  EXPECT_THAT(error(temp / "c"), HasSubstr("a training checkpoint, not a packed model"));
}

}  // namespace
}  // namespace omni
