// The figures of a model, counted from its manifests and from which of its tiles are equal.
#pragma once

#include "store/model_dir.h"
#include "store/model_files.h"
#include "store/tile_contents.h"

namespace omni {

ModelStats CountStats(const ModelFiles& files, const TileContents& contents);

}  // namespace omni
