// Who answers which token, where the config's route_from is address: dealt once, by what the text says of the
// tokens.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "engine/train/settings.h"

namespace omni::train {

// Counts the text once; then gives the members of all tokens in a layer, by --members and the seed.
std::function<std::vector<uint8_t>(uint64_t layer)> MemberDealer(const TrainSettings& settings,
                                                                 const std::vector<int32_t>& text);

}  // namespace omni::train
