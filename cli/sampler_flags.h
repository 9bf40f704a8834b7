// Flags of every verb that lets a model write: how its tokens are drawn.
#pragma once

#include <cstdint>
#include <functional>

#include <absl/status/status.h>

#include "cli/verb.h"
#include "engine/text/sampler.h"

namespace omni::cli {

class SamplerFlags {
 public:
  void Add(Verb& verb);
  // A usage error for a flag that would do nothing.
  absl::Status Check() const;
  SamplerSettings Settings() const;  // with a seed that is drawn where none was given
  const GivenFlags& given() const { return all_; }
  // Those that OpenAI's interface has no word for.
  const GivenFlags& unknown_to_servers() const { return unknown_to_servers_; }

 private:
  SamplerSettings sampler_;
  int64_t top_k_ = SamplerSettings().top_k, repeat_last_n_ = SamplerSettings().repetition_window, seed_ = -1;
  std::function<bool()> repeat_last_n_typed_;
  GivenFlags all_, unknown_to_servers_;
};

}  // namespace omni::cli
