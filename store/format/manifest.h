// model.json and deltas.json: what a model directory must hold, and the hash by which a model is known.
#pragma once

#include <cstdint>
#include <string>

#include <absl/container/btree_map.h>
#include <absl/status/statusor.h>

#include "engine/model/config.h"
#include "store/file/files.h"

namespace omni {

inline constexpr char kModelFile[] = "model.json";
inline constexpr char kDeltasFile[] = "deltas.json";
inline constexpr char kSharedFile[] = "shared.bin";
inline constexpr char kTokenizerFile[] = "tokenizer.omni";
inline constexpr char kPacksFolder[] = "packs";
inline constexpr char kDeltasFolder[] = "deltas";

// What the packer chose, counted.
struct PackCounts {
  int64_t tile_alignment = 0;
  bool whole = false;         // every expert stored whole, nothing shared
  int64_t stored_tiles = 0;   // in the pack files
  int64_t whole_tables = 0;   // experts of a layer listed tile by tile (keyframes, and where that is smaller)
  int64_t delta_tables = 0;   // experts of a layer listed as changes to their keyframe
  int64_t changed_tiles = 0;  // changes that refer to a stored tile
  int64_t inline_tiles = 0;   // changes held as scattered trits
  int64_t inline_bytes = 0;   // of those
};

using FileTable = absl::btree_map<std::string, FileDigest>;  // by name, relative to the model directory

struct Manifest {
  ModelConfig config;
  PackCounts counts;
  FileTable files;       // all but model.json, deltas.json and deltas/
  Hash128 delta_digest;  // of the delta database's keys and values
  int64_t delta_keys = 0;

  // XXH3-128 over config, files and delta digest (docs/formats.md).
  Hash128 ModelHash() const;
  std::string Encode() const;  // equal manifests give equal text
  // Rejects any text that Encode does not write, and names of other characters than letters, digits and
  // "._-/". `path` is for the messages.
  static absl::StatusOr<Manifest> Parse(const std::string& path, const std::string& text);
};

// The files of deltas/. Kept apart from model.json: two packs of one checkpoint have equal keys and values
// there but, since RocksDB writes times into its files, not equal bytes.
struct DeltaManifest {
  FileTable files;  // names begin with deltas/
  Hash128 delta_digest;

  std::string Encode() const;
  // As Manifest::Parse.
  static absl::StatusOr<DeltaManifest> Parse(const std::string& path, const std::string& text);
};

}  // namespace omni
