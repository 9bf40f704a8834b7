#include "engine/around/ablation.h"

#include <chrono>
#include <cmath>
#include <memory>
#include <numbers>
#include <utility>
#include <vector>

#include "engine/around/context_stage.h"
#include "engine/around/distribution.h"
#include "engine/model/session_state.h"

namespace omni {
namespace {

// Every expert is the first of its region.
class KeyframesOnly final : public ExpertSource {
 public:
  KeyframesOnly(ExpertSource& inner, const ModelConfig& config) : inner_(inner), config_(config) {}
  absl::StatusOr<ExpertTiles> Acquire(LayerId layer, ExpertId expert) override {
    return inner_.Acquire(layer, config_.ExpertOf(config_.RegionOf(expert), 0));
  }
  bool resident() const override { return inner_.resident(); }

 private:
  ExpertSource& inner_;
  const ModelConfig& config_;
};

// One document's distributions, token by token.
class Reader {
 public:
  Reader(const Parts& parts, std::shared_ptr<const ContextCode> code) : parts_(parts) {
    if (parts.contexts) contexts_ = std::make_unique<SessionContexts>(std::move(code), "");
  }

  // What the token would be drawn from, [V].
  std::span<const float> Read(const LookedToken& token, const kernels::Ops& ops) {
    TokenRow row;
    row.history = token.history;
    row.hidden = token.hidden;
    row.logits = row.model_logits = token.logits[0];
    if (parts_.perspectives) {
      std::vector<std::vector<float>> p;
      for (const std::span<const float> logits : token.logits)
        Softmax(ops, logits, 1.0f, p.emplace_back(logits.size()));
      average_.resize(p[0].size());
      Mix(p, std::vector<float>(p.size(), 1.0f / static_cast<float>(p.size())), average_);
      ops.log(average_.data(), std::ssize(average_), average_.data());
      row.logits = average_;
    }
    if (contexts_ != nullptr && contexts_->Read(row, ops, mixed_)) row.logits = mixed_;
    p_.resize(row.logits.size());
    Softmax(ops, row.logits, 1.0f, p_);
    return p_;
  }
  int64_t memory_bytes() const { return contexts_ == nullptr ? 0 : contexts_->bytes(); }

 private:
  const Parts& parts_;
  std::unique_ptr<SessionContexts> contexts_;
  std::vector<float> average_, mixed_, p_;
};

}  // namespace

absl::StatusOr<PartsReport> MeasureParts(const CalibrationText& on, const Parts& parts) {
  const auto start = std::chrono::steady_clock::now();
  const ModelConfig& config = on.weights.config;
  const kernels::Ops& ops = kernels::ActiveOps();
  std::shared_ptr<const ContextCode> code;
  if (parts.contexts) code = std::make_shared<const ContextCode>(config.d, config.vocab);
  KeyframesOnly keyframes(on.source, config);
  PerspectiveRoute random(PerspectiveKind::kFar, kPerspectives - 1, on.run.seed + 1);
  PerspectiveRunOptions run = on.run;
  run.others = parts.perspectives;
  run.polytope = parts.polytope;
  run.adapter = parts.adapter;
  if (parts.random_routes) run.policy = &random;

  PartsReport result;
  CalibrationMetrics metrics;
  std::vector<std::unique_ptr<Reader>> readers;  // by document
  std::vector<TokenScore> scores;
  const absl::Status done =
      RunPerspectives(on.weights, parts.deltas ? on.source : keyframes, on.tokenizer, on.pool, on.text, run,
                      [&](std::span<const LookedToken> looked) {
                        for (const LookedToken& token : looked) {
                          if (readers.size() <= token.document) readers.resize(token.document + 1);
                          if (readers[token.document] == nullptr)
                            readers[token.document] = std::make_unique<Reader>(parts, code);
                        }
                        scores.resize(looked.size());
                        // Each is of another document.
                        on.pool.Run(std::ssize(looked), 1, [&](int64_t begin, int64_t end) {
                          for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i)
                            scores[i] = ScoreDistribution(readers[looked[i].document]->Read(looked[i], ops),
                                                          looked[i].target);
                        });
                        for (size_t i = 0; i < looked.size(); ++i) {
                          metrics.Add(scores[i]);
                          result.bytes += looked[i].bytes;
                        }
                      });
  if (!done.ok()) return done;
  result.report = metrics.Report();
  result.tokens = result.report.tokens;
  if (result.bytes > 0) {
    result.bits_per_byte = result.report.nats_per_token * static_cast<double>(result.tokens) /
                           std::numbers::ln2 / static_cast<double>(result.bytes);
  }
  result.session_bytes = SessionState::BytesFor(config) * (parts.perspectives ? kPerspectives : 1);
  int64_t memories = 0;
  for (const auto& reader : readers) memories += reader == nullptr ? 0 : reader->memory_bytes();
  if (!readers.empty()) result.session_bytes += memories / std::ssize(readers);
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

}  // namespace omni
