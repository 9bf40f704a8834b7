// The figures of a model, counted from its manifests and from which of its tiles are equal.
#pragma once

#include <cstdint>

#include "engine/model/config.h"
#include "store/format/model_files.h"
#include "store/format/tile_contents.h"

namespace omni {

// What `omni inspect` prints; every figure is counted from the bytes on disk.
struct ModelStats {
  ParameterCount parameters;      // nominal, from the config
  int64_t unique_parameters = 0;  // identical tiles counted once
  int64_t shared_bytes = 0, tile_bytes = 0, delta_db_bytes = 0, total_bytes = 0;
  int64_t tiles = 0, unique_tiles = 0;  // of all experts, by content
  // For each pair of lattice neighbours (one hop, wrapped) averaged over layers: the share of tiles that
  // differ.
  double neighbour_delta_same_region = 0, neighbour_delta_other_region = 0;
  double keyframe_delta = 0;  // mean share of tiles in which an expert differs from its region's keyframe
  // What the packer chose: tiles in the pack files; experts of a layer listed whole or as a delta; and tiles
  // held as scattered trits, with their coded bytes.
  int64_t stored_tiles = 0, whole_tables = 0, delta_tables = 0, inline_tiles = 0, inline_bytes = 0;
  // Regions of all expert layers; bytes of the different tiles of their keyframes; bytes of the stored tiles
  // and scattered trits that the other experts need besides.
  int64_t regions = 0, keyframe_bytes = 0, delta_bytes = 0;
};

ModelStats CountStats(const ModelFiles& files, const TileContents& contents);

}  // namespace omni
