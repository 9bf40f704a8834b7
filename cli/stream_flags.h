// Flags of every verb that opens a model which may be larger than memory.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include <absl/status/statusor.h>

#include "cli/verb.h"
#include "store/model/model.h"

namespace omni::cli {

struct OpenedModel {
  std::string path;
  Model model;
};

class StreamFlags {
 public:
  int64_t ram = 0;  // bytes; 0: not given
  std::string io = "auto", policy = "torus";
  bool prefetch = true;
  Residency residency = Residency::kWhole;  // kStreamed: although all might fit

  void Add(Verb& verb);
  void AddPrefetch(Verb& verb);  // of verbs whose decoder guesses ahead
  // How `path` is to be opened, by the rule of store/model/budget.h. A usage error if it is kept whole and a
  // flag that only streaming heeds is on the command line.
  absl::StatusOr<OpenOptions> Options(const std::string& path) const;
  // The model that --model names (empty: the shipped one), opened so; a terminal is told how it is streamed.
  absl::StatusOr<OpenedModel> Open(const std::string& given) const;
  const GivenFlags& given() const { return all_; }
  // Expert layers ahead that the decoder should guess for a model so opened.
  int PredictAhead(const OpenOptions& open) const;

 private:
  absl::Status RefuseForWholeModel() const;

  GivenFlags all_, for_streamed_models_;
};

// "12.3 GB of 20.0 GB: ..."; empty for a resident model.
std::string DescribeStreaming(const Model& model);

}  // namespace omni::cli
