// The token step once more, written only to be read: plain loops in double over plain codes. Its quantisation
// is the model's, so its integers are the engine's wherever no value lies within float's rounding of a code's
// edge.
#pragma once

#include <cstdint>
#include <vector>

#include "tests/testing/random_model.h"

namespace omni::testing {

class ReferenceModel {
 public:
  explicit ReferenceModel(const RandomModel& model);

  // The next token of the sequence; logits [V]. routes: one expert per expert layer, in layer order.
  std::vector<double> Step(TokenId token, std::vector<ExpertId>* routes);

 private:
  using Vector = std::vector<double>;
  struct Quantized {
    std::vector<int64_t> q;
    double scale = 0;
  };

  static Quantized Quantize(const Vector& x);
  static Vector Multiply(const PlainLinear& linear, const Quantized& x);
  static Vector Norm(const Vector& x, const std::vector<float>& gain);
  Vector Pdr(int64_t layer, const Vector& x);
  Vector Attention(int64_t layer, const Vector& x);
  Vector SharedFfn(int64_t layer, const Vector& h);
  Vector ExpertFfn(int64_t layer, ExpertId expert, const Vector& h);
  ExpertId RouteOf(int64_t layer, const Vector& h, TokenId token);
  void Rotate(double* head);

  const RandomModel& model_;
  const ModelConfig& c_;
  int64_t position_ = 0;
  std::vector<Vector> state_;                       // per layer: S
  std::vector<Vector> slow_;                        // per layer: u
  std::vector<std::vector<Vector>> keys_, values_;  // per layer and position, all of them
};

}  // namespace omni::testing
