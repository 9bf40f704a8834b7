// Whether a run may go on with these settings, and from what.
#pragma once

#include <string>
#include <vector>

#include <absl/status/statusor.h>
#include <nlohmann/json.hpp>

#include "engine/model/neuron_groups.h"
#include "engine/train/corpus.h"
#include "engine/train/run_state.h"
#include "engine/train/settings.h"

namespace omni::train {

struct Resumed {
  RunState state;
  EarlierCorpus corpus;
  nlohmann::json changes;  // settings that were chosen anew: flag's name to value
  // Neurons that with these settings have parted by now, and have not yet.
  std::vector<NeuronKind> parting;
  bool unknown = false;  // an older version wrote the checkpoint: it does not say what it was started with
};

// Reads RUN/checkpoint, weights and moments apart. Refuses settings under which what is saved would mean
// something else: another model, batch, tokenizer, ... (CompareSettings), and experts that would become one
// again. The text is LoadCorpus's to compare.
absl::StatusOr<Resumed> CheckResume(const TrainSettings& settings);

// TextHash of the tokenizer that the weights of a start.safetensors belong to, as it says itself or by the
// tokenizer.omni beside it; empty if neither says.
absl::StatusOr<std::string> StartTokenizerHash(const std::string& start);

}  // namespace omni::train
