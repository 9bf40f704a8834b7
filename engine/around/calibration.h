// What makes a confidence of what a model says: maps that were fitted on text which the model was not trained
// on, kept in a file beside the model (docs/formats/calibration.md), and optional.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <absl/status/statusor.h>

#include "engine/around/perspectives.h"
#include "kernels/op.h"

namespace omni {

inline constexpr std::string_view kCalibrationFile = "calibration.json";  // in a model's directory

// A rising function through points, straight between them and level beyond them.
struct MonotoneMap {
  std::vector<float> x, y;  // equally many; x strictly rising, y never falling and in [0, 1]

  float At(float value) const;  // with no points, `value`
  bool operator==(const MonotoneMap&) const = default;
};

// Isotonic regression of whether it was right (0 or 1) on a score: the scores are put into at most `groups`
// groups of equally many, ascending, and neighbours whose means fall are pooled.
MonotoneMap FitIsotonic(std::span<const float> scores, std::span<const uint8_t> right, int64_t groups = 100);

// Of one kind of perspectives: their mixture, sum of weight[k] * softmax(logits_k / temperature), and its
// confidence, map(sigmoid(coefficients . (1, logit of the mixture's largest probability, disagreement, share
// of the four whose likeliest token is the mixture's))).
struct PerspectiveCalibration {
  float temperature = 1;
  float tau = 0.15f;         // nats: where few tokens' perspectives disagree more
  float own_weight = 0.25f;  // of the router's own; the others share the rest equally
  std::array<float, 4> coefficients = {0, 1, 0, 0};
  MonotoneMap map;

  bool operator==(const PerspectiveCalibration&) const = default;
};

struct Calibration {
  std::string model_hash;  // 32 hex digits
  int64_t tokens = 0;      // predicted where it was fitted
  float temperature = 1;
  MonotoneMap map;  // of the largest probability at that temperature
  std::optional<PerspectiveCalibration> near, far;

  const std::optional<PerspectiveCalibration>& Of(PerspectiveKind kind) const {
    return kind == PerspectiveKind::kNear ? near : far;
  }
  bool operator==(const Calibration&) const = default;
};

std::string ToJson(const Calibration& calibration);
// The inverse, checked: every number finite and in its range, maps that rise. `model_hash`: of the model that
// it lies beside; another model's is refused. Errors are to be read after the file's name.
absl::StatusOr<Calibration> CalibrationFromJson(std::string_view text, std::string_view model_hash);

// The one that lies in a model's directory; nothing if none does. Errors name the file.
absl::StatusOr<std::optional<Calibration>> ReadCalibration(const std::string& model_directory,
                                                           std::string_view model_hash);
// Replaces it.
absl::Status WriteCalibration(const std::string& model_directory, const Calibration& calibration);

// The settings' own, or the calibration's of their kind, or PerspectiveCalibration's default.
float TauOf(const PerspectiveSettings& settings, const Calibration* calibration);

// How likely it is that the likeliest token is the one that follows. Thread-safe.
//
// Of the session's own distribution: by the map, or without a calibration its largest probability.
float OwnConfidence(const Calibration* calibration, const kernels::Ops& ops, std::span<const float> logits);

// Of the four together: what their mixture's confidence is made of, and that. Without a calibration, or one
// of the other kind only, it is their average's largest probability times max(0, 1 - disagreement / tau).
// pool: who helps; null: nobody.
struct Mixture {
  std::vector<float> p;  // [V]
  TokenId likeliest;
  std::array<float, 4> features = {};  // what the coefficients are of
  float score = 0;                     // before the map
  float confidence = 0;                // after it
};
Mixture MixPerspectives(const PerspectiveCalibration& calibration, const kernels::Ops& ops,
                        std::span<const std::span<const float>> logits, float disagreement,
                        WorkerPool* pool = nullptr);
float PerspectiveConfidence(const Calibration* calibration, PerspectiveKind kind, const kernels::Ops& ops,
                            std::span<const std::span<const float>> logits, float disagreement, float tau,
                            WorkerPool* pool = nullptr);

}  // namespace omni
