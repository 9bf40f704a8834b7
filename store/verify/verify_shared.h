// shared.bin for VerifyModel: its table, and each section's checksum and floats, as the file passes by.
#pragma once

#include "store/format/model_files.h"
#include "store/verify/verify_file.h"

namespace omni {

void VerifyShared(const ModelFiles& files, VerifyState* state, Defects* defects);

}  // namespace omni
