#include "engine/train/trainer.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <limits>
#include <new>
#include <optional>
#include <utility>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <nlohmann/json.hpp>

#include "engine/base/threads.h"
#include "engine/model/checkpoint.h"
#include "engine/train/checkpoint_io.h"
#include "engine/train/corpus.h"
#include "engine/train/data.h"
#include "engine/train/deal.h"
#include "engine/train/distill.h"
#include "engine/train/model.h"
#include "engine/train/optimizer.h"
#include "engine/train/plot.h"
#include "engine/train/progress.h"
#include "engine/train/resume.h"
#include "engine/train/run_directory.h"
#include "engine/train/run_log.h"
#include "engine/train/run_state.h"
#include "engine/train/schedule.h"
#include "engine/train/validation.h"

namespace omni::train {
namespace {

namespace fs = std::filesystem;
using torch::Tensor;
using Clock = std::chrono::steady_clock;
using Part = TrainModel::Part;
using Json = nlohmann::json;

constexpr int64_t kReportEvery = 20;  // steps
constexpr int64_t kSampleRows = 4;
constexpr double kNotMeasured = std::numeric_limits<double>::quiet_NaN();  // left out of the log

double Gini(std::vector<int64_t> counts) {
  std::sort(counts.begin(), counts.end());
  double weighted = 0, total = 0;
  for (size_t i = 0; i < counts.size(); ++i) {
    weighted += static_cast<double>(i + 1) * static_cast<double>(counts[i]);
    total += static_cast<double>(counts[i]);
  }
  const auto n = static_cast<double>(counts.size());
  return total > 0 ? 2 * weighted / (n * total) - (n + 1) / n : 0;
}

double Seconds(Clock::duration time) { return std::chrono::duration<double>(time).count(); }

absl::Status NotFinite(int64_t step, std::string_view which) {
  return absl::InternalError(absl::StrCat("step ", step, ": the ",
                                          absl::string_view(which.data(), which.size()),
                                          " is no longer finite; lower --lr or raise --warmup, ",
                                          "then go on from the last checkpoint with --resume"));
}

// A run that was found possible, with everything it needs in memory.
class Run {
 public:
  Run(const TrainSettings& settings, Corpus corpus, RunLog log)
      : s_(settings),
        corpus_(std::move(corpus)),
        log_(std::move(log)),
        model_(s_.config, s_.init),
        train_tokens_(corpus_.train.size()),
        sample_(RouteSample(corpus_.train, kSampleRows, s_)),
        streams_(std::move(corpus_.train), s_.batch, s_.stride),
        carry_(Carry::Make(s_.config, s_.batch, s_.memory)),
        counts_(static_cast<size_t>(s_.config.num_experts()), 0) {
    if (s_.untaken) model_.KeepMeanOutputs();
  }

  absl::Status Begin() {
    if (s_.config.route_from == RouteFrom::kAddress) model_.DealMembers(MemberDealer(s_, streams_.tokens()));
    streams_.Skip(s_.skip_steps, s_.tokens);
    if (!s_.start.empty()) {
      if (absl::Status st = LoadStart(); !st.ok()) return st;
    }
    SayWhatItTrainsOn();
    if (absl::Status st = log_.Cut(0); !st.ok()) return st;
    return log_.Append({{"command", s_.command},
                        {"config", Json::parse(ToJson(s_.config))},
                        {"data_xxh3", corpus_.data_hash},
                        {"seed", s_.init.seed},
                        {"train_tokens", train_tokens_},
                        {"threads", at::get_num_threads()}});
  }

  absl::Status GoOn(const Resumed& resumed) {
    if (absl::Status st = LoadCheckpoint(s_.out, model_, streams_, carry_); !st.ok()) return st;
    state_ = resumed.state;
    if (resumed.unknown) {
      progress_.Say(
          "note: the checkpoint does not say which text and settings the run was started with: not compared");
    }
    for (const auto& [flag, value] : resumed.changes.items()) {
      progress_.Say(absl::StrCat("note: --", flag, " is ", value.dump(), " from here on"));
    }
    for (NeuronKind kind : resumed.parting) PartGroup(kind);
    SayWhatItTrainsOn();
    if (absl::Status st = log_.Cut(state_.step); !st.ok()) return st;
    return log_.Append({{"resumed_at", state_.step}, {"command", s_.command}, {"changes", resumed.changes}});
  }

  absl::Status WriteLogits(const std::function<bool()>& stop) {
    BeReady();
    Streams streams(streams_.tokens(), s_.batch, s_.stride);
    progress_.Say(
        absl::StrFormat("the likeliest tokens of %d segments from %d on", s_.logits_steps, s_.logits_from));
    return WriteTeacher(s_.write_logits, model_, streams, s_.memory, Read(), s_.logits_from, s_.logits_steps,
                        stop);
  }

  absl::Status Train(const std::function<bool()>& stop) {
    state_.record = {corpus_.data_hash, TextHash(corpus_.tokenizer.Serialize()), RecordedSettings(s_)};
    if (!s_.teacher.empty()) {
      absl::StatusOr<Teacher> teacher = Teacher::Open(s_.teacher, Read());
      if (!teacher.ok())
        return absl::Status(teacher.status().code(), absl::StrCat("--teacher: ", teacher.status().message()));
      teacher_ = *std::move(teacher);
    }
    BeReady();
    first_step_ = state_.step;
    seconds_before_ = state_.seconds;
    started_ = Clock::now();
    const int64_t last = LastStep();
    bool stopping = false;
    while (state_.step < last) {
      if (absl::Status st = Step(); !st.ok()) return st;
      const double busy = Seconds(Clock::now() - started_) - evaluating_;
      state_.seconds = seconds_before_ + busy;
      const bool evaluate = s_.eval_every > 0 && !corpus_.valid.empty() &&
                            (state_.step % s_.eval_every == 0 || state_.step == last);
      if (state_.step % kReportEvery == 0 || state_.step == last || evaluate) {
        if (absl::Status st = Report(busy, evaluate); !st.ok()) return st;
      }
      stopping = stopping || (stop && stop());
      const bool ends = state_.step == last || (stopping && CanBeSaved(state_.step));
      if (ends || (s_.save_every > 0 && state_.step % s_.save_every == 0)) {
        state_.shared_start = state_.step <= first_part_;
        if (absl::Status st = SaveCheckpoint(s_.out, model_, corpus_.tokenizer, streams_, carry_, state_);
            !st.ok()) {
          return st;
        }
      }
      if (ends && state_.step < last) {
        return absl::CancelledError(absl::StrCat("interrupted; saved after step ", state_.step, " of ",
                                                 s_.steps, ", to go on with --resume"));
      }
    }
    return absl::OkStatus();
  }

 private:
  // The model's weights as products take them, at the step that it is at.
  void BeReady() {
    for (const NeuronGroup& group : groups_)
      model_.SetParted(group.kind, state_.step >= PartStep(s_, group.kind));
    model_.Quantize();
  }
  SegmentsRead Read() const {
    return {corpus_.data_hash, TextHash(corpus_.tokenizer.Serialize()), s_.config.vocab, s_.batch, s_.tokens,
            s_.stride};
  }

  // A checkpoint holds no half-gathered gradients of parted experts.
  bool CanBeSaved(int64_t step) const { return step <= first_part_ || step % s_.expert_every == 0; }
  int64_t LastStep() const { return s_.stop_at > 0 ? std::min(s_.stop_at, s_.steps) : s_.steps; }

  absl::Status LoadStart() {
    const absl::StatusOr<std::string> hash = StartTokenizerHash(s_.start);
    if (!hash.ok()) return hash.status();
    if (hash->empty()) {
      progress_.Say("note: --start does not say which tokenizer its weights belong to: not compared");
    } else if (*hash != TextHash(corpus_.tokenizer.Serialize())) {
      return absl::InvalidArgumentError(
          absl::StrCat("--start: the weights of ", s_.start, " belong to another tokenizer than ",
                       s_.tokenizer.empty() ? "the one learnt from this text" : s_.tokenizer,
                       "; give --tokenizer with the tokenizer.omni of the checkpoint that they are from"));
    }
    return model_.LoadStart(s_.start);
  }

  void SayWhatItTrainsOn() {
    if (corpus_.valid.empty() && s_.eval_every > 0) {
      progress_.Say("note: --eval-every has nothing to validate on; give --valid or --tune");
    } else if (!corpus_.valid.empty() && s_.eval_every == 0) {
      progress_.Say("note: nothing is validated while --eval-every is 0");
    }
    progress_.Say(absl::StrFormat("corpus: %d tokens, %.3f bytes each; validation: %d tokens", train_tokens_,
                                  corpus_.train_bytes_per_token, corpus_.valid.size()));
  }

  absl::Status Step() {
    const int64_t step = state_.step, n = s_.batch * s_.tokens;
    Tensor inputs = torch::empty({n}, torch::kInt32), targets = torch::empty_like(inputs);
    streams_.Next(s_.tokens, inputs.data_ptr<int32_t>(), targets.data_ptr<int32_t>());
    if (s_.reset_every > 0) {
      for (int64_t b = 0; b < s_.batch; ++b) {
        if ((step + b * s_.reset_every / s_.batch) % s_.reset_every == 0) carry_.ResetRow(b);
      }
    }
    model_.ZeroGradients(fresh_);
    // Parted experts are updated after every expert_every-th step, from gradients gathered since the last
    // time.
    const bool all_due = step % s_.expert_every == s_.expert_every - 1;
    const Part part = all_due ? Part::kAll : Part::kAllButParted;
    const bool reported = (step + 1) % kReportEvery == 0;
    Routes before;
    if (reported) before = SampleRoutes();
    const ForwardResult result = model_.Forward(
        inputs, targets, s_.batch, carry_,
        {.dropout = static_cast<float>(s_.dropout),
         .dropout_key = s_.init.seed * 1000003 + static_cast<uint64_t>(step),
         .balance = static_cast<float>(s_.balance),
         .smoothness = static_cast<float>(s_.smoothness),
         .soft = teacher_ ? teacher_->Of(step + s_.skip_steps, static_cast<float>(s_.teacher_share))
                          : SoftTargets()});
    result.loss.backward();
    model_.FinishGradients(part, s_.expert_every);
    if (s_.use_power > 0) {
      model_.CountUse(result.routes);
      if (all_due) model_.SetRatesByUse(s_.use_power);
    }
    lr_ = LearningRate(step, {s_.steps, s_.warmup, s_.lr, s_.lr_end, s_.cooldown});
    norm_ = OptimizerStep(model_.params(part), step, UpdateSettings(s_, lr_));
    if (s_.own_pull > 0 && all_due) model_.PullOwn(std::min(1.0, lr_ * s_.own_pull));
    model_.Balance(
        result.routes,
        {.rate = s_.balance_rate, .tokens = static_cast<double>(s_.balance_tokens), .soft = s_.balance_soft});
    const double loss = result.loss.item<double>();
    if (!std::isfinite(loss) || !std::isfinite(norm_)) return NotFinite(step, "loss");
    ++state_.step;
    for (const NeuronGroup& group : groups_) {
      if (state_.step == PartStep(s_, group.kind)) PartGroup(group.kind);
    }
    model_.Quantize(part);
    fresh_ = part;
    if (reported) churn_ = ChangedShare(before, SampleRoutes());
    loss_ += loss;
    ++loss_count_;
    for (const std::vector<int32_t>& route : result.routes) {
      for (int32_t e : route) ++counts_[static_cast<size_t>(e)];
    }
    balance_ = result.balance;
    smoothness_ = result.smoothness;
    return absl::OkStatus();
  }

  void PartGroup(NeuronKind kind) {
    model_.PartGroup(kind, s_.part_noise, s_.init.seed * 1000003 + static_cast<uint64_t>(kind) * 1000);
  }

  Routes SampleRoutes() { return model_.RoutesOf(sample_, kSampleRows, s_.memory); }

  // What has happened since the last report, on stderr and in the log. `busy`: seconds of this process's
  // steps.
  absl::Status Report(double busy, bool evaluate) {
    const int64_t n = s_.batch * s_.tokens;
    const double rate = static_cast<double>((state_.step - first_step_) * n) / busy;
    const auto used = std::count_if(counts_.begin(), counts_.end(), [](int64_t c) { return c > 0; });
    const double loss = loss_ / static_cast<double>(loss_count_), gini = Gini(counts_);
    progress_.Show(absl::StrFormat(
        "step %d/%d  loss %.4f  %.0f tok/s  %.0f s left  experts %d/%d  gini %.2f", state_.step, s_.steps,
        loss, rate, static_cast<double>((LastStep() - state_.step) * n) / rate, used, counts_.size(), gini));
    Json line = {{"step", state_.step},
                 {"loss", loss},
                 {"lr", lr_},
                 {"grad_norm", norm_},
                 {"tok_per_s", rate},
                 {"seconds", state_.seconds},
                 {"tokens", state_.step * n},
                 {"experts_used", used},
                 {"gini", gini},
                 {"balance", balance_},
                 {"smoothness", smoothness_},
                 {"churn", churn_}};
    churn_ = kNotMeasured;
    if (evaluate) {
      const auto before = Clock::now();
      const Validation validation = Validate(model_, corpus_.valid, s_);
      const double nats = validation.nats;
      evaluating_ += Seconds(Clock::now() - before);
      if (!std::isfinite(nats)) return NotFinite(state_.step, "validation loss");
      const double bits = nats / std::log(2.0) / corpus_.valid_bytes_per_token;
      line["valid_nats_per_token"] = nats;
      line["valid_bits_per_byte"] = bits;
      line["same_expert"] = validation.same_expert;
      line["same_region"] = validation.same_region;
      progress_.Say(absl::StrFormat("valid %.4f nats/token, %.4f bits/byte", nats, bits));
    }
    loss_ = 0;
    loss_count_ = 0;
    std::fill(counts_.begin(), counts_.end(), 0);
    if (absl::Status st = log_.Append(std::move(line)); !st.ok()) return st;
    if (!s_.plot || (!evaluate && state_.step != LastStep())) return absl::OkStatus();
    const fs::path run(s_.out);
    return PlotLog((run / "log.jsonl").string(), (run / "plot.svg").string());
  }

  const TrainSettings& s_;
  Corpus corpus_;
  RunLog log_;
  Progress progress_;
  TrainModel model_;
  size_t train_tokens_;
  Tensor sample_;
  Streams streams_;  // has taken corpus_.train
  Carry carry_;
  std::optional<Teacher> teacher_;
  RunState state_;
  const std::vector<NeuronGroup> groups_ = NeuronGroups(s_.config);
  const int64_t first_part_ = FirstPartStep(s_);
  Part fresh_ = Part::kAll;  // whose gradients begin anew with the next step
  // Of the last step.
  double lr_ = 0, norm_ = 0, balance_ = 0, smoothness_ = 0;
  double churn_ = kNotMeasured;  // share of the sample's routes that it changed
  // Since the last report.
  double loss_ = 0;
  int64_t loss_count_ = 0;
  std::vector<int64_t> counts_;  // tokens per expert
  // Since this process began or went on.
  Clock::time_point started_;
  int64_t first_step_ = 0;
  double seconds_before_ = 0, evaluating_ = 0;
};

absl::Status TrainOrThrow(const TrainSettings& s, const std::function<bool()>& stop) {
  if (absl::Status st = CheckSettings(s); !st.ok()) return st;
  if (absl::Status st = PrepareRunDirectory(s.out, s.resume); !st.ok()) return st;
  absl::StatusOr<RunLog> log = RunLog::Open((fs::path(s.out) / "log.jsonl").string());
  if (!log.ok()) return log.status();
  // libtorch alone might take one thread for "all", and ends the process if it cannot have them.
  const int threads = s.threads > 0 ? static_cast<int>(s.threads) : DefaultThreads();
  if (absl::Status st = CheckThreads(threads - 1, "train"); !st.ok()) return st;
  at::set_num_threads(threads);
  std::optional<Resumed> resumed;
  if (s.resume) {
    absl::StatusOr<Resumed> checked = CheckResume(s);
    if (!checked.ok()) return checked.status();
    resumed = std::move(*checked);
  } else if (!s.start.empty()) {  // a wrong file is told before the texts are read
    if (const auto hash = StartTokenizerHash(s.start); !hash.ok()) return hash.status();
  }
  std::optional<EarlierCorpus> earlier;
  if (resumed) earlier = resumed->corpus;
  absl::StatusOr<Corpus> corpus = LoadCorpus(s, earlier);
  if (!corpus.ok()) return corpus.status();
  Run run(s, std::move(*corpus), std::move(*log));
  if (absl::Status st = resumed ? run.GoOn(*resumed) : run.Begin(); !st.ok()) return st;
  return s.write_logits.empty() ? run.Train(stop) : run.WriteLogits(stop);
}

}  // namespace

absl::Status Train(const TrainSettings& settings, const std::function<bool()>& stop) {
  try {
    return TrainOrThrow(settings, stop);
  } catch (const c10::Error& e) {
    return absl::InternalError(absl::StrCat("libtorch: ", e.what_without_backtrace()));
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("not enough memory; give a smaller --batch, --seq or model");
  } catch (const std::exception& e) {
    return absl::InternalError(e.what());
  }
}

}  // namespace omni::train
