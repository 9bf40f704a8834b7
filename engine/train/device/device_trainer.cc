#include "engine/train/device/device_trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <new>
#include <numeric>
#include <optional>
#include <utility>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <nlohmann/json.hpp>

#include "engine/train/balance.h"
#include "engine/train/corpus.h"
#include "engine/train/data.h"
#include "engine/train/deal.h"
#include "engine/train/device/device_checkpoint.h"
#include "engine/train/plot.h"
#include "engine/train/progress.h"
#include "engine/train/resume.h"
#include "engine/train/run_directory.h"
#include "engine/train/run_log.h"
#include "engine/train/run_state.h"
#include "engine/train/schedule.h"

namespace omni::train {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;
using Json = nlohmann::json;

constexpr int64_t kReportEvery = 20;         // steps
constexpr int64_t kValidationSequences = 8;  // at most, as ShapeOfValidation has them

double Seconds(Clock::duration time) { return std::chrono::duration<double>(time).count(); }

class DeviceRun {
 public:
  DeviceRun(const TrainSettings& settings, Corpus corpus, RunLog log, const StepMaker& make)
      : s_(settings),
        corpus_(std::move(corpus)),
        log_(std::move(log)),
        model_{s_.config, MakeLayout(s_.config, s_.init), {}, s_.batch, s_.memory},
        step_(make(s_.config, model_.layout, std::max(s_.batch, kValidationSequences), s_.tokens, s_.memory)),
        streams_(std::move(corpus_.train), s_.batch, s_.stride),
        carried_(step_->NewState(s_.batch)),
        used_(static_cast<size_t>(s_.config.num_experts()), 0) {
    if (!by_address()) std::iota(balanced_of_.begin(), balanced_of_.end(), 0);
    const int64_t balanced = by_address() ? s_.config.num_regions() : s_.config.num_experts();
    for (const LayerLayout& layer : model_.layout.layers) {
      if (layer.attention) continue;
      ExpertTables& t = model_.tables.emplace_back();
      if (!s_.config.route_bias) continue;
      t.bias.assign(static_cast<size_t>(s_.config.num_experts()), 0.0f);
      t.loads.assign(static_cast<size_t>(balanced), 1.0f / static_cast<float>(balanced));
    }
  }

  absl::Status Begin() {
    for (size_t p = 0; p < model_.layout.params.size(); ++p) {
      const std::vector<float> w =
          FirstWeights(s_.config, s_.init, model_.layout.params[p], s_.init.seed * 1000003 + p);
      step_->SetParam(p, w.data(), nullptr, nullptr);
    }
    DealMembers();
    streams_.Skip(s_.skip_steps, s_.tokens);
    SayWhatItTrainsOn();
    if (absl::Status st = log_.Cut(0); !st.ok()) return st;
    return log_.Append({{"command", s_.command},
                        {"config", Json::parse(ToJson(s_.config))},
                        {"data_xxh3", corpus_.data_hash},
                        {"seed", s_.init.seed},
                        {"train_tokens", streams_.size()},
                        {"device", step_->Description()}});
  }

  absl::Status GoOn(const Resumed& resumed) {
    for (ExpertTables& t : model_.tables) {
      if (by_address()) t.members.assign(static_cast<size_t>(s_.config.vocab), 0);
    }
    if (absl::Status st = LoadDeviceCheckpoint(s_.out, model_, *step_, carried_, streams_); !st.ok())
      return st;
    state_ = resumed.state;
    SayWhatItTrainsOn();
    if (absl::Status st = log_.Cut(state_.step); !st.ok()) return st;
    return log_.Append({{"resumed_at", state_.step},
                        {"command", s_.command},
                        {"changes", resumed.changes},
                        {"device", step_->Description()}});
  }

  absl::Status Train(const std::function<bool()>& stop) {
    state_.record = {corpus_.data_hash, TextHash(corpus_.tokenizer.Serialize()), RecordedSettings(s_)};
    for (size_t l = 0; l < model_.tables.size(); ++l) {
      if (by_address()) step_->SetMembers(l, model_.tables[l].members);
      if (s_.config.route_bias) step_->SetBias(l, model_.tables[l].bias);
    }
    step_->Quantize();
    first_step_ = reported_ = state_.step;
    const double before = state_.seconds;
    const Clock::time_point started = Clock::now();
    const int64_t last = s_.stop_at > 0 ? std::min(s_.stop_at, s_.steps) : s_.steps;
    while (state_.step < last) {
      Step();
      const bool evaluate = s_.eval_every > 0 && !corpus_.valid.empty() &&
                            (state_.step % s_.eval_every == 0 || state_.step == last);
      if (state_.step % kReportEvery == 0 || state_.step == last || evaluate) {
        const double loss =
            step_->TakeLoss() / static_cast<double>((state_.step - reported_) * s_.batch * s_.tokens);
        const double busy = Seconds(Clock::now() - started) - evaluating_;
        state_.seconds = before + busy;
        if (absl::Status st = Report(loss, busy, evaluate, last); !st.ok()) return st;
      }
      const bool ends = state_.step == last || (stop && stop());
      if (ends || (s_.save_every > 0 && state_.step % s_.save_every == 0)) {
        absl::Status st =
            SaveDeviceCheckpoint(s_.out, model_, *step_, carried_, corpus_.tokenizer, streams_, state_);
        if (!st.ok()) return st;
      }
      if (ends && state_.step < last) {
        return absl::CancelledError(absl::StrCat("interrupted; saved after step ", state_.step, " of ",
                                                 s_.steps, ", to go on with --resume"));
      }
    }
    return absl::OkStatus();
  }

 private:
  bool by_address() const { return s_.config.route_from == RouteFrom::kAddress; }

  void DealMembers() {
    if (!by_address()) return;
    const auto members_of = MemberDealer(s_, streams_.tokens());
    size_t index = 0;
    for (size_t l = 0; l < model_.layout.layers.size(); ++l) {
      if (!model_.layout.layers[l].attention) model_.tables[index++].members = members_of(l);
    }
  }

  void SayWhatItTrainsOn() {
    progress_.Say(absl::StrFormat("corpus: %d tokens, %.3f bytes each; validation: %d tokens; on %s",
                                  streams_.size(), corpus_.train_bytes_per_token, corpus_.valid.size(),
                                  step_->Description()));
  }

  void Step() {
    const int64_t step = state_.step, n = s_.batch * s_.tokens;
    std::vector<int32_t> inputs(static_cast<size_t>(n)), targets(inputs.size());
    streams_.Next(s_.tokens, inputs.data(), targets.data());
    if (s_.reset_every > 0) {
      for (int64_t b = 0; b < s_.batch; ++b) {
        if ((step + b * s_.reset_every / s_.batch) % s_.reset_every == 0) step_->ResetRow(carried_, b);
      }
    }
    const ExpertsTaken taken =
        step_->ForwardBackward(inputs, targets, carried_, static_cast<float>(s_.smoothness));
    lr_ = LearningRate(step, {s_.steps, s_.warmup, s_.lr, s_.lr_end, s_.cooldown});
    step_->Update(step, UpdateSettings(s_, lr_));
    for (size_t l = 0; l < taken.size(); ++l) {
      for (int32_t e : taken[l]) ++used_[static_cast<size_t>(e)];
      if (s_.config.route_bias) Balance(l, taken[l]);
    }
    ++state_.step;
  }

  void Balance(size_t l, const std::vector<int32_t>& taken) {
    ExpertTables& t = model_.tables[l];
    BalanceExperts(
        taken, balanced_of_,
        {.rate = s_.balance_rate, .tokens = static_cast<double>(s_.balance_tokens), .soft = s_.balance_soft},
        t.loads, t.bias);
    step_->SetBias(l, t.bias);
  }

  absl::Status Report(double loss, double busy, bool evaluate, int64_t last) {
    const int64_t n = s_.batch * s_.tokens;
    const double rate = static_cast<double>((state_.step - first_step_) * n) / busy;
    const double norm = step_->GradientNorm();
    if (!std::isfinite(loss) || !std::isfinite(norm)) {
      return absl::InternalError(
          absl::StrCat("step ", state_.step, ": the loss is no longer finite; lower --lr or ",
                       "raise --warmup, then go on from the last checkpoint with --resume"));
    }
    const auto used = std::count_if(used_.begin(), used_.end(), [](int64_t c) { return c > 0; });
    progress_.Show(absl::StrFormat("step %d/%d  loss %.4f  %.0f tok/s  %.0f s left  experts %d/%d",
                                   state_.step, s_.steps, loss, rate,
                                   static_cast<double>((last - state_.step) * n) / rate, used, used_.size()));
    Json line = {{"step", state_.step},       {"loss", loss},        {"lr", lr_},
                 {"grad_norm", norm},         {"tok_per_s", rate},   {"seconds", state_.seconds},
                 {"tokens", state_.step * n}, {"experts_used", used}};
    reported_ = state_.step;
    std::fill(used_.begin(), used_.end(), 0);
    if (evaluate) Validate(&line);
    if (absl::Status st = log_.Append(std::move(line)); !st.ok()) return st;
    if (!s_.plot || (!evaluate && state_.step != last)) return absl::OkStatus();
    const fs::path run(s_.out);
    return PlotLog((run / "log.jsonl").string(), (run / "plot.svg").string());
  }

  // As engine/train/validation.h.
  void Validate(Json* line) {
    const Clock::time_point before = Clock::now();
    const ValidationShape shape = ShapeOfValidation(static_cast<int64_t>(corpus_.valid.size()), s_);
    Streams streams({corpus_.valid.begin(), corpus_.valid.begin() + shape.tokens}, shape.batch);
    if (!validation_) validation_ = step_->NewState(shape.batch);
    step_->SetState(*validation_, Blank(shape.batch));
    int64_t tokens = 0, same_expert = 0, same_region = 0;
    std::vector<int32_t> inputs(static_cast<size_t>(shape.batch * s_.tokens)), targets(inputs.size());
    for (int64_t i = 0; i < shape.segments; ++i) {
      streams.Next(s_.tokens, inputs.data(), targets.data());
      for (const std::vector<int32_t>& taken : step_->Forward(inputs, targets, *validation_)) {
        for (size_t t = 1; t < taken.size(); ++t) {
          if (static_cast<int64_t>(t) % s_.tokens == 0) continue;
          const auto now = static_cast<size_t>(taken[t]), then = static_cast<size_t>(taken[t - 1]);
          ++tokens;
          same_expert += now == then;
          same_region += model_.layout.region_of[now] == model_.layout.region_of[then];
        }
      }
    }
    const double nats =
        step_->TakeLoss() / static_cast<double>(shape.segments * static_cast<int64_t>(inputs.size()));
    const double bits = nats / std::log(2.0) / corpus_.valid_bytes_per_token;
    (*line)["valid_nats_per_token"] = nats;
    (*line)["valid_bits_per_byte"] = bits;
    (*line)["same_expert"] =
        static_cast<double>(same_expert) / static_cast<double>(std::max<int64_t>(1, tokens));
    (*line)["same_region"] =
        static_cast<double>(same_region) / static_cast<double>(std::max<int64_t>(1, tokens));
    evaluating_ += Seconds(Clock::now() - before);
    progress_.Say(absl::StrFormat("valid %.4f nats/token, %.4f bits/byte", nats, bits));
  }

  CarriedState Blank(int64_t batch) const {
    const ModelConfig& c = s_.config;
    CarriedState blank;
    const auto zeros = [](int64_t n) { return std::vector<float>(static_cast<size_t>(n), 0.0f); };
    for (const LayerLayout& layer : model_.layout.layers) {
      if (layer.attention) {
        blank.keys.push_back(zeros(batch * c.kv_heads * s_.memory * c.head_dim()));
        blank.values.push_back(blank.keys.back());
      } else {
        blank.pdr.push_back(zeros(batch * c.r * c.d));
        if (c.has_slow_state()) blank.slow.push_back(zeros(batch * c.d));
      }
    }
    blank.valid.assign(static_cast<size_t>(batch), 0);
    return blank;
  }

  const TrainSettings& s_;
  Corpus corpus_;
  RunLog log_;
  Progress progress_;
  DeviceModel model_;
  std::unique_ptr<DeviceStep> step_;
  Streams streams_;  // has taken corpus_.train
  size_t carried_;
  std::optional<size_t> validation_;
  RunState state_;
  double lr_ = 0;
  std::vector<int32_t> balanced_of_ = model_.layout.region_of;  // of an expert: its region, or itself
  std::vector<int64_t> used_;                                   // tokens per expert since the last report
  int64_t reported_ = 0, first_step_ = 0;
  double evaluating_ = 0;  // seconds
};

absl::Status RunOrThrow(const TrainSettings& s, const StepMaker& make, const std::function<bool()>& stop) {
  if (absl::Status st = CheckSettings(s); !st.ok()) return st;
  if (absl::Status st = DeviceTrainable(s); !st.ok()) return st;
  if (absl::Status st = PrepareRunDirectory(s.out, s.resume); !st.ok()) return st;
  absl::StatusOr<RunLog> log = RunLog::Open((fs::path(s.out) / "log.jsonl").string());
  if (!log.ok()) return log.status();
  std::optional<Resumed> resumed;
  std::optional<EarlierCorpus> earlier;
  if (s.resume) {
    absl::StatusOr<Resumed> checked = CheckResume(s);
    if (!checked.ok()) return checked.status();
    resumed = std::move(*checked);
    earlier = resumed->corpus;
  }
  absl::StatusOr<Corpus> corpus = LoadCorpus(s, earlier);
  if (!corpus.ok()) return corpus.status();
  DeviceRun run(s, std::move(*corpus), std::move(*log), make);
  if (absl::Status st = resumed ? run.GoOn(*resumed) : run.Begin(); !st.ok()) return st;
  return run.Train(stop);
}

}  // namespace

absl::Status DeviceTrainable(const TrainSettings& s) {
  const struct {
    bool asked;
    const char* flag;
  } unknown[] = {
      {s.dropout > 0, "--dropout"},
      {s.balance > 0, "--balance (give 0)"},
      {s.untaken, "--untaken"},
      {s.use_power > 0, "--use-power"},
      {s.own_pull > 0, "--own-pull"},
      {!s.teacher.empty(), "--teacher"},
      {!s.start.empty(), "--start"},
      {!s.write_logits.empty(), "--write-logits"},
      {s.expert_every > 1, "--expert-every (give 1)"},
  };
  for (const auto& u : unknown) {
    if (u.asked)
      return absl::InvalidArgumentError(
          absl::StrCat(u.flag, ": a run on a device does not know it; leave it out"));
  }
  for (const NeuronGroup& group : NeuronGroups(s.config)) {
    if (group.copies > 1 && PartStep(s, group.kind) > 0)
      return absl::InvalidArgumentError(
          "--shared-steps, --part-region, --part-member, --part-own: on a device experts "
          "differ from the start; give 0");
  }
  if (s.config.d % 32 != 0) return absl::InvalidArgumentError("--width: on a device a multiple of 32");
  if (s.config.r != 8 && s.config.r != 16 && s.config.r != 32)
    return absl::InvalidArgumentError("--rank: on a device 8, 16 or 32");
  return absl::OkStatus();
}

absl::Status TrainOnDevice(const TrainSettings& settings, const StepMaker& make,
                           const std::function<bool()>& stop) {
  try {
    return RunOrThrow(settings, make, stop);
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("not enough memory; give a smaller --batch, --seq or model");
  } catch (const std::exception& e) {
    return absl::InternalError(absl::StrCat("device: ", e.what()));
  }
}

}  // namespace omni::train
