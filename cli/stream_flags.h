// Flags of every verb that opens a model which may be larger than memory.
#pragma once

#include <cstdint>
#include <string>

#include <absl/status/statusor.h>

#include "cli/verb.h"
#include "store/model/model.h"

namespace omni::cli {

struct StreamFlags {
  int64_t ram = 0;  // bytes; 0: decided by what is free
  std::string io = "auto", policy = "torus";
  bool prefetch = true;
  bool always = false;  // streamed although all might fit

  void Add(Verb& verb);
  // How `path` is to be opened: all in memory if it fits, else streamed. Usage errors name the flag.
  absl::StatusOr<OpenOptions> Options(const std::string& path) const;
  // Expert layers ahead that the decoder should guess for a model so opened.
  int PredictAhead(const OpenOptions& open) const;
};

// "12.3 GB of 20.0 GB: ..."; empty for a resident model.
std::string DescribeStreaming(const Model& model);

}  // namespace omni::cli
