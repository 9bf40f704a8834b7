#include "engine/model/checkpoint.h"

#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace omni {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class Checkpoint : public ::testing::Test {
 protected:
  Checkpoint() {
    std::string name = ::testing::TempDir() + "checkpoint_XXXXXX";
    dir_ = mkdtemp(name.data());
  }
  ~Checkpoint() override { std::filesystem::remove_all(dir_); }

  std::string Path(const std::string& name) const { return dir_ + "/" + name; }

  std::string Write(const std::string& name, const std::string& bytes) const {
    std::ofstream(Path(name), std::ios::binary) << bytes;
    return Path(name);
  }

  std::string Read(const std::string& path) const {
    std::ostringstream out;
    out << std::ifstream(path, std::ios::binary).rdbuf();
    return out.str();
  }

  // A file of the given header text and data.
  std::string WriteRaw(const std::string& header, const std::string& data) const {
    std::string bytes(8, '\0');
    const uint64_t length = header.size();
    std::memcpy(bytes.data(), &length, 8);
    return Write("raw", bytes + header + data);
  }

  absl::Status OpenRaw(const std::string& header, size_t data_bytes) const {
    std::string padded = header;
    padded.resize((header.size() + 7) / 8 * 8, ' ');
    return SafetensorsFile::Open(WriteRaw(padded, std::string(data_bytes, 'x'))).status();
  }

  std::string dir_;
};

const float kFloats[6] = {1.5f, -2.0f, 3.25f, 0.0f, 5.0f, -6.0f};
const int64_t kInts[2] = {-1, int64_t{1} << 40};
const uint8_t kBytes[3] = {1, 2, 255};
const uint16_t kHalves[3] = {0x3c00, 0xc000, 0x0001};

absl::btree_map<std::string, TensorView> Tensors() {
  return {{"weights", {DType::kF32, {2, 3}, kFloats}}, {"counts", {DType::kI64, {2}, kInts}},
          {"a.bytes", {DType::kU8, {3, 1}, kBytes}},   {"halves", {DType::kF16, {3}, kHalves}},
          {"none", {DType::kF32, {0, 7}, nullptr}},    {"scalar", {DType::kF32, {}, kFloats}}};
}

bool SameContent(const SafetensorsFile& file) {
  const auto want = Tensors();
  if (file.tensors().size() != want.size()) return false;
  for (const auto& [name, tensor] : want) {
    const auto it = file.tensors().find(name);
    if (it == file.tensors().end() || it->second.dtype != tensor.dtype || it->second.shape != tensor.shape)
      return false;
    if (tensor.bytes() > 0 && std::memcmp(it->second.data, tensor.data, tensor.bytes()) != 0) return false;
  }
  const auto it = file.metadata().find("step");
  return it != file.metadata().end() && it->second == "1000";
}

TEST_F(Checkpoint, RoundTripsTensorsAndMetadata) {
  const std::string path = Path("a.safetensors");
  ASSERT_TRUE(WriteSafetensors(path, Tensors(), {{"step", "1000"}}).ok());
  absl::StatusOr<SafetensorsFile> file = SafetensorsFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_TRUE(SameContent(*file));
  EXPECT_EQ(file->metadata().size(), 1u);
  const absl::StatusOr<const float*> weights = file->F32("weights", {2, 3});
  ASSERT_TRUE(weights.ok()) << weights.status();
  EXPECT_THAT(std::vector<float>(*weights, *weights + 6), ::testing::ElementsAreArray(kFloats));
}

TEST_F(Checkpoint, WritesTheSameBytesEachTimeAndDataAtAMultipleOf64) {
  ASSERT_TRUE(WriteSafetensors(Path("a"), Tensors(), {{"step", "1000"}}).ok());
  ASSERT_TRUE(WriteSafetensors(Path("b"), Tensors(), {{"step", "1000"}}).ok());
  const std::string bytes = Read(Path("a"));
  EXPECT_EQ(bytes, Read(Path("b")));
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), 8);
  EXPECT_EQ((8 + length) % 64, 0u);
  EXPECT_EQ(bytes.size(),
            8 + length + sizeof kFloats + sizeof kInts + sizeof kBytes + sizeof kHalves + sizeof(float));
}

TEST_F(Checkpoint, ViewsSurviveAMove) {
  ASSERT_TRUE(WriteSafetensors(Path("a"), Tensors(), {{"step", "1000"}}).ok());
  SafetensorsFile first = SafetensorsFile::Open(Path("a")).value();
  const float* before = first.F32("weights", {2, 3}).value();
  SafetensorsFile second = std::move(first);
  EXPECT_EQ(second.F32("weights", {2, 3}).value(), before);
  EXPECT_TRUE(SameContent(second));
}

TEST_F(Checkpoint, NamesFileTensorFoundAndWanted) {
  ASSERT_TRUE(WriteSafetensors(Path("a"), Tensors(), {}).ok());
  const SafetensorsFile file = SafetensorsFile::Open(Path("a")).value();
  const absl::Status shape = file.F32("weights", {3, 2}).status();
  EXPECT_THAT(shape.message(),
              AllOf(HasSubstr(Path("a")), HasSubstr("'weights' is F32 [2, 3]"), HasSubstr("F32 [3, 2]")));
  EXPECT_THAT(file.F32("counts", {2}).status().message(), HasSubstr("is I64 [2]"));
  const absl::Status missing = file.F32("absent", {1}).status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(missing.message(), HasSubstr("'absent', F32 [1], is missing"));
}

TEST_F(Checkpoint, RefusesWhatCannotBeWritten) {
  EXPECT_FALSE(WriteSafetensors(Path("a"), {{"__metadata__", {DType::kF32, {1}, kFloats}}}, {}).ok());
  EXPECT_FALSE(WriteSafetensors(Path("a"), {{"t", {DType::kF32, {-1}, kFloats}}}, {}).ok());
  EXPECT_FALSE(WriteSafetensors(Path("a"), {{"t", {DType::kF32, {1}, nullptr}}}, {}).ok());
  EXPECT_FALSE(WriteSafetensors(Path("a"), {{"t\xff", {DType::kF32, {1}, kFloats}}}, {}).ok());
  EXPECT_FALSE(WriteSafetensors(Path("no/such/dir"), Tensors(), {}).ok());
}

TEST_F(Checkpoint, ReadsFilesOfOtherWriters) {
  const std::string header = R"({"b":{"dtype":"U8","shape":[2],"data_offsets":[4,6]},)"
                             R"("a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})";
  EXPECT_TRUE(OpenRaw(header, 6).ok()) << OpenRaw(header, 6);
  EXPECT_TRUE(OpenRaw("{}", 0).ok());
}

TEST_F(Checkpoint, RefusesAPipeOrFolderAtOnce) {
  ASSERT_EQ(mkfifo(Path("pipe").c_str(), 0600), 0);  // without a writer
  for (const std::string& path : {Path("pipe"), dir_}) {
    EXPECT_EQ(SafetensorsFile::Open(path).status().message(), path + ": not a regular file");
    EXPECT_EQ(WriteSafetensors(path, {}, {}).message(), path + ": not a regular file; give another name");
  }
}

TEST_F(Checkpoint, AWriterThatFailsKeepsTheOldFile) {
  const std::string path = Write("file", "old");
  struct rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto old_handler = signal(SIGXFSZ, SIG_IGN);
  const rlimit small{100, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const absl::Status status = WriteSafetensors(path, {{"t", {DType::kF32, {6}, kFloats}}}, {});
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  signal(SIGXFSZ, old_handler);
  EXPECT_THAT(std::string(status.message()), HasSubstr("file size limit"));
  EXPECT_EQ(Read(path), "old");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir_), {}), 1);
}

TEST_F(Checkpoint, RejectsWrongHeadersByWhatIsWrong) {
  const struct {
    const char* header;
    size_t data_bytes;
    const char* message;
  } cases[] = {
      {"[]", 0, "not a JSON object"},
      {"{\"a\"", 0, "is not JSON"},
      {R"({"a":1})", 0, "is not an object of dtype"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1}})", 4, "is not an object of dtype"},
      {R"({"a":{"dtype":"F32","shape":[1],"offsets":[0,4]}})", 4, "lacks"},
      {R"({"a":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}})", 2, "unsupported dtype"},
      {R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", 4, "dimension"},
      {R"({"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}})", 4, "dimension"},
      {R"({"a":{"dtype":"F32","shape":[9223372036854775808],"data_offsets":[0,4]}})", 4, "dimension"},
      {R"({"a":{"dtype":"F32","shape":1,"data_offsets":[0,4]}})", 4, "shape"},
      {R"({"a":{"dtype":"F32","shape":[4611686018427387905],"data_offsets":[0,4]}})", 4, "4 bytes of data"},
      {R"({"a":{"dtype":"F32","shape":[2147483648,2147483648,4],"data_offsets":[0,0]}})", 0,
       "0 bytes of data"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 4, "but has 4 bytes"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 3, "outside the file's 3"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", 4, "outside"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}})", 4, "not two whole numbers"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,18446744073709551615]}})", 4,
       "not two whole numbers"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 5, "5 bytes of data"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", 8, "after a gap"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
       R"("b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
       4, "inside another tensor"},
      {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
       R"("b":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}})",
       5, "no multiple of its element size"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
       R"("a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
       4, "has the key 'a' twice"},
      {R"({"a":{"dtype":"F32","dtype":"U8","shape":[4],"data_offsets":[0,4]}})", 4,
       "has the key 'dtype' twice"},
      {R"({"__metadata__":[]})", 0, "is not an object"},
      {R"({"__metadata__":{"a":1}})", 0, "'a' is not a string"},
      {R"({"__metadata__":{"header_xxh3":"0000000000000000"}})", 0, "checksum"},
  };
  for (const auto& c : cases) {
    const absl::Status status = OpenRaw(c.header, c.data_bytes);
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << c.header;
    EXPECT_THAT(status.message(), AllOf(HasSubstr(Path("raw")), HasSubstr(c.message))) << c.header;
  }
}

TEST_F(Checkpoint, RejectsCutFilesAndFalseLengths) {
  ASSERT_TRUE(WriteSafetensors(Path("a"), Tensors(), {{"step", "1000"}}).ok());
  const std::string bytes = Read(Path("a"));
  for (size_t keep = 0; keep < bytes.size(); ++keep) {
    ASSERT_FALSE(SafetensorsFile::Open(Write("cut", bytes.substr(0, keep))).ok()) << keep;
  }
  ASSERT_FALSE(SafetensorsFile::Open(Write("long", bytes + "x")).ok());
  for (uint64_t length : {uint64_t{0}, uint64_t{bytes.size() - 7}, uint64_t{1} << 62, ~uint64_t{0}}) {
    std::string altered = bytes;
    std::memcpy(altered.data(), &length, 8);
    ASSERT_FALSE(SafetensorsFile::Open(Write("length", altered)).ok()) << length;
  }
  EXPECT_EQ(SafetensorsFile::Open(Path("absent")).status().code(), absl::StatusCode::kNotFound);
  EXPECT_FALSE(SafetensorsFile::Open(dir_).ok());
}

TEST_F(Checkpoint, ADamagedHeaderByteGivesAnErrorOrTheSameContent) {
  ASSERT_TRUE(WriteSafetensors(Path("a"), Tensors(), {{"step", "1000"}}).ok());
  const std::string bytes = Read(Path("a"));
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), 8);
  std::mt19937_64 rng(11);
  int errors = 0;
  for (int i = 0; i < 800; ++i) {
    std::string damaged = bytes;
    damaged[rng() % (8 + length)] ^= static_cast<char>(1 + rng() % 255);
    const absl::StatusOr<SafetensorsFile> file = SafetensorsFile::Open(Write("damaged", damaged));
    errors += !file.ok();
    if (file.ok()) {
      EXPECT_TRUE(SameContent(*file)) << damaged.substr(8, length);
    }
  }
  EXPECT_GT(errors, 600);
}

TEST_F(Checkpoint, ManyDamagedBytesNeverGiveViewsOutsideTheFile) {
  ASSERT_TRUE(WriteSafetensors(Path("a"), Tensors(), {}).ok());
  std::string bytes = Read(Path("a"));
  // Without the checksum's key nothing stands between the damage and the checks of the tensors.
  bytes.replace(bytes.find("header_xxh3"), 11, "header_none");
  std::mt19937_64 rng(12);
  int64_t sum = 0;
  for (int i = 0; i < 800; ++i) {
    std::string damaged = bytes;
    for (int j = 0; j < 3; ++j)
      damaged[8 + rng() % (bytes.size() - 8)] ^= static_cast<char>(1u << (rng() % 4));
    const absl::StatusOr<SafetensorsFile> file = SafetensorsFile::Open(Write("damaged", damaged));
    if (!file.ok()) continue;
    for (const auto& [name, tensor] : file->tensors()) {
      for (int64_t j = 0; j < tensor.bytes(); ++j) sum += static_cast<const uint8_t*>(tensor.data)[j];
    }
  }
  EXPECT_GT(sum, 0);
}

TEST_F(Checkpoint, ErrorsShowHostileNamesOnOneShortLine) {
  const std::string header = "{\"a\\n\\u001b[2J" + std::string(5000, 'x') + "\":1}";
  EXPECT_THAT(OpenRaw(header, 0).message(), HasSubstr("tensor 'a\\n\\x1b[2Jx"));
  EXPECT_LT(OpenRaw(header, 0).message().size(), 300u);
}

// nlohmann's parser with a callback compares every object with all before it.
TEST_F(Checkpoint, ManySmallObjectsTakeLinearTime) {
  std::string header = "{\"a\":[{}";
  for (int i = 0; i < 300000; ++i) header += ",{}";
  const auto start = std::chrono::steady_clock::now();
  EXPECT_FALSE(OpenRaw(header + "]}", 0).ok());
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));
}

// Digesting a header recurses with its depth.
TEST_F(Checkpoint, DeepNestingBesideADigestIsAnError) {
  const std::string deep = std::string(100000, '[') + std::string(100000, ']');
  EXPECT_THAT(OpenRaw(R"({"__metadata__":{"header_xxh3":"00"},"a":)" + deep + "}", 0).message(),
              HasSubstr("nests deeper than 8 levels"));
  EXPECT_FALSE(OpenRaw(R"({"__metadata__":{"header_xxh3":)" + deep + "}}", 0).ok());
}

TEST_F(Checkpoint, DeepNestingIsAnError) {
  EXPECT_FALSE(OpenRaw(std::string(200000, '['), 0).ok());
  EXPECT_FALSE(OpenRaw("{\"a\":" + std::string(100000, '[') + std::string(100000, ']') + "}", 0).ok());
}

}  // namespace
}  // namespace omni
