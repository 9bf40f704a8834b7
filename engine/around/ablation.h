// What each part of the model and around its token step is worth: a text predicted with some of them.
#pragma once

#include <cstdint>

#include <absl/status/statusor.h>

#include "engine/around/adapter.h"
#include "engine/around/calibration_fit.h"
#include "engine/around/calibration_metrics.h"
#include "engine/around/safety_projection.h"

namespace omni {

// As an answer has them: adapter, polytope, then the average of the four perspectives at every token, then
// the memory of contexts, one for each document.
struct Parts {
  const ReadyAdapter* adapter = nullptr;  // null: none
  const Projector* polytope = nullptr;    // the same
  bool perspectives = true;               // of on.run.kind
  bool contexts = true;
  bool deltas = true;  // false: every expert is its region's first, which the others are stored as changes of
  bool random_routes = false;  // in the place of the torus
};

struct PartsReport {
  CalibrationReport report;  // of the likeliest token of what is drawn from
  int64_t tokens = 0, bytes = 0;
  double bits_per_byte = 0;
  double seconds = 0;         // wall clock
  int64_t session_bytes = 0;  // of one: its states, and its memory as it was at the end, on average
};

// Everything but the seconds is deterministic. Errors: RunPerspectives'.
absl::StatusOr<PartsReport> MeasureParts(const CalibrationText& on, const Parts& parts);

}  // namespace omni
