// Checks a whole model directory against everything that it promises, without loading it.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include <absl/status/statusor.h>

namespace omni {

struct VerifyOptions {
  int threads = 1;  // files that are read at the same time
  // Called a few times a second, by the thread that called VerifyModel, with the bytes read so far and those
  // to read. False: stop. Empty: not called.
  std::function<bool(int64_t bytes, int64_t total)> progress = nullptr;
};

struct VerifyReport {
  int64_t files = 0, bytes = 0;  // read
  int64_t tiles = 0;             // of the pack files, that were checked
  // One line each: the file, what is wrong, what to do. In an order that does not depend on the number of
  // threads.
  std::vector<std::string> defects;
  // How many of them are not damage, but what the system would not let be read: no permission, too many open
  // files, no memory.
  int64_t refused = 0;
  bool stopped = false;  // by `progress`: the rest was not looked at
};

// Checked are: both manifests, that the listed files and no others are there, their sizes and hashes, the
// sections of shared.bin, the tokenizer, the tile tables and their digest, the packs' headers, that every
// reference lands on a tile and every tile is referred to, and of every tile, stored or made from a scattered
// delta, hash, checksum, codes and scales. What a defect hides is left out: without the database tiles have
// no checksums, a truncated pack is not reported tile by tile.
//
// Every file is read once, in order; the database's files twice. Memory: 32 bytes per stored tile and 16 per
// scattered delta; per thread a buffer of 8 MiB and a tile, and 64 MiB of scattered deltas with their tables;
// the tokenizer's file.
//
// An error only if `path` is no model directory at all or holds a part of a model (FailedPrecondition), or
// the system refuses the threads (ResourceExhausted).
absl::StatusOr<VerifyReport> VerifyModel(const std::string& path, const VerifyOptions& options);

}  // namespace omni
