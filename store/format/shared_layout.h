// shared.bin: everything that is not an expert, in sections whose order, shape and place follow from the
// config alone.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <absl/status/status.h>

#include "engine/model/weights.h"

namespace omni {

enum class SectionKind : uint32_t { kFloat32 = 0, kInt8 = 1, kTwoBit = 2, kBytes = 3 };

struct SharedSection {
  std::string name;  // the checkpoint's tensor name; scales are NAME.scale
  SectionKind kind = SectionKind::kFloat32;
  int64_t rows = 0,
          cols = 0;  // of the matrix; a vector has one row. Scales: their own count, rows padded to 4
  int64_t offset = 0, bytes = 0;  // offset is a multiple of 64
  uint64_t checksum = 0;          // of the bytes; filled in by whoever has them
};

struct SharedLayout {
  explicit SharedLayout(const ModelConfig& config);
  std::vector<SharedSection> sections;
  int64_t table_bytes = 0;  // header and section table, at the start of the file
  int64_t file_bytes = 0;
  const SharedSection& Find(const std::string& name) const;  // must exist

  // The header and table with the sections' checksums as they stand here.
  std::string EncodeTable() const;
  // Checks magic, version and the whole table, which `table` holds, against this layout, and takes the
  // sections' checksums from it. `path` is for the messages.
  absl::Status ReadTable(const std::string& path, const uint8_t* table);
  // ReadTable, and each section's bytes against its
  // checksum. `file` is file_bytes long; `path` is for the messages.
  absl::Status Verify(const std::string& path, const uint8_t* file);
};

// Packed bytes of a [rows, cols] two-bit matrix (kernels::TwoBitMatrix, group stride num_blocks * 64).
int64_t TwoBitBytes(int64_t rows, int64_t cols);

// Views into `file`, which holds a verified shared.bin of that layout and outlives them. Codes, shapes and
// floats are checked: an error names the section.
absl::StatusOr<ModelWeights> BindShared(const ModelConfig& config, const SharedLayout& layout,
                                        const std::string& path, const uint8_t* file);

}  // namespace omni
