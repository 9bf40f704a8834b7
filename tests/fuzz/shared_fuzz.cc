// shared.bin: altered bytes are found, and bytes that were written wrongly are refused before anything
// computes with them.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "store/file/files.h"
#include "store/file/hash.h"
#include "store/format/shared_layout.h"
#include "tests/fuzz/fuzz.h"

namespace omni::fuzz {

const int kRuns = 80000;

namespace {

ModelConfig SmallConfig() {
  ModelConfig c;
  c.layers = 2, c.attention_period = 2;
  c.d = 4, c.r = 2, c.f = 64, c.heads = 2, c.kv_heads = 1, c.window = 3, c.vocab = 257;
  c.lattice = {2, 1, 1}, c.region = {1, 1, 1};
  return c;
}

const std::string& Good() {
  static const std::string* const bytes = [] {
    SharedLayout layout(SmallConfig());
    std::string file(static_cast<size_t>(layout.file_bytes), '\0');
    for (SharedSection& s : layout.sections)
      s.checksum = Checksum64(file.data() + s.offset, static_cast<size_t>(s.bytes));
    const std::string table = layout.EncodeTable();
    return new std::string(table + file.substr(table.size()));
  }();
  return *bytes;
}

void Check(const AlignedBuffer& file) {
  SharedLayout layout(SmallConfig());
  if (const absl::Status s = layout.Verify("shared.bin", file.data()); !s.ok()) return RequireReadable(s);
  const absl::StatusOr<ModelWeights> weights = BindShared(SmallConfig(), layout, "shared.bin", file.data());
  if (!weights.ok()) return RequireReadable(weights.status());
  Require(CheckWeights(*weights).ok(), "accepted weights are valid");
  for (const SharedSection& s : layout.sections) {
    if (s.kind != SectionKind::kFloat32) continue;
    const auto* values = reinterpret_cast<const float*>(file.data() + s.offset);
    // Scales of rows that pad a matrix are never used.
    const int64_t rows =
        s.name.ends_with(".scale") ? layout.Find(s.name.substr(0, s.name.size() - 6)).rows : s.rows;
    const int64_t count = s.name.ends_with(".scale") ? rows : rows * s.cols;
    for (int64_t i = 0; i < count; ++i) Require(std::isfinite(values[i]), "accepted weights are finite");
  }
}

}  // namespace

// The table's part of the file and some of the sections: the rest of the good file follows what an input
// leaves out.
std::vector<std::string> Seeds() {
  const SharedLayout layout(SmallConfig());
  std::vector<std::string> seeds = {Good().substr(0, static_cast<size_t>(layout.table_bytes)), Good()};
  return seeds;
}

}  // namespace omni::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace omni;
  using namespace omni::fuzz;
  absl::StatusOr<AlignedBuffer> file = AlignedBuffer::Allocate(static_cast<int64_t>(Good().size()));
  std::memcpy(file->data(), Good().data(), Good().size());
  std::copy_n(data, std::min(size, Good().size()), file->data());
  Check(*file);
  // The same sections, sealed as a writer would: checksums hold, so that the values themselves are judged.
  SharedLayout layout(SmallConfig());
  for (SharedSection& s : layout.sections)
    s.checksum = Checksum64(file->data() + s.offset, static_cast<size_t>(s.bytes));
  const std::string table = layout.EncodeTable();
  std::memcpy(file->data(), table.data(), table.size());
  Check(*file);
  return 0;
}
