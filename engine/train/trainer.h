// The training run: settings, optimiser schedule, validation, checkpoints with bit-exact resume, the live
// line and the log.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <absl/status/status.h>

#include "engine/model/config.h"
#include "engine/train/model.h"
#include "engine/train/optimizer.h"

namespace omni::train {

struct TrainSettings {
  ModelConfig config;
  InitSettings init;
  std::vector<std::string> data;
  std::vector<std::string> valid;  // separate validation files; else holdout applies
  double holdout = 0;              // last share of the corpus, never trained on
  double tune = 0;                 // last share of the training part, kept back for running validation
  std::string out;                 // run directory: checkpoint/, log.jsonl, plot.svg
  bool resume = false;
  std::string start;                   // a start.safetensors to begin with instead of random weights
  int64_t skip_steps = 0;              // steps' worth of text that an earlier run has seen, passed over
  std::string tokenizer;               // an existing tokenizer file; else one is learnt
  int64_t tokenizer_bytes = 40 << 20;  // text it is learnt from
  int64_t steps = 1000, batch = 32, tokens = 256, memory = 256;
  double lr = 3e-3, lr_end = 0.05, embed_lr = 1.0, weight_decay = 0.1, beta1 = 0.9, beta2 = 0.95, clip = 1.0;
  MatrixRule matrices = MatrixRule::kMuon;
  double momentum = 0.95;
  int64_t warmup = 100;
  double cooldown = 0;  // 0: cosine; else constant, then linear over this last share of the steps
  double dropout = 0, balance = 0.01, smoothness = 0;
  int64_t shared_steps = 0;  // first steps, in which all experts are one
  int64_t expert_every =
      1;  // steps whose gradients make one update of a parted expert, which sees few tokens in each
  int64_t reset_every = 0;  // segments after which a row starts over with zero state (0: never)
  int64_t eval_every = 0, eval_tokens = 1 << 17, save_every = 0;
  int64_t stop_at = 0;  // ends (saved) after this step; the schedule still spans `steps`
  bool plot = false;    // draws RUN/plot.svg at every validation and at the end
  int threads = 0;
  std::string command;  // for the record
};

absl::Status Train(const TrainSettings& settings);

}  // namespace omni::train
