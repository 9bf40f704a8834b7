// What a run measures of its model beside the training loss.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <vector>

#include "engine/train/model.h"
#include "engine/train/settings.h"

namespace omni::train {

struct Validation {
  double nats = 0;  // mean per token
  // Share of the tokens that take the same expert, and one of the same region, as the token before, over all
  // expert layers.
  double same_expert = 0, same_region = 0;
};

// Over the first tokens of `ids`, in parallel streams with carried state (ShapeOfValidation).
Validation Validate(TrainModel& model, const std::vector<int32_t>& ids, const TrainSettings& settings);

// Pieces of a text from `rows` places of it: int32 [rows * T] for TrainModel::RoutesOf, T at most a segment.
torch::Tensor RouteSample(const std::vector<int32_t>& text, int64_t rows, const TrainSettings& settings);
// Share of the routes that differ.
double ChangedShare(const Routes& before, const Routes& after);

}  // namespace omni::train
