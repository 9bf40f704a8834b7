#include "engine/train/trainer.h"

#include <ATen/Parallel.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <nlohmann/json.hpp>

#include "engine/base/threads.h"
#include "engine/text/tokenizer.h"
#include "engine/train/data.h"
#include "engine/train/optimizer.h"
#include "engine/train/plot.h"
#include "engine/train/run_state.h"

namespace omni::train {
namespace {

namespace fs = std::filesystem;
using torch::Tensor;
using Clock = std::chrono::steady_clock;

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

Tensor Ids(int64_t n) { return torch::empty({n}, torch::kInt32); }

// Mean nats per token over the first tokens of `ids`, in `batch` parallel streams with carried state.
double Evaluate(TrainModel& model, const std::vector<int32_t>& ids, const TrainSettings& s,
                bool shared_start) {
  torch::NoGradGuard no_grad;
  const int64_t usable = std::min<int64_t>(static_cast<int64_t>(ids.size()), s.eval_tokens + 1);
  const int64_t batch = std::min<int64_t>(8, std::max<int64_t>(1, usable / (4 * s.tokens)));
  const int64_t segments = (usable - 1) / (batch * s.tokens);
  if (segments < 1) return NAN;
  Streams streams({ids.begin(), ids.begin() + usable}, batch);
  Carry carry = Carry::Make(model.config(), batch, s.memory);
  double total = 0;
  for (int64_t i = 0; i < segments; ++i) {
    Tensor inputs = Ids(batch * s.tokens), targets = Ids(batch * s.tokens);
    streams.Next(s.tokens, inputs.data_ptr<int32_t>(), targets.data_ptr<int32_t>());
    total += model.Forward(inputs, targets, batch, carry, {.shared_start = shared_start}).loss.item<double>();
  }
  return total / static_cast<double>(segments);
}

struct Corpus {
  Tokenizer tokenizer;
  std::vector<int32_t> train, valid;
  double train_bytes_per_token = 0, valid_bytes_per_token = 0;
  uint64_t hash = 0;
};

absl::StatusOr<Corpus> LoadCorpus(const TrainSettings& s) {
  auto text = ReadCorpus(s.data);
  if (!text.ok()) return text.status();
  Corpus corpus;
  corpus.hash = TextHash(*text);
  std::string valid;
  if (s.holdout > 0)
    text->resize(text->size() - static_cast<size_t>(static_cast<double>(text->size()) * s.holdout));
  if (s.tune > 0) {
    const size_t keep = text->size() - static_cast<size_t>(static_cast<double>(text->size()) * s.tune);
    valid = text->substr(keep);
    text->resize(keep);
  } else if (!s.valid.empty()) {
    auto read = ReadCorpus(s.valid);
    if (!read.ok()) return read.status();
    valid = std::move(*read);
  }
  auto tokenizer =
      s.tokenizer.empty()
          ? Tokenizer::Train(std::string_view(*text).substr(0, static_cast<size_t>(s.tokenizer_bytes)),
                             s.config.vocab)
          : Tokenizer::Load(s.tokenizer);
  if (!tokenizer.ok()) return tokenizer.status();
  if (tokenizer->vocab() != s.config.vocab) {
    return absl::InvalidArgumentError(absl::StrCat(s.tokenizer, ": vocabulary ", tokenizer->vocab(),
                                                   ", the model's is ", s.config.vocab, "; give --vocab ",
                                                   tokenizer->vocab()));
  }
  corpus.tokenizer = std::move(*tokenizer);
  corpus.train = EncodeCorpus(corpus.tokenizer, *text);
  corpus.train_bytes_per_token = static_cast<double>(text->size()) / static_cast<double>(corpus.train.size());
  if (!valid.empty()) {
    corpus.valid = EncodeCorpus(corpus.tokenizer, valid);
    corpus.valid_bytes_per_token =
        static_cast<double>(valid.size()) / static_cast<double>(corpus.valid.size());
  }
  if (static_cast<int64_t>(corpus.train.size()) <= s.tokens) {
    return absl::InvalidArgumentError(absl::StrCat("the corpus has ", corpus.train.size(),
                                                   " tokens, fewer than one segment of ", s.tokens,
                                                   "; give more text or a smaller --seq"));
  }
  return corpus;
}

absl::Status SetUpRunDirectory(const TrainSettings& s) {
  std::error_code error;
  fs::create_directories(s.out, error);
  if (error) return absl::PermissionDeniedError(absl::StrCat(s.out, ": cannot be made: ", error.message()));
  if (!s.resume && fs::exists(fs::path(s.out) / "checkpoint")) {
    return absl::AlreadyExistsError(
        absl::StrCat(s.out, ": holds a checkpoint already; add --resume or give another --out"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status Train(const TrainSettings& s) {
  if (absl::Status st = Validate(s.config); !st.ok()) return st;
  if (absl::Status st = SetUpRunDirectory(s); !st.ok()) return st;
  // libtorch alone might take one thread for "all".
  at::set_num_threads(s.threads > 0 ? s.threads : DefaultThreads());
  const bool live = isatty(2) != 0;
  const auto corpus = LoadCorpus(s);
  if (!corpus.ok()) return corpus.status();
  std::fprintf(stderr, "corpus: %zu tokens, %.3f bytes each; validation: %zu tokens\n", corpus->train.size(),
               corpus->train_bytes_per_token, corpus->valid.size());

  TrainModel model(s.config, s.init);
  Streams streams(corpus->train, s.batch);
  streams.Skip(s.skip_steps * s.tokens);
  Carry carry = Carry::Make(s.config, s.batch, s.memory);
  RunState state;
  if (!s.start.empty()) {
    if (absl::Status st = model.LoadStart(s.start); !st.ok()) return st;
  }
  if (s.resume) {
    if (absl::Status st = LoadCheckpoint(s.out, model, streams, carry, state); !st.ok()) return st;
  }
  const auto shared = [&](int64_t step) { return step < s.shared_steps; };
  const auto whole = [&](int64_t step) { return step % s.expert_every == 0; };
  const bool parts = s.shared_steps < s.steps;
  if (parts && (!whole(s.shared_steps) || !whole(s.save_every) || !whole(s.stop_at) || !whole(s.steps))) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--steps, --shared-steps, --save-every and --stop-at must be multiples of --expert-every ",
        s.expert_every, ": a checkpoint holds no half-gathered gradients"));
  }
  model.Quantize(shared(state.step));
  std::ofstream log(fs::path(s.out) / "log.jsonl", std::ios::app);
  if (!log) return absl::PermissionDeniedError(absl::StrCat(s.out, "/log.jsonl: cannot be written"));
  if (state.step == 0) {
    log << nlohmann::json{{"command", s.command},
                          {"config", nlohmann::json::parse(ToJson(s.config))},
                          {"data_fnv1a", absl::StrFormat("%016x", corpus->hash)},
                          {"seed", s.init.seed},
                          {"train_tokens", corpus->train.size()},
                          {"threads", at::get_num_threads()}}
               .dump()
        << "\n";
  }
  using Part = TrainModel::Part;
  // The steps after which parted experts are updated: every expert_every-th, from gradients gathered since
  // the last one.
  const auto experts_due = [&](int64_t step) {
    return shared(step) || step % s.expert_every == s.expert_every - 1;
  };
  Part fresh = Part::kAll;
  const int64_t n = s.batch * s.tokens, last = s.stop_at > 0 ? std::min(s.stop_at, s.steps) : s.steps;
  auto started = Clock::now();
  const int64_t first_step = state.step;
  double seconds_before = state.seconds, running = 0, evaluating = 0;
  int64_t running_count = 0;
  std::vector<int64_t> counts(static_cast<size_t>(s.config.num_experts()), 0);
  while (state.step < last) {
    const int64_t step = state.step;
    Tensor inputs = Ids(n), targets = Ids(n);
    streams.Next(s.tokens, inputs.data_ptr<int32_t>(), targets.data_ptr<int32_t>());
    if (s.reset_every > 0) {
      for (int64_t b = 0; b < s.batch; ++b) {
        if ((step + b * s.reset_every / s.batch) % s.reset_every == 0) carry.ResetRow(b);
      }
    }
    model.ZeroGradients(fresh);
    const Part part = experts_due(step) ? Part::kAll : Part::kAllButExperts;
    const ForwardResult result =
        model.Forward(inputs, targets, s.batch, carry,
                      {.dropout = static_cast<float>(s.dropout),
                       .dropout_key = s.init.seed * 1000003 + static_cast<uint64_t>(step),
                       .balance = static_cast<float>(s.balance),
                       .smoothness = static_cast<float>(s.smoothness),
                       .shared_start = shared(step)});
    result.loss.backward();
    model.FinishGradients(part, shared(step) ? 1 : s.expert_every);
    const double lr = LearningRate(step, {s.steps, s.warmup, s.lr, s.lr_end, s.cooldown});
    const double norm = OptimizerStep(model.params(part), step,
                                      {.lr = static_cast<float>(lr),
                                       .beta1 = static_cast<float>(s.beta1),
                                       .beta2 = static_cast<float>(s.beta2),
                                       .weight_decay = static_cast<float>(s.weight_decay),
                                       .clip = static_cast<float>(s.clip),
                                       .matrices = s.matrices,
                                       .momentum = static_cast<float>(s.momentum)},
                                      shared(step));
    const double loss = result.loss.item<double>();
    if (!std::isfinite(loss) || !std::isfinite(norm)) {
      return absl::InternalError(
          absl::StrCat("step ", step, ": the loss is no longer finite; lower --lr or raise --warmup, ",
                       "then go on from the last checkpoint with --resume"));
    }
    ++state.step;
    if (step + 1 == s.shared_steps) model.PartExperts();
    model.Quantize(shared(state.step), part);
    fresh = part;
    running += loss;
    ++running_count;
    for (size_t e = 0; e < counts.size(); ++e) counts[e] += result.expert_counts[e];
    const double busy = std::chrono::duration<double>(Clock::now() - started).count() - evaluating;
    state.seconds = seconds_before + busy;
    const bool evaluate =
        s.eval_every > 0 && (state.step % s.eval_every == 0 || state.step == last) && !corpus->valid.empty();
    if (state.step % 20 == 0 || state.step == last || evaluate) {
      const double rate = static_cast<double>((state.step - first_step) * n) / busy;
      const auto used = std::count_if(counts.begin(), counts.end(), [](int64_t c) { return c > 0; });
      nlohmann::json line = {{"step", state.step},
                             {"loss", running / static_cast<double>(running_count)},
                             {"lr", lr},
                             {"grad_norm", norm},
                             {"tok_per_s", rate},
                             {"seconds", state.seconds},
                             {"tokens", state.step * n},
                             {"experts_used", used},
                             {"gini", Gini(counts)},
                             {"balance", result.balance},
                             {"smoothness", result.smoothness}};
      std::fprintf(stderr, "%sstep %ld/%ld  loss %.4f  %.0f tok/s  %.0f s left  experts %ld/%zu  gini %.2f%s",
                   live ? "\r" : "", state.step, s.steps, running / static_cast<double>(running_count), rate,
                   static_cast<double>((last - state.step) * n) / rate, used, counts.size(), Gini(counts),
                   live ? "  " : "\n");
      if (evaluate) {
        const auto before = Clock::now();
        const double nats = Evaluate(model, corpus->valid, s, shared(state.step));
        evaluating += std::chrono::duration<double>(Clock::now() - before).count();
        line["valid_nats_per_token"] = nats;
        line["valid_bits_per_byte"] = nats / std::log(2.0) / corpus->valid_bytes_per_token;
        std::fprintf(stderr, "%svalid %.4f nats/token, %.4f bits/byte\n", live ? "\n" : "", nats,
                     nats / std::log(2.0) / corpus->valid_bytes_per_token);
      }
      log << line.dump() << std::endl;
      if (s.plot && (evaluate || state.step == last)) {
        const fs::path run(s.out);
        if (absl::Status st = PlotLog((run / "log.jsonl").string(), (run / "plot.svg").string()); !st.ok())
          return st;
      }
      running = 0;
      running_count = 0;
      std::fill(counts.begin(), counts.end(), 0);
    }
    if ((s.save_every > 0 && state.step % s.save_every == 0) || state.step == last) {
      state.shared_start = state.step <= s.shared_steps;
      if (absl::Status st = SaveCheckpoint(s.out, model, corpus->tokenizer, streams, carry, state); !st.ok())
        return st;
    }
  }
  if (live) std::fprintf(stderr, "\n");
  return absl::OkStatus();
}

}  // namespace omni::train
