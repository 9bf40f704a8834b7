#include "store/verify/verify.h"
#include "store/pack/pack.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <limits>

#include "store/format/delta_db.h"
#include "store/format/manifest.h"
#include "store/format/shared_layout.h"
#include "store/format/tile_table.h"
#include "store/model/model.h"
#include "tests/testing/checkpoint_fixture.h"
#include "tests/testing/file_bytes.h"
#include "tests/testing/temp_dir.h"

namespace omni {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::EndsWith;
using testing::FileBytes;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::ShortConfig;
using ::testing::SizeIs;
using ::testing::StartsWith;
using testing::TempDir;
using testing::WriteBytes;

constexpr char kDamaged[] = "; the file is damaged: copy it again or pack the model again";

std::vector<std::string> Files(const std::string& dir) { return ListFiles(dir).value(); }

// Of two expert layers, 0 and 1. The keyframes' tiles lie in the packs in the order of their experts, 0, 1
// and 2; the other expert of a region is a copy of the keyframe but for a few trits.
class Verify : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    packed_ = std::make_unique<TempDir>();
    ASSERT_TRUE(testing::WriteCheckpoint(*packed_ / "c", testing::NearlyEqualExperts(ShortConfig())).ok());
    // Three packs: a layer's nine stored tiles are spread over them.
    const int64_t tile = TileLayout(ShortConfig().d).payload();
    ASSERT_TRUE(PackModel(*packed_ / "c", *packed_ / "m", {.max_pack_bytes = 64 + 7 * tile}).ok());
    ASSERT_TRUE(fs::exists(*packed_ / "m/packs/tiles-002.bin"));
    ASSERT_FALSE(fs::exists(*packed_ / "m/packs/tiles-003.bin"));
    ASSERT_GT(OpenModel(*packed_ / "m")->stats().inline_tiles, 0);
  }
  static void TearDownTestSuite() { packed_.reset(); }
  void SetUp() override { Reset(); }

  void Reset() {
    fs::remove_all(dir_);
    fs::copy(*packed_ / "m", dir_, fs::copy_options::recursive);
  }
  std::string PathOf(const std::string& name) const { return dir_ + "/" + name; }
  void Flip(const std::string& name, size_t byte) const {
    std::string bytes = FileBytes(PathOf(name));
    ASSERT_LT(byte, bytes.size());
    bytes[byte] = static_cast<char>(bytes[byte] ^ 1);
    WriteBytes(PathOf(name), bytes);
  }
  static size_t Payload() { return static_cast<size_t>(TileLayout(ShortConfig().d).payload()); }

  // The defects; they do not depend on the number of threads.
  std::vector<std::string> Defects() const {
    absl::StatusOr<VerifyReport> one = VerifyModel(dir_, {.threads = 1});
    absl::StatusOr<VerifyReport> four = VerifyModel(dir_, {.threads = 4});
    if (!one.ok() || !four.ok()) {
      ADD_FAILURE() << one.status();
      return {};
    }
    EXPECT_EQ(one->defects, four->defects);
    EXPECT_EQ(one->files, four->files);
    EXPECT_EQ(one->bytes, four->bytes);
    EXPECT_EQ(one->tiles, four->tiles);
    // Whatever it passes can be opened, and the reverse.
    EXPECT_EQ(OpenModel(dir_).ok(), one->defects.empty()) << ::testing::PrintToString(one->defects);
    return one->defects;
  }
  // Rewrites model.json with checksums that hold.
  void Forge(const std::function<void(Manifest&)>& change) const {
    Manifest m = *Manifest::Parse(PathOf(kModelFile), FileBytes(PathOf(kModelFile)));
    change(m);
    WriteBytes(PathOf(kModelFile), m.Encode());
  }
  // Rewrites the table of an expert and all hashes that depend on it.
  void ForgeTable(LayerId layer, ExpertId expert, const std::function<void(TileTable&)>& change) const {
    std::vector<std::pair<std::string, std::string>> entries;
    ASSERT_TRUE(ReadDeltaDb(PathOf("deltas"), [&](std::string_view key, std::string_view value) {
                  entries.emplace_back(key, value);
                  return absl::OkStatus();
                }).ok());
    fs::remove_all(PathOf("deltas"));
    absl::StatusOr<DeltaDbWriter> db = DeltaDbWriter::Create(PathOf("deltas"));
    ASSERT_TRUE(db.ok()) << db.status();
    DeltaDigest digest;
    for (auto& [key, value] : entries) {
      if (key == TableKey(layer, expert)) {
        TileTable table = *DecodeTable(value, TilesPerExpert(ShortConfig()));
        change(table);
        value = EncodeTable(table);
      }
      ASSERT_TRUE(db->Put(key, value).ok());
      digest.Add(key, value);
    }
    ASSERT_TRUE(db->Finish().ok());
    DeltaManifest deltas;
    deltas.delta_digest = digest.hash();
    for (const std::string& file : Files(PathOf("deltas")))
      deltas.files["deltas/" + file] = *DigestFile(PathOf("deltas/" + file));
    WriteBytes(PathOf(kDeltasFile), deltas.Encode());
    Forge([&](Manifest& m) { m.delta_digest = digest.hash(); });
  }

  static std::unique_ptr<TempDir> packed_;
  TempDir temp_;
  std::string dir_ = temp_ / "m";
};
std::unique_ptr<TempDir> Verify::packed_;

TEST_F(Verify, AnIntactModelHasNoDefects) {
  EXPECT_THAT(Defects(), IsEmpty());
  const VerifyReport report = *VerifyModel(dir_ + "/", {});
  const std::vector<std::string> names = Files(dir_);
  int64_t bytes = 0;
  for (const std::string& name : names) bytes += static_cast<int64_t>(fs::file_size(PathOf(name)));
  EXPECT_EQ(report.files, static_cast<int64_t>(names.size()));
  EXPECT_EQ(report.bytes, bytes);
  EXPECT_EQ(report.tiles, OpenModel(dir_)->stats().stored_tiles);
  EXPECT_FALSE(report.stopped);
}

TEST_F(Verify, ModelsOfEveryShapeHaveNoDefects) {
  ModelConfig only_attention = testing::SmallConfig();
  only_attention.attention_period = 1;
  // A pack longer than what is read at a time, whose tiles lie across the edges.
  ModelConfig large = testing::SmallConfig();
  large.layers = 1, large.f = 6144, large.own_neurons = 0;
  large.lattice = large.region = {8, 4, 1};
  const std::pair<ModelConfig, PackOptions> cases[] = {
      {large, {.whole = true}},
      {testing::SmallConfig(), {}},
      {testing::SmallConfig(), {.whole = true}},
      {testing::SmallConfig(), {.tile_alignment = 4096}},
      {testing::SmallConfig(), {.tile_alignment = 1 << 20, .max_pack_bytes = 9 << 20}},
      {testing::OddCheckpointConfig(), {.max_pack_bytes = 1}},
      {only_attention, {}}};
  for (const auto& [config, options] : cases) {
    fs::remove_all(temp_ / "c");
    fs::remove_all(dir_);
    ASSERT_TRUE(testing::WriteRandomCheckpoint(temp_ / "c", config, 3).ok());
    ASSERT_TRUE(PackModel(temp_ / "c", dir_, options).ok());
    EXPECT_THAT(Defects(), IsEmpty());
  }
}

TEST_F(Verify, AFlippedBitInAnyFileIsFoundAndTheFileNamed) {
  for (const std::string& name : Files(dir_)) {
    const size_t size = fs::file_size(PathOf(name));
    for (const size_t byte : {size_t{0}, size / 3, size - 1}) {
      Flip(name, byte);
      EXPECT_THAT(Defects(), Contains(HasSubstr(PathOf(name)))) << byte;
      Flip(name, byte);
    }
  }
  EXPECT_THAT(Defects(), IsEmpty());
}

TEST_F(Verify, ABadTileIsNamedWithItsExpertAndLayer) {
  Flip("packs/tiles-000.bin", 64 + 4 * Payload() + 100);
  EXPECT_THAT(Defects(), ElementsAre(PathOf("packs/tiles-000.bin") +
                                     ": tile 1 of expert 1, layer 0 fails its checksum" + kDamaged));
  Flip("packs/tiles-001.bin", 64 + 2 * Payload());  // and the first tile of layer 1
  EXPECT_THAT(Defects(), ElementsAre(HasSubstr("tile 1 of expert 1, layer 0"),
                                     PathOf("packs/tiles-001.bin") +
                                         ": tile 0 of expert 0, layer 1 fails its checksum" + kDamaged));
}

TEST_F(Verify, DamageOutsideTilesIsTheFilesOwn) {
  Flip("packs/tiles-001.bin", 20);
  EXPECT_THAT(Defects(),
              ElementsAre(PathOf("packs/tiles-001.bin") + ": the header fails its checksum" + kDamaged));
  fs::remove_all(dir_);
  ASSERT_TRUE(PackModel(*packed_ / "c", dir_, {.tile_alignment = 4096}).ok());
  const std::string pack = "packs/tiles-000.bin";
  Flip(pack, fs::file_size(PathOf(pack)) - 1);  // padding
  EXPECT_THAT(Defects(), ElementsAre(PathOf(pack) + ": fails its checksum" + kDamaged));
}

TEST_F(Verify, ABadSectionIsNamed) {
  const SharedLayout layout(ShortConfig());
  for (const char* name : {"embed", "layers.1.wo", "layers.1.positions"}) {
    Reset();
    Flip(kSharedFile, static_cast<size_t>(layout.Find(name).offset + layout.Find(name).bytes - 1));
    EXPECT_THAT(Defects(),
                ElementsAre(PathOf(kSharedFile) + ": section " + name + " fails its checksum" + kDamaged));
  }
}

TEST_F(Verify, ValuesThatNoModelMayHoldAreFoundThoughChecksumsHold) {
  // As a buggy writer would: the section, its checksum, the table's and the file's.
  const auto forge = [&](const char* name, int64_t element, float value) {
    std::string bytes = FileBytes(PathOf(kSharedFile));
    SharedLayout layout(ShortConfig());
    ASSERT_TRUE(layout.Verify("", reinterpret_cast<const uint8_t*>(bytes.data())).ok());
    for (SharedSection& s : layout.sections) {
      if (s.name != name) continue;
      std::memcpy(bytes.data() + s.offset + 4 * element, &value, 4);
      s.checksum = Checksum64(bytes.data() + s.offset, static_cast<size_t>(s.bytes));
    }
    bytes.replace(0, static_cast<size_t>(layout.table_bytes), layout.EncodeTable());
    WriteBytes(PathOf(kSharedFile), bytes);
    Forge([&](Manifest& m) { m.files.at(kSharedFile) = *DigestFile(PathOf(kSharedFile)); });
  };
  forge("layers.0.norm2", 3, std::numeric_limits<float>::infinity());
  forge("layers.1.positions", 4, 1.5f);
  EXPECT_THAT(Defects(),
              ElementsAre(HasSubstr("section layers.0.norm2: element 3 is inf; pack the model again"),
                          HasSubstr("section layers.1.positions: element 4 is 1.5, not in [0, 1)")));
}

TEST_F(Verify, CutAndLengthenedFilesAreNamed) {
  for (const std::string& name : Files(dir_)) {
    const std::string good = FileBytes(PathOf(name));
    for (const size_t keep : {size_t{0}, size_t{1}, good.size() / 2, good.size() - 1}) {
      WriteBytes(PathOf(name), good.substr(0, keep));
      EXPECT_THAT(Defects(), Contains(StartsWith(PathOf(name)))) << keep;
    }
    WriteBytes(PathOf(name), good + '\0');
    EXPECT_THAT(Defects(), Contains(StartsWith(PathOf(name))));
    WriteBytes(PathOf(name), good);
  }
}

TEST_F(Verify, ATruncatedPackIsOneDefectAndItsOtherTilesAreChecked) {
  const std::string name = PathOf("packs/tiles-000.bin");
  const std::string bytes = FileBytes(name);
  WriteBytes(name, bytes.substr(0, 64 + 5 * Payload() + 10));
  EXPECT_THAT(Defects(), ElementsAre(name + ": " + std::to_string(64 + 5 * Payload() + 10) +
                                     " bytes long, should be " + std::to_string(bytes.size()) + kDamaged));
  Flip("packs/tiles-000.bin", 64 + 4 * Payload());
  EXPECT_THAT(Defects(), ElementsAre(HasSubstr("bytes long"), HasSubstr("tile 1 of expert 1, layer 0")));
}

TEST_F(Verify, MissingFilesAreNamed) {
  for (const std::string& name : Files(dir_)) {
    fs::rename(PathOf(name), temp_ / "away");
    if (name == kModelFile) {
      EXPECT_THAT(VerifyModel(dir_, {}).status().message(), HasSubstr("there is no model.json"));
    } else {
      EXPECT_THAT(Defects(), ElementsAre(StartsWith(PathOf(name)))) << name;
    }
    fs::rename(temp_ / "away", PathOf(name));
  }
}

TEST_F(Verify, FilesThatDoNotBelongAreNamed) {
  WriteBytes(PathOf("notes.txt"), "x");
  WriteBytes(PathOf("deltas/LOG"), "x");
  fs::create_directory(PathOf("more"));
  EXPECT_THAT(Defects(), ElementsAre(PathOf("deltas/LOG") + ": no part of the model; move it elsewhere",
                                     PathOf("more/") + ": no part of the model; move it elsewhere",
                                     PathOf("notes.txt") + ": no part of the model; move it elsewhere"));
}

TEST_F(Verify, ADirectoryInAFilesPlaceIsADefect) {
  for (const std::string name : {"shared.bin", "tokenizer.omni", "packs/tiles-001.bin", "deltas.json"}) {
    fs::rename(PathOf(name), temp_ / "away");
    fs::create_directory(PathOf(name));
    EXPECT_THAT(Defects(), Contains(HasSubstr(name)));
    fs::remove(PathOf(name));
    fs::rename(temp_ / "away", PathOf(name));
  }
}

TEST_F(Verify, EveryDefectIsListed) {
  Flip("packs/tiles-000.bin", 64 + 100);
  Flip("packs/tiles-000.bin", 64 + 3 * Payload() + 100);
  Flip("packs/tiles-002.bin", FileBytes(PathOf("packs/tiles-002.bin")).size() - 1);
  Flip(kTokenizerFile, 30);
  Flip(kSharedFile, FileBytes(PathOf(kSharedFile)).size() / 2);
  fs::remove(PathOf("packs/tiles-001.bin"));
  WriteBytes(PathOf("extra"), "");
  EXPECT_THAT(Defects(),
              ElementsAre(HasSubstr("tiles-001.bin: the file is missing"), HasSubstr("extra: no part"),
                          HasSubstr("shared.bin: section "), HasSubstr("tokenizer.omni: fails its checksum"),
                          HasSubstr("tiles-000.bin: tile 0 of expert 0, layer 0 fails"),
                          HasSubstr("tiles-000.bin: tile 0 of expert 1, layer 0 fails"),
                          HasSubstr("tiles-002.bin: tile ")));
}

TEST_F(Verify, WithoutTheDatabasePacksAreCheckedAsFiles) {
  std::string table;
  for (const std::string& name : Files(PathOf("deltas"))) {
    if (name.ends_with(".sst")) table = "deltas/" + name;
  }
  Flip(table, 100);
  Flip("packs/tiles-000.bin", 64 + 100);
  EXPECT_THAT(Defects(), ElementsAre(PathOf(table) + ": fails its checksum" + kDamaged,
                                     PathOf("packs/tiles-000.bin") + ": fails its checksum" + kDamaged));
  Reset();
  Flip(kModelFile, 300);
  Flip(kDeltasFile, 30);
  EXPECT_THAT(Defects(), ElementsAre(StartsWith(PathOf(kModelFile)), StartsWith(PathOf(kDeltasFile))));
}

TEST_F(Verify, AnotherModelsDatabaseIsNamed) {
  ASSERT_TRUE(testing::WriteRandomCheckpoint(temp_ / "c2", ShortConfig(), 99).ok());
  ASSERT_TRUE(PackModel(temp_ / "c2", temp_ / "m2", {}).ok());
  fs::remove_all(PathOf("deltas"));
  fs::copy(temp_ / "m2/deltas", PathOf("deltas"), fs::copy_options::recursive);
  fs::copy(temp_ / "m2/deltas.json", PathOf("deltas.json"), fs::copy_options::overwrite_existing);
  EXPECT_THAT(Defects(), ElementsAre(HasSubstr("deltas: the database of another model")));
}

TEST_F(Verify, CodesThatAreNoTritsAreFoundThoughChecksumsHold) {
  const std::string name = "packs/tiles-000.bin";
  std::string bytes = FileBytes(PathOf(name));
  bytes[64] = static_cast<char>(250);
  WriteBytes(PathOf(name), bytes);
  ForgeTable(LayerId(0), ExpertId(0), [&](TileTable& table) {
    table.tiles[0].hash = ContentHash(bytes.data() + 64, Payload());
    table.tiles[0].checksum = Checksum64(bytes.data() + 64, Payload());
  });
  Forge([&](Manifest& m) { m.files.at(name) = *DigestFile(PathOf(name)); });
  EXPECT_THAT(Defects(), ElementsAre(AllOf(StartsWith(PathOf(name) + ": tile 0 of expert 0, layer 0 holds"),
                                           HasSubstr("above 242"), EndsWith("; pack the model again"))));
}

TEST_F(Verify, TablesThatPointAstrayAreFoundThoughEveryFileChecks) {
  const uint64_t stride = Payload();
  const std::pair<std::function<void(TileTable&)>, const char*> cases[] = {
      {[](TileTable& t) { t.tiles[1].checksum ^= 1; },
       "tiles-000.bin: tile 1 of expert 0, layer 0 fails its checksum"},
      {[](TileTable& t) { t.tiles[1].hash.low ^= 1; },
       "tiles-000.bin: tile 1 of expert 0, layer 0 fails its checksum"},
      {[](TileTable& t) { t.tiles[1].pack = 3; },
       "deltas: tile 1 of expert 0, layer 0 lies in pack 3, which is not there"},
      {[](TileTable& t) { t.tiles[1].offset += 64; }, "where no tile begins"},
      {[](TileTable& t) { t.tiles[0].offset = 0; }, "where no tile begins"},
      {[](TileTable& t) { t.tiles[0].offset = UINT64_MAX - 63; }, "where no tile begins"},
      {[=](TileTable& t) { t.tiles[1].offset += 100000 * stride; }, "where no tile begins"},
      {[](TileTable& t) { t.tiles[0] = t.tiles[1]; },
       "tiles-000.bin: tile number 0 of the file belongs to no expert; pack the model again"},
      {[](TileTable& t) { t.tiles.pop_back(); }, "expert 0, layer 0: the tile table lists 2 tiles"},
  };
  for (const auto& [change, message] : cases) {
    Reset();
    ForgeTable(LayerId(0), ExpertId(0), change);
    EXPECT_THAT(Defects(), Contains(HasSubstr(message)));
  }
  Reset();
  ForgeTable(LayerId(0), ExpertId(0), [](TileTable& t) { t.whole = false; });
  EXPECT_THAT(Defects(),
              ElementsAre(HasSubstr("expert 0, layer 0 is a delta, but its keyframe is not there")));
}

TEST_F(Verify, TwoReferencesToOneTileMustAgree) {
  TileRef tile;
  ForgeTable(LayerId(0), ExpertId(1), [&](TileTable& t) { tile = t.tiles[0]; });
  EXPECT_THAT(Defects(), IsEmpty());
  tile.checksum ^= 1;
  ForgeTable(LayerId(1), ExpertId(2), [&](TileTable& t) { t.tiles[0] = tile; });
  EXPECT_THAT(
      Defects(),
      ElementsAre(HasSubstr("deltas: tile 0 of expert 2, layer 1 has another checksum than elsewhere")));
}

TEST_F(Verify, TilesMadeFromScatteredDeltasAreChecked) {
  const ExpertId expert(3);  // of region 0, whose keyframe is expert 0
  uint32_t tile = 0;
  ForgeTable(LayerId(1), expert, [&](TileTable& t) {
    ASSERT_FALSE(t.whole);
    ASSERT_TRUE(t.changes.back().inline_delta);
    tile = t.changes.back().tile;
    t.changes.back().ref.hash.high ^= 1;
  });
  const std::string name = PathOf("deltas") + ": tile " + std::to_string(tile) + " of expert 3, layer 1";
  EXPECT_THAT(Defects(), ElementsAre(name + " fails its checksum" + kDamaged));
  Reset();
  ForgeTable(LayerId(1), expert, [&](TileTable& t) { t.changes.back().delta.pop_back(); });
  EXPECT_THAT(Defects(), ElementsAre(StartsWith(name + ": the scattered delta is malformed")));
  // Bytes of a bad base say nothing of the delta; those of other bases in the pack are checked all the same.
  Reset();
  ForgeTable(LayerId(1), ExpertId(4), [&](TileTable& t) { t.changes.back().ref.checksum ^= 1; });
  Flip("packs/tiles-001.bin", 64 + (2 + tile) * Payload());
  EXPECT_THAT(Defects(), ElementsAre(HasSubstr("tile " + std::to_string(tile) + " of expert 0, layer 1"),
                                     HasSubstr("of expert 4, layer 1 fails its checksum")));
}

TEST_F(Verify, ProgressIsToldAndCanStop) {
  int64_t seen = 0, whole = 0;
  VerifyOptions options;
  options.progress = [&](int64_t bytes, int64_t total) {
    EXPECT_GE(bytes, seen);
    EXPECT_LE(bytes, total);
    seen = bytes, whole = total;
    return true;
  };
  const VerifyReport report = *VerifyModel(dir_, options);
  EXPECT_EQ(report.bytes, whole);
  EXPECT_EQ(seen, whole);
  options.progress = [](int64_t, int64_t) { return false; };
  EXPECT_TRUE(VerifyModel(dir_, options)->stopped);
}

TEST_F(Verify, ItIsNoModel) {
  EXPECT_THAT(VerifyModel(temp_ / "none", {}).status().message(), HasSubstr("no such directory"));
  EXPECT_THAT(VerifyModel(*packed_ / "c", {}).status().message(), HasSubstr("a training checkpoint"));
}

}  // namespace
}  // namespace omni
