// What a training run is asked to do.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <nlohmann/json.hpp>

#include "engine/model/config.h"
#include "engine/model/neuron_groups.h"
#include "engine/train/data.h"
#include "engine/train/init_settings.h"
#include "engine/train/matrix_rule.h"
#include "engine/train/members.h"
#include "engine/train/optimizer_settings.h"

namespace omni::train {

std::string RouteFromName(RouteFrom kind);  // as the flag takes it: token, ahead, address

struct TrainSettings {
  std::string preset = "books";
  ModelConfig config;
  InitSettings init;
  std::vector<std::string> data;
  std::vector<std::string> valid;  // separate validation files; else tune applies
  double holdout = 0;              // last share of the corpus, never trained on
  double tune = 0;                 // last share of the training part, kept back for running validation
  std::string out;                 // run directory: checkpoint/, log.jsonl, plot.svg
  bool resume = false;
  std::string start;       // a start.safetensors to begin with instead of random weights
  int64_t skip_steps = 0;  // steps' worth of text that an earlier run has seen, passed over
  // Instead of training on: the checkpoint's likeliest tokens of segments of the text (distill.h).
  std::string write_logits;
  int64_t logits_from = 0, logits_steps = 0;
  std::string teacher;                 // such a file to learn from
  double teacher_share = 0.5;          // of the loss, where the file has something of the segment
  std::string tokenizer;               // an existing tokenizer file; else one is learnt
  int64_t tokenizer_bytes = 40 << 20;  // text it is learnt from
  int64_t steps = 1000, batch = 32, tokens = 256, memory = 256;
  Stride stride = Stride::kPlain;
  double lr = 3e-3, lr_end = 0.05, weight_decay = 0.1, beta1 = 0.9, beta2 = 0.95, clip = 1.0;
  double router_lr = 1.0;    // share of the rate that routers learn with
  double router_clip = 0.0;  // limit of the norm of the routers' gradients, 0: off
  MatrixRule matrices = MatrixRule::kMuon;
  double momentum = 0.95;
  int64_t warmup = 100;
  double cooldown = 0;  // 0: cosine; else constant, then linear over this last share of the steps
  double dropout = 0, balance = 0.01, smoothness = 0;
  double balance_rate = 1e-3;       // of the biases, a step, where the config's route_bias is on
  int64_t balance_tokens = 100000;  // of the moving mean of the loads that they follow
  double balance_soft = 0;          // share of the mean load within which they move less; 0: off
  bool untaken = false;             // routers learn from the usual output of what they did not choose, too
  int64_t shared_steps = 0;         // first steps, in which all experts are one
  // Steps after which neurons of a kind part by themselves; kWithShared: after shared_steps.
  static constexpr int64_t kWithShared = -1;
  int64_t part_region = kWithShared, part_member = kWithShared, part_own = kWithShared;
  // Steps whose gradients make one update of neurons of which there are several copies: each sees few tokens.
  int64_t expert_every = 1;
  MemberRule members = MemberRule::kFrequency;  // how tokens are dealt to them, where route_from is address
  double use_power = 0;     // of a copy's share of the tokens, that its rate is multiplied by; 0: off
  double own_pull = 0;      // of own neurons to the mean of their region's, as weight decay is to zero
  double part_noise = 0;    // of neurons that part, by the root mean square of their rows
  int64_t reset_every = 0;  // segments after which a row starts over with zero state (0: never)
  int64_t eval_every = 0, eval_tokens = 1 << 17, save_every = 0;
  int64_t stop_at = 0;  // ends (saved) after this step; the schedule still spans `steps`
  bool plot = false;    // draws RUN/plot.svg at every validation and at the end
  int64_t threads = 0;  // 0: one per core that this process may use

  std::string command;           // for the record
  std::set<std::string> chosen;  // the flags that somebody gave; the rest are defaults
};

// What a resumed run does with a setting that is not as it was when the run was started.
enum class OnResume {
  kSame,    // refuses: what was saved means nothing with another value
  kChosen,  // goes on with it if it was given, and refuses if it is a default
  kAny,     // goes on: it says where things lie, or how they are shown
};

// Calls fn(flag's name without dashes, field, OnResume) for every setting that has a flag.
template <typename Settings, typename Fn>
void VisitSettings(Settings& s, Fn&& fn) {
  fn("preset", s.preset, OnResume::kAny);
  fn("data", s.data, OnResume::kAny);  // its hash is compared
  fn("valid", s.valid, OnResume::kAny);
  fn("holdout", s.holdout, OnResume::kSame);
  fn("tune", s.tune, OnResume::kSame);
  fn("out", s.out, OnResume::kAny);
  fn("resume", s.resume, OnResume::kAny);
  fn("start", s.start, OnResume::kAny);
  fn("skip-steps", s.skip_steps, OnResume::kAny);
  fn("write-logits", s.write_logits, OnResume::kAny);
  fn("logits-from", s.logits_from, OnResume::kAny);
  fn("logits-steps", s.logits_steps, OnResume::kAny);
  fn("teacher", s.teacher, OnResume::kChosen);
  fn("teacher-share", s.teacher_share, OnResume::kChosen);
  fn("tokenizer", s.tokenizer, OnResume::kAny);  // its hash is compared
  fn("steps", s.steps, OnResume::kChosen);
  fn("stop-at", s.stop_at, OnResume::kAny);
  fn("batch", s.batch, OnResume::kSame);
  fn("seq", s.tokens, OnResume::kSame);
  fn("memory", s.memory, OnResume::kSame);
  fn("stride", s.stride, OnResume::kChosen);
  fn("lr", s.lr, OnResume::kChosen);
  fn("lr-end", s.lr_end, OnResume::kChosen);
  fn("warmup", s.warmup, OnResume::kChosen);
  fn("weight-decay", s.weight_decay, OnResume::kChosen);
  fn("matrices", s.matrices, OnResume::kSame);
  fn("momentum", s.momentum, OnResume::kChosen);
  fn("beta2", s.beta2, OnResume::kChosen);
  fn("clip", s.clip, OnResume::kChosen);
  fn("router-lr", s.router_lr, OnResume::kChosen);
  fn("router-clip", s.router_clip, OnResume::kChosen);
  fn("dropout", s.dropout, OnResume::kChosen);
  fn("balance", s.balance, OnResume::kChosen);
  fn("smoothness", s.smoothness, OnResume::kChosen);
  fn("balance-rate", s.balance_rate, OnResume::kChosen);
  fn("balance-tokens", s.balance_tokens, OnResume::kChosen);
  fn("balance-soft", s.balance_soft, OnResume::kChosen);
  fn("untaken", s.untaken, OnResume::kSame);
  fn("shared-steps", s.shared_steps, OnResume::kChosen);
  fn("part-region", s.part_region, OnResume::kChosen);
  fn("part-member", s.part_member, OnResume::kChosen);
  fn("part-own", s.part_own, OnResume::kChosen);
  fn("expert-every", s.expert_every, OnResume::kChosen);
  fn("members", s.members, OnResume::kSame);
  fn("use-power", s.use_power, OnResume::kChosen);
  fn("own-pull", s.own_pull, OnResume::kChosen);
  fn("part-noise", s.part_noise, OnResume::kChosen);
  fn("cooldown", s.cooldown, OnResume::kChosen);
  fn("reset-every", s.reset_every, OnResume::kChosen);
  fn("gamma-min", s.init.gamma_min, OnResume::kSame);
  fn("gamma-max", s.init.gamma_max, OnResume::kSame);
  fn("route-std", s.init.route_std, OnResume::kSame);
  fn("eval-every", s.eval_every, OnResume::kAny);
  fn("eval-tokens", s.eval_tokens, OnResume::kAny);
  fn("save-every", s.save_every, OnResume::kAny);
  fn("plot", s.plot, OnResume::kAny);
  fn("seed", s.init.seed, OnResume::kSame);
  fn("threads", s.threads, OnResume::kAny);
  fn("layers", s.config.layers, OnResume::kSame);
  fn("width", s.config.d, OnResume::kSame);
  fn("rank", s.config.r, OnResume::kSame);
  fn("ffn", s.config.f, OnResume::kSame);
  fn("heads", s.config.heads, OnResume::kSame);
  fn("kv-heads", s.config.kv_heads, OnResume::kSame);
  fn("window", s.config.window, OnResume::kSame);
  fn("vocab", s.config.vocab, OnResume::kSame);
  fn("base", s.config.base_neurons, OnResume::kSame);
  fn("member", s.config.member_neurons, OnResume::kSame);
  fn("own", s.config.own_neurons, OnResume::kSame);
  fn("lattice", s.config.lattice, OnResume::kSame);
  fn("region", s.config.region, OnResume::kSame);
  fn("route-from", s.config.route_from, OnResume::kSame);
  fn("slow-rate", s.config.slow_rate, OnResume::kSame);
  fn("route-bias", s.config.route_bias, OnResume::kSame);
}

// The settings that a preset begins with: char, books, or one of the model presets of engine/model/config.h.
absl::StatusOr<TrainSettings> PresetSettings(const std::string& preset);

// Settings nobody chose that depend on those that somebody did: where the model is not of format 1, how its
// routers learn and are balanced.
void FollowRoutes(TrainSettings* settings);

// The step at which the copies of the neurons of a kind part: the first that is computed with different ones.
// Base neurons never do.
int64_t PartStep(const TrainSettings& settings, NeuronKind kind);
// The first at which any neurons of which the model has several copies do.
int64_t FirstPartStep(const TrainSettings& settings);

// What an update at this rate is made with.
OptimizerSettings UpdateSettings(const TrainSettings& settings, double lr);

// OK, or InvalidArgument naming the flag: settings that contradict each other, or a model that there cannot
// be. Looks at no file.
absl::Status CheckSettings(const TrainSettings& settings);

// Every setting by its flag's name.
nlohmann::json SettingsJson(const TrainSettings& settings);
// Those that a resumed run is compared by.
nlohmann::json RecordedSettings(const TrainSettings& settings);

// Whether a run that was started with `recorded` may go on with these settings. InvalidArgument
// names every flag that is in the way, with both values. Settings that are not recorded are not compared.
// `changes` receives those that were chosen anew: flag's name to new value.
absl::Status CompareSettings(const nlohmann::json& recorded, const TrainSettings& settings,
                             nlohmann::json* changes);

}  // namespace omni::train
