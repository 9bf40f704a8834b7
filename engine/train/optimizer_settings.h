// What an update is made with.
#pragma once

#include "engine/train/matrix_rule.h"

namespace omni::train {

constexpr float kRouterTemperature = 0.02f;  // of the softmax over squared distances that routers learn by

struct OptimizerSettings {
  float lr = 0, router_lr = 1;  // a router's rate is lr * router_lr
  float router_clip = 0;        // limit of the routers' norm; 0: none
  float beta1 = 0.9f, beta2 = 0.95f, eps = 1e-8f, weight_decay = 0.1f, clip = 1.0f;
  MatrixRule matrices = MatrixRule::kAdamW;
  float momentum = 0.95f;  // Muon's
};

}  // namespace omni::train
