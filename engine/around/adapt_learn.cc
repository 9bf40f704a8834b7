#include "engine/around/adapt_learn.h"

#include <time.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>

#include <absl/strings/str_cat.h>

#include "engine/around/adapt_head.h"
#include "engine/around/adapt_tangents.h"
#include "engine/around/adapt_texts.h"
#include "engine/base/splitmix.h"
#include "engine/text/tokenizer.h"

namespace omni {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kWindow = 256;  // tokens of a step of the layers or the positions
constexpr int64_t kLeastTokens = 256, kMostTokens = 65536;
constexpr int64_t kSamples = 16;                      // of a step of evolution, half of them mirrored
constexpr float kSigma = 0.01f;                       // of positions
constexpr float kAnchor = 0.01f;                      // share of a move that each step takes back
constexpr float kBiasRate = 1.0f;                     // of the mean gradient
constexpr float kMapRate = 1e-3f, kGainRate = 1e-3f;  // of the gradient over the root of its squares' sum
constexpr float kOwnWeight = 3.0f;
constexpr float kCoreRate = 0.05f, kLayerGainRate = 0.01f, kLoraRate = 0.01f, kPositionRate = 0.002f;
constexpr float kNormDecay = 0.9f;  // of the running square of slopes
constexpr int kMostFailures = 2;    // passes rolled back in a row, each with half the rates of the one before

double ThreadSeconds() {
  timespec now{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

float Normal(uint64_t seed, uint64_t counter) {
  double sum = -6;
  for (uint64_t i = 0; i < 12; ++i) sum += CounterUniform(seed, counter * 12 + i);
  return static_cast<float>(sum);
}

class Learner {
 public:
  Learner(const ModelWeights& weights, ExpertSource& source, WorkerPool& pool, const AdaptSettings& settings,
          std::vector<TokenId> tokens, size_t learned, Adapter& adapter)
      : config_(weights.config),
        settings_(settings),
        texts_(weights, source, pool, std::move(tokens), learned),
        adapter_(adapter),
        gradient_(adapter, adapter.parts()),
        moments_(adapter, MomentParts(adapter.parts())),
        best_(adapter),
        loss_(weights, pool),
        tangent_pass_(weights, source, pool) {
    texts_.set_before_batch(settings.before_batch);
    report_.tokens = static_cast<int64_t>(learned);
    report_.held_out_tokens = std::ssize(texts_.tokens()) - 1 - report_.tokens;
  }

  absl::StatusOr<AdaptReport> Run() {
    const absl::Status status = Phases();
    if (!status.ok()) {
      adapter_.CopyValues(best_);
      return status;
    }
    report_.nats = best_nats_;
    report_.drift = best_drift_ / report_.nats_before;
    report_.adapter_bytes = 4 * adapter_.size();
    report_.extra_bytes = 4 * (gradient_.size() + moments_.size() + best_.size());
    if (adapter_.parts().layers == AdaptLayers::kLora) report_.extra_bytes += 4 * LayerValues();
    report_.batch_bytes = texts_.state().bytes() * 4 + loss_.bytes() + tangent_pass_.bytes() +
                          (tangents_.has_value() ? tangents_->bytes() : 0);
    report_.seconds = Seconds();
    return report_;
  }

 private:
  static AdapterParts MomentParts(AdapterParts parts) {
    parts.bias = parts.positions = false;
    parts.layers = AdaptLayers::kNone;
    return parts;
  }
  int64_t LayerValues() const {
    return adapter_.size() - std::ssize(adapter_.values(AdapterBlock::kBias)) -
           std::ssize(adapter_.values(AdapterBlock::kGain)) - std::ssize(adapter_.values(AdapterBlock::kMap));
  }

  // What the budget counts.
  double Seconds() const {
    if (settings_.processor_time) return ThreadSeconds() - thread_start_;
    return std::chrono::duration<double>(Clock::now() - start_).count();
  }
  // Whether to go on learning: there must be time left to look at what was learned.
  bool TimeLeft() {
    if (stopped_) return false;
    const double budget = std::chrono::duration<double>(settings_.budget).count();
    report_.out_of_time = Seconds() + 7 * look_seconds_ > budget;
    if (Seconds() > phase_until_) return false;
    if (settings_.progress && settings_.progress(std::min(1.0, Seconds() / budget))) stopped_ = true;
    return !report_.out_of_time && !stopped_;
  }

  absl::Status Phases() {
    const size_t texts = (static_cast<size_t>(settings_.own_tokens) + kOwnLength - 1) / kOwnLength;
    if (absl::Status s = texts_.WriteOwn(texts, settings_.seed, [this] { return TimeLeft(); }); !s.ok())
      return s;
    report_.own_tokens = texts_.own_tokens();
    const double before = Seconds();
    const Adapter none(adapter_, {false, false, 0, AdaptLayers::kNone, false});
    const absl::StatusOr<double> plain = texts_.HeldOut(none);
    if (!plain.ok()) return plain.status();
    report_.nats_before = best_nats_ = *plain;
    if (absl::Status s = Look(nullptr); !s.ok()) return s;  // an adapter that is learned on may be better
    look_seconds_ = (Seconds() - before) / 2;
    const AdapterParts& parts = adapter_.parts();
    if (parts.bias || parts.gain || parts.head_rank > 0) {
      if (absl::Status s = Phase("head", [this] { return HeadPass(); }); !s.ok()) return s;
    }
    if (parts.layers != AdaptLayers::kNone) {
      const bool head = parts.bias || parts.gain || parts.head_rank > 0;
      const double budget = std::chrono::duration<double>(settings_.budget).count();
      if (head) phase_until_ = Seconds() + settings_.layers_share * budget;
      if (absl::Status s = Phase("layers", [this] { return LayerPass(); }); !s.ok()) return s;
      phase_until_ = std::numeric_limits<double>::infinity();
    }
    if (parts.positions) {
      if (absl::Status s = Phase("positions", [this] { return PositionPass(); }); !s.ok()) return s;
    }
    return Shares();
  }

  template <typename Pass>
  absl::Status Phase(const char* name, Pass&& pass) {
    AdaptPhase phase;
    phase.name = name;
    const double start = Seconds();
    scale_ = 1;
    for (int failures = 0; phase.passes < settings_.passes && failures < kMostFailures && TimeLeft();) {
      if (absl::Status s = pass(); !s.ok()) return s;
      ++phase.passes;
      const int64_t kept = phase.kept;
      if (absl::Status s = Look(&phase); !s.ok()) return s;
      if (phase.kept > kept) {
        failures = 0;
      } else {
        ++failures;
        scale_ *= 0.5f;
      }
    }
    phase.nats = best_nats_;
    phase.drift = best_drift_ / report_.nats_before;
    phase.seconds = Seconds() - start;
    report_.phases.push_back(phase);
    return absl::OkStatus();
  }

  // Keeps the adapter as it is, or gives it back what was kept last. Of none that was kept yet, `phase` is
  // null: the adapter that was given is judged.
  absl::Status Look(AdaptPhase* phase) {
    const absl::StatusOr<double> nats = texts_.HeldOut(adapter_), drift = texts_.Drift(adapter_);
    if (!nats.ok()) return nats.status();
    if (!drift.ok()) return drift.status();
    if (phase == nullptr) {
      best_nats_ = *nats;
      best_drift_ = *drift;
      return absl::OkStatus();
    }
    const double most = std::max(settings_.most_drift * report_.nats_before, best_drift_);
    if (std::isfinite(*nats) && *nats < best_nats_ && *drift <= most) {
      best_.CopyValues(adapter_);
      best_nats_ = *nats;
      best_drift_ = *drift;
      ++phase->kept;
      report_.kept = true;
    } else {
      adapter_.CopyValues(best_);
    }
    return absl::OkStatus();
  }

  // What the held-out part costs without each block; `gradient_` is free by now.
  absl::Status Shares() {
    for (const AdapterBlock block : kAdapterBlocks) {
      const std::span<const float> values = adapter_.values(block);
      if (std::ranges::all_of(values, [](float v) { return v == 0; })) continue;
      if (block == AdapterBlock::kRight) continue;  // without left it does nothing
      gradient_.CopyValues(adapter_);
      gradient_.Clear(block);
      const absl::StatusOr<double> nats = texts_.HeldOut(gradient_);
      if (!nats.ok()) return nats.status();
      report_.shares.push_back({block, std::ssize(values), *nats});
    }
    return absl::OkStatus();
  }

  // --- the head, by its exact gradient ---

  absl::Status HeadPass() {
    const RowAdapter layers = adapter_.View(false);
    const auto policy = PolicyOf(config_, adapter_);
    const bool plain = policy == nullptr && LayersAreZero();
    texts_.state().Reset();
    for (size_t begin = 0; begin < texts_.learned() && TimeLeft(); begin += kAdaptBatch) {
      const size_t count = std::min(kAdaptBatch, texts_.learned() - begin);
      const auto batch = texts_.tokens().subspan(begin, count + 1);
      if (absl::Status s = texts_.Hidden(texts_.state(), batch.first(count), &layers, policy.get(), y_);
          !s.ok())
        return s;
      ClearGradient();
      loss_.Loss(adapter_, y_, batch.subspan(1));
      loss_.AddGradient(adapter_, y_, 1.0f / static_cast<float>(count), gradient_);
      const std::span<const TokenId> own = NextOwn();
      if (absl::Status s = texts_.Hidden(texts_.own_state(), own, &layers, policy.get(), y_); !s.ok())
        return s;
      if (plain) {
        y_plain_ = y_;
      } else if (absl::Status s = texts_.Hidden(texts_.plain_state(), own, nullptr, nullptr, y_plain_);
                 !s.ok()) {
        return s;
      }
      loss_.Divergence(adapter_, y_, y_plain_);
      loss_.AddGradient(adapter_, y_, kOwnWeight / static_cast<float>(own.size()), gradient_);
      StepHead();
    }
    return absl::OkStatus();
  }

  bool LayersAreZero() const {
    for (const AdapterBlock block : {AdapterBlock::kLayerGains, AdapterBlock::kCores, AdapterBlock::kLeft}) {
      if (std::ranges::any_of(adapter_.values(block), [](float v) { return v != 0; })) return false;
    }
    return true;
  }

  // From zero state where a text begins.
  std::span<const TokenId> NextOwn() {
    bool begins = false;
    const std::span<const TokenId> own = texts_.NextOwn(begins);
    if (begins) {
      texts_.own_state().Reset();
      texts_.plain_state().Reset();
    }
    return own;
  }

  void ClearGradient() {
    for (const AdapterBlock block : kAdapterBlocks) gradient_.Clear(block);
  }

  void StepHead() {
    const std::span<float> bias = adapter_.values(AdapterBlock::kBias);
    for (size_t i = 0; i < bias.size(); ++i)
      bias[i] -= scale_ * kBiasRate * gradient_.values(AdapterBlock::kBias)[i];
    for (const auto& [block, rate] :
         {std::pair(AdapterBlock::kGain, kGainRate), {AdapterBlock::kMap, kMapRate}}) {
      const std::span<float> values = adapter_.values(block), gradient = gradient_.values(block),
                             squares = moments_.values(block);
      for (size_t i = 0; i < values.size(); ++i) {
        squares[i] += gradient[i] * gradient[i];
        if (squares[i] > 0) values[i] -= scale_ * rate * gradient[i] / (std::sqrt(squares[i]) + 1e-6f);
      }
    }
  }

  // --- the layers, by directional derivatives ---

  absl::Status LayerPass() {
    const bool lora = adapter_.parts().layers == AdaptLayers::kLora;
    const int64_t carried = lora ? 1 : settings_.directions;  // at once: a direction of all factors is large
    AdapterParts parts = adapter_.parts();
    parts.bias = parts.gain = parts.positions = false;
    parts.head_rank = 0;
    if (!tangents_.has_value()) tangents_.emplace(config_, carried);
    if (directions_.empty()) {
      for (int64_t k = 0; k < carried; ++k) directions_.emplace_back(adapter_, parts);
    }
    const auto policy = PolicyOf(config_, adapter_);
    SessionState at_start(config_);
    texts_.state().Reset();
    for (size_t begin = 0; begin < texts_.learned() && TimeLeft(); begin += kWindow) {
      const size_t count = std::min(kWindow, texts_.learned() - begin);
      at_start.CopyFrom(texts_.state());
      const RowAdapter layers = adapter_.View(false);
      ClearGradient();
      double squares = 0;
      for (int64_t first = 0; first < settings_.directions; first += carried) {
        const std::vector<std::vector<LayerChange>> views = Draw(first);
        slopes_.assign(views.size(), 0);
        texts_.state().CopyFrom(at_start);
        tangents_->Reset();
        for (size_t at = begin; at < begin + count; at += kAdaptBatch) {
          const size_t n = std::min(kAdaptBatch, begin + count - at);
          const auto batch = texts_.tokens().subspan(at, n + 1);
          if (absl::Status s = texts_.BeforeBatch(); !s.ok()) return s;
          if (absl::Status s =
                  tangent_pass_.Run(texts_.state(), *tangents_, batch.first(n), layers, views, policy.get());
              !s.ok())
            return s;
          TakeHidden(n);
          loss_.Loss(adapter_, y_, batch.subspan(1));
          AddSlopes(n, 1.0 / static_cast<double>(count));
        }
        if (absl::Status s = OwnSlopes(layers, views, policy.get()); !s.ok()) return s;
        for (size_t k = 0; k < slopes_.size(); ++k) {
          squares += slopes_[k] * slopes_[k];
          const auto share = static_cast<float>(slopes_[k] / static_cast<double>(settings_.directions));
          for (const AdapterBlock block : kAdapterBlocks) {
            const std::span<const float> direction = directions_[k].values(block);
            const std::span<float> to = gradient_.values(block);
            for (size_t i = 0; i < direction.size(); ++i) to[i] += share * direction[i];
          }
        }
      }
      StepLayers(squares / static_cast<double>(settings_.directions));
    }
    return absl::OkStatus();
  }

  // Random signs for the directions from number `first` on.
  std::vector<std::vector<LayerChange>> Draw(int64_t first) {
    std::vector<std::vector<LayerChange>> views;
    for (Adapter& direction : directions_) {
      if (first == 0 || directions_.size() == 1) ++drawn_;
      uint64_t counter = 0;
      const uint64_t seed = SplitMix64(settings_.seed) + drawn_ * 1000 + views.size();
      for (const AdapterBlock block : kAdapterBlocks) {
        for (float& value : direction.values(block))
          value = (CounterRandom(seed, counter++) & 1) != 0 ? 1.0f : -1.0f;
      }
      views.push_back(direction.DirectionView());
    }
    return views;
  }

  void TakeHidden(size_t n) {
    y_.clear();
    for (size_t i = 0; i < n; ++i) {
      const std::span<const float> row = tangent_pass_.hidden(static_cast<int64_t>(i));
      y_.insert(y_.end(), row.begin(), row.end());
    }
  }

  void AddSlopes(size_t n, double weight) {
    loss_.HiddenGradients(adapter_);
    for (size_t k = 0; k < slopes_.size(); ++k) {
      for (size_t i = 0; i < n; ++i) {
        const std::span<const float> tangent =
            tangent_pass_.tangent(static_cast<int64_t>(k), static_cast<int64_t>(i));
        const std::span<const float> by_hidden = loss_.hidden_gradient(static_cast<int64_t>(i));
        double slope = 0;
        for (size_t j = 0; j < tangent.size(); ++j) slope += static_cast<double>(tangent[j]) * by_hidden[j];
        slopes_[k] += weight * slope;
      }
    }
  }

  // Of the divergence on one of the own texts.
  absl::Status OwnSlopes(const RowAdapter& layers, std::span<const std::vector<LayerChange>> views,
                         RoutePolicy* policy) {
    texts_.BeginOwnText();
    tangents_->Reset();
    do {
      const std::span<const TokenId> own = NextOwn();
      if (absl::Status s = texts_.Hidden(texts_.plain_state(), own, nullptr, nullptr, y_plain_); !s.ok())
        return s;
      if (absl::Status s = texts_.BeforeBatch(); !s.ok()) return s;
      if (absl::Status s = tangent_pass_.Run(texts_.own_state(), *tangents_, own, layers, views, policy);
          !s.ok())
        return s;
      TakeHidden(own.size());
      loss_.Divergence(adapter_, y_, y_plain_);
      AddSlopes(own.size(), kOwnWeight / static_cast<double>(kOwnLength));
    } while (!texts_.own_text_over());
    return absl::OkStatus();
  }

  void StepLayers(double square) {
    slope_square_ = slope_square_ == 0 ? square : kNormDecay * slope_square_ + (1 - kNormDecay) * square;
    if (!(slope_square_ > 0)) return;
    const auto norm = static_cast<float>(std::sqrt(slope_square_));
    const bool lora = adapter_.parts().layers == AdaptLayers::kLora;
    for (const auto& [block, rate] : {std::pair(AdapterBlock::kLayerGains, kLayerGainRate),
                                      {AdapterBlock::kCores, kCoreRate},
                                      {AdapterBlock::kLeft, kLoraRate},
                                      {AdapterBlock::kRight, lora ? 0.1f * kLoraRate : 0.0f}}) {
      const std::span<float> values = adapter_.values(block);
      for (size_t i = 0; i < values.size(); ++i)
        values[i] -= scale_ * rate * gradient_.values(block)[i] / norm;
    }
  }

  // --- positions of experts, by natural evolution strategies ---

  absl::Status PositionPass() {
    const std::span<float> moves = adapter_.values(AdapterBlock::kPositions);
    const std::span<float> step = gradient_.values(AdapterBlock::kPositions);
    const RowAdapter view = adapter_.View();
    std::vector<float> tried(moves.size());
    SessionState at_start(config_);
    const auto policy = PolicyOf(config_, adapter_);
    texts_.state().Reset();
    for (size_t begin = 0; begin < texts_.learned() && TimeLeft(); begin += kWindow) {
      const auto window = texts_.tokens().subspan(begin, std::min(kWindow, texts_.learned() - begin) + 1);
      at_start.CopyFrom(texts_.state());
      std::ranges::fill(step, 0.0f);
      for (int64_t pair = 0; pair < kSamples / 2; ++pair) {
        double nats[2];
        const uint64_t seed = SplitMix64(settings_.seed + 1) + ++drawn_;
        for (int side = 0; side < 2; ++side) {
          const float sign = side == 0 ? kSigma : -kSigma;
          for (size_t i = 0; i < moves.size(); ++i) tried[i] = moves[i] + sign * Normal(seed, i);
          AdaptedPositions moved(config_, tried);
          texts_.state().CopyFrom(at_start);
          const absl::StatusOr<double> loss = texts_.Loss(texts_.state(), window, view, &moved);
          if (!loss.ok()) return loss.status();
          nats[side] = *loss;
        }
        const auto slope = static_cast<float>((nats[0] - nats[1]) / 2);
        for (size_t i = 0; i < step.size(); ++i) step[i] += slope * Normal(seed, i);
        step_square_ =
            step_square_ == 0 ? slope * slope : kNormDecay * step_square_ + (1 - kNormDecay) * slope * slope;
      }
      const auto norm = static_cast<float>(std::sqrt(step_square_) * kSamples / 2) + 1e-9f;
      for (size_t i = 0; i < moves.size(); ++i) {
        moves[i] -= scale_ * kPositionRate * step[i] / norm + kAnchor * moves[i];
        moves[i] -= std::round(moves[i]);  // the shortest way round the torus
      }
      texts_.state().CopyFrom(at_start);
      if (absl::StatusOr<double> read = texts_.Loss(texts_.state(), window, view, policy.get()); !read.ok())
        return read.status();
    }
    return absl::OkStatus();
  }

  const ModelConfig& config_;
  const AdaptSettings& settings_;
  AdaptTexts texts_;

  Adapter& adapter_;
  Adapter gradient_, moments_, best_;
  double best_nats_ = 0, best_drift_ = 0;
  float scale_ = 1;  // of all rates

  HeadLoss loss_;
  TangentPass tangent_pass_;
  std::optional<TangentState> tangents_;
  std::vector<Adapter> directions_;
  std::vector<double> slopes_;
  double slope_square_ = 0, step_square_ = 0;
  uint64_t drawn_ = 0;
  std::vector<float> y_, y_plain_;

  const Clock::time_point start_ = Clock::now();
  const double thread_start_ = ThreadSeconds();
  double look_seconds_ = 0, phase_until_ = std::numeric_limits<double>::infinity();
  bool stopped_ = false;
  AdaptReport report_;
};

}  // namespace

absl::StatusOr<AdaptReport> LearnAdapter(const ModelWeights& weights, ExpertSource& source,
                                         const Tokenizer& tokenizer, WorkerPool& pool, std::string_view text,
                                         const AdaptSettings& settings, Adapter& adapter) {
  if (tokenizer.vocab() > weights.config.vocab) {
    return absl::InvalidArgumentError(absl::StrCat("adapt: the tokenizer has ", tokenizer.vocab(),
                                                   " tokens, the model ", weights.config.vocab,
                                                   "; use the tokenizer the model was trained with"));
  }
  std::vector<TokenId> tokens = tokenizer.Encode(text);
  if (std::ssize(tokens) < kLeastTokens) {
    return absl::InvalidArgumentError(absl::StrCat("adapt: the text has ", tokens.size(),
                                                   " tokens; to learn from and to hold out at least ",
                                                   kLeastTokens, " are needed"));
  }
  if (std::ssize(tokens) > kMostTokens) tokens.erase(tokens.begin(), tokens.end() - kMostTokens);
  tokens.insert(tokens.begin(), Tokenizer::kEndOfText);
  const auto predicted = static_cast<double>(tokens.size() - 1);
  const auto learned = static_cast<size_t>(predicted * (1 - settings.held_out));
  Learner learner(weights, source, pool, settings, std::move(tokens), learned, adapter);
  absl::StatusOr<AdaptReport> report = learner.Run();
  if (!report.ok() || !report->kept) return report;
  adapter.origin() = {report->tokens, report->held_out_tokens, static_cast<float>(report->nats_before),
                      static_cast<float>(report->nats),
                      static_cast<float>(report->drift * report->nats_before)};
  return report;
}

}  // namespace omni
