// Which tiles of a model are equal: a number for the content of every tile of every expert.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include <absl/container/flat_hash_map.h>

#include "store/file/hash.h"
#include "store/format/table_reader.h"

namespace omni {

// Filled by one thread, then only read.
class TileContents {
 public:
  // Takes memory only when Allocate is called.
  explicit TileContents(const ModelConfig& config) : numbers_(config) {}
  void Allocate() { contents_.assign(static_cast<size_t>(numbers_.tables() * numbers_.tiles()), 0); }

  // A number below unique(), the same for equal hashes; new ones ascend.
  uint32_t NumberOf(const Hash128& hash) {
    return number_.try_emplace(hash, static_cast<uint32_t>(number_.size())).first->second;
  }
  void Set(int64_t table, int64_t tile, uint32_t content) {
    contents_[Index(table) + static_cast<size_t>(tile)] = content;
  }
  void Copy(int64_t from, int64_t to) {
    std::copy_n(&contents_[Index(from)], numbers_.tiles(), &contents_[Index(to)]);
  }

  const TableNumbers& numbers() const { return numbers_; }
  const uint32_t* Of(int64_t table) const { return &contents_[Index(table)]; }  // numbers().tiles() of them
  int64_t unique() const { return static_cast<int64_t>(number_.size()); }

 private:
  size_t Index(int64_t table) const { return static_cast<size_t>(table * numbers_.tiles()); }

  TableNumbers numbers_;
  std::vector<uint32_t> contents_;
  absl::flat_hash_map<Hash128, uint32_t> number_;
};

}  // namespace omni
