// A sampler's settings as the inference service takes them, and back.
#pragma once

#include "engine/text/sampler.h"
#include "omni/inference/v1/inference.pb.h"

namespace omni {

inline void TellSampler(const SamplerSettings& from, inference::v1::Sampler& sampler) {
  sampler.set_temperature(from.temperature);
  sampler.set_top_k(from.top_k);
  sampler.set_top_p(from.top_p);
  sampler.set_min_p(from.min_p);
  sampler.set_repetition_penalty(from.repetition_penalty);
  sampler.set_repetition_window(from.repetition_window);
  sampler.set_seed(from.seed);
}

inline SamplerSettings SamplerOf(const inference::v1::Sampler& sampler) {
  SamplerSettings settings;
  settings.temperature = sampler.temperature();
  settings.top_k = sampler.top_k();
  settings.top_p = sampler.top_p();
  settings.min_p = sampler.min_p();
  settings.repetition_penalty = sampler.repetition_penalty();
  settings.repetition_window = sampler.repetition_window();
  settings.seed = sampler.seed();
  return settings;
}

}  // namespace omni
