// Where the packer's bytes come from: a training checkpoint, quantised on the way, or a model that is packed
// already.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "engine/model/config.h"
#include "store/format/shared_layout.h"

namespace omni {

// One thread at a time.
class PackSource {
 public:
  virtual ~PackSource() = default;
  virtual const ModelConfig& config() const = 0;
  virtual std::string TokenizerBytes() const = 0;  // a valid tokenizer.omni
  // The packed bytes of a section of SharedLayout(config()).
  virtual absl::StatusOr<std::string> Section(const SharedSection& section) = 0;
  // TileLayout(config().d).payload() bytes, valid until the next call. Fastest if an expert's tiles are asked
  // for one after another and the experts of a region too.
  virtual absl::StatusOr<const uint8_t*> Tile(LayerId layer, ExpertId expert, int64_t tile) = 0;
  // Whether the tile is known, without making it, to be the region's keyframe's. False: not known.
  virtual bool EqualsKeyframe(LayerId, ExpertId, int64_t) const { return false; }
  // Whether a tile that differs from the keyframe's may differ in a few trits only.
  virtual bool tiles_resemble() const { return true; }
};

// Reads config.json, tokenizer.omni and model.safetensors of a checkpoint directory. Refuses tensors that are
// missing, unknown, of another shape, or hold a value that is not finite, and names them.
absl::StatusOr<std::unique_ptr<PackSource>> OpenCheckpointSource(const std::string& checkpoint);

}  // namespace omni
