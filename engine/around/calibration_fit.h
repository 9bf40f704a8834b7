// Fitting a model's calibration on a text, and measuring it on another.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include <absl/status/statusor.h>

#include "engine/around/calibration.h"
#include "engine/around/calibration_metrics.h"
#include "engine/around/perspective_run.h"

namespace omni {

// What both need. All outlive the call.
struct CalibrationText {
  const ModelWeights& weights;
  ExpertSource& source;
  const Tokenizer& tokenizer;
  WorkerPool& pool;
  std::string_view text;
  PerspectiveRunOptions run;
};

// Sets the temperature, the map of the largest probability, and all of run.kind's; the other kind's stays
// what it is. On the first half of the tokens temperatures and weights are chosen, by least nats among a grid
// and a parabola through it, on the second the confidences are fitted: coefficients by logistic regression,
// then the maps; tau is what a twentieth of its tokens disagree by or more. Rejects fewer than 512 tokens.
absl::Status FitCalibration(const CalibrationText& on, Calibration& calibration);

struct CalibrationComparison {
  int64_t tokens = 0, bytes = 0;   // bytes: of the predicted tokens
  CalibrationReport softmax;       // the session's own distribution
  CalibrationReport temperature;   // the same at the fitted temperature
  CalibrationReport isotonic;      // the same, the map's value as its confidence
  CalibrationReport average;       // of the four distributions, equally
  CalibrationReport perspectives;  // their fitted mixture and its confidence
  CalibrationReport plain_rule;    // the session's own, 1 - disagreement / tau as its confidence
  double tau = 0;                  // of the plain rule, and of what disagrees
  double disagreement = 0;         // mean, nats
  double disagreeing = 0;          // share of the tokens with tau or more
  double uncertain = 0;            // share of the tokens where no two name the same likeliest token besides

  double BitsPerByte(const CalibrationReport& report) const;
};

// `calibration` has run.kind's.
absl::StatusOr<CalibrationComparison> CompareCalibrations(const CalibrationText& on,
                                                          const Calibration& calibration, float tau);

}  // namespace omni
