#include "engine/decode/decoder.h"

#include <algorithm>

#include <absl/strings/str_cat.h>

#include "engine/decode/ffn.h"
#include "engine/decode/mixer_attention.h"
#include "engine/decode/mixer_pdr.h"
#include "engine/decode/pass.h"
#include "engine/decode/router.h"

namespace omni {

struct Decoder::Impl {
  Impl(const ModelWeights& weights, WorkerPool& pool, const kernels::Ops& kernel_ops)
      : pass(weights, pool, kernel_ops), pdr(pass), attention(pass), ffn(pass) {}

  absl::Status SetSegments(std::span<const BatchRow> batch);
  std::vector<ExpertJob> GroupByExpert(LayerId layer, const QuantizedRows& h);

  Pass pass;
  PdrMixer pdr;
  AttentionMixer attention;
  SharedFfn ffn;
  std::vector<int64_t> wanted;  // rows that want logits
  std::vector<ExpertId> routes, predicted;
  Decoder::Reroute reroute;
  std::vector<int32_t> job_of_expert;
  std::vector<const SessionState*> seen;
  std::vector<int64_t> job_first_row;  // of each job in expert_out
  Scratch<float> normed, logit_scale, logits, expert_out;
  Scratch<int8_t> logit_q;
  Scratch<int32_t> logit_acc;
};

Decoder::Decoder(const ModelWeights& weights, WorkerPool& pool, const kernels::Ops& ops)
    : impl_(std::make_unique<Impl>(weights, pool, ops)) {}

Decoder::~Decoder() = default;

absl::Status Decoder::Impl::SetSegments(std::span<const BatchRow> batch) {
  const ModelConfig& config = pass.config;
  if (batch.empty()) return absl::InvalidArgumentError("batch: it has no rows; give at least one");
  pass.segments.clear();
  wanted.clear();
  seen.clear();
  for (size_t i = 0; i < batch.size(); ++i) {
    const BatchRow& row = batch[i];
    if (row.state == nullptr) return absl::InvalidArgumentError(absl::StrCat("batch row ", i, ": no state"));
    if (row.token.value < 0 || row.token.value >= config.vocab) {
      return absl::InvalidArgumentError(absl::StrCat("batch row ", i, ": token ", row.token.value,
                                                     " is outside 0 .. ", config.vocab - 1,
                                                     "; was the text encoded with this model's tokenizer?"));
    }
    if (row.want_logits) wanted.push_back(static_cast<int64_t>(i));
    if (i > 0 && row.state == batch[i - 1].state) {
      ++pass.segments.back().count;
      continue;
    }
    if (!row.state->Fits(config)) {
      return absl::InvalidArgumentError(
          absl::StrCat("batch row ", i, ": its state was made for a model of another configuration"));
    }
    pass.segments.push_back({row.state, static_cast<int64_t>(i), 1, row.state->position()});
    seen.push_back(row.state);
  }
  std::sort(seen.begin(), seen.end(), std::less<>());
  if (std::adjacent_find(seen.begin(), seen.end()) != seen.end()) {
    return absl::InvalidArgumentError(
        "batch: rows of one session are not adjacent; put a session's rows together, in order");
  }
  return absl::OkStatus();
}

absl::Status Decoder::Begin(std::span<const BatchRow> rows) {
  Pass& pass = impl_->pass;
  pass.rows = 0;
  if (absl::Status status = impl_->SetSegments(rows); !status.ok()) return status;
  pass.Resize(static_cast<int64_t>(rows.size()));
  const ModelWeights& weights = pass.weights;
  pass.ForRows(pass.config.d, [&](int64_t row) {
    const size_t token = rows[static_cast<size_t>(row)].token.index();
    const int8_t* embedding = weights.embedding.base + static_cast<int64_t>(token) * weights.embedding.stride;
    const float scale = weights.embedding_scale[token];
    float* x = pass.X(row);
    for (int64_t i = 0; i < pass.config.d; ++i) x[i] = static_cast<float>(embedding[i]) * scale;
  });
  impl_->attention.Begin();
  return absl::OkStatus();
}

std::vector<ExpertJob> Decoder::RunLayer(LayerId layer) {
  Pass& pass = impl_->pass;
  const LayerWeights& weights = pass.weights.layers[layer.index()];
  const bool attention = pass.config.IsAttention(layer.value);
  if (attention) {
    impl_->attention.Run(weights, layer);
  } else {
    impl_->pdr.Run(weights, layer);
  }
  const QuantizedRows h = pass.NormAndQuantize(weights.norm2);
  if (attention) {
    impl_->ffn.Run(weights, h);
    return {};
  }
  impl_->routes.resize(static_cast<size_t>(pass.rows));
  const int64_t d = pass.config.d, experts = pass.config.num_experts();
  pass.ForRows((3 * d + 10 * experts) * Pass::kFloatCost, [&](int64_t row) {
    const TorusPoint z = Route(pass.ops, weights.route, pass.H(row), d);
    impl_->routes[static_cast<size_t>(row)] = NearestExpert(z, weights.positions, experts);
  });
  if (impl_->reroute) impl_->reroute(layer, {impl_->routes.data(), impl_->routes.size()});
  return impl_->GroupByExpert(layer, h);
}

std::span<const ExpertId> Decoder::PredictRoutes(LayerId layer) {
  Pass& pass = impl_->pass;
  const LayerWeights& weights = pass.weights.layers[layer.index()];
  const int64_t d = pass.config.d, experts = pass.config.num_experts(), width = PadTo(d, 16);
  impl_->predicted.resize(static_cast<size_t>(pass.rows));
  float* normed = impl_->normed.Reserve(pass.rows * width);
  pass.ForRows((5 * d + 10 * experts) * Pass::kFloatCost, [&](int64_t row) {
    float* h = normed + row * width;
    pass.ops.rms_norm(pass.X(row), weights.norm2, d, h);
    impl_->predicted[static_cast<size_t>(row)] =
        NearestExpert(Route(pass.ops, weights.route, h, d), weights.positions, experts);
  });
  return impl_->predicted;
}

void Decoder::set_reroute(Reroute reroute) { impl_->reroute = std::move(reroute); }

std::vector<ExpertJob> Decoder::Impl::GroupByExpert(LayerId layer, const QuantizedRows& h) {
  job_of_expert.assign(static_cast<size_t>(pass.config.num_experts()), -1);
  for (ExpertId expert : routes) job_of_expert[expert.index()] = 0;
  std::vector<ExpertJob> jobs;
  for (size_t e = 0; e < job_of_expert.size(); ++e) {
    if (job_of_expert[e] < 0) continue;
    job_of_expert[e] = static_cast<int32_t>(jobs.size());
    jobs.push_back({layer, ExpertId(static_cast<int32_t>(e)), {}, h.q, h.stride, h.scale});
  }
  for (size_t row = 0; row < routes.size(); ++row) {
    jobs[static_cast<size_t>(job_of_expert[routes[row].index()])].rows.push_back(static_cast<int32_t>(row));
  }
  return jobs;
}

void Decoder::AddExpertOutput(const ExpertJob& job, const float* out) {
  const int64_t d = impl_->pass.config.d;
  for (int32_t row : job.rows) {
    impl_->pass.ops.add(impl_->pass.X(row), out, d);
    out += d;
  }
}

std::span<const float> Decoder::Finish() {
  Impl& impl = *impl_;
  Pass& pass = impl.pass;
  const ModelWeights& weights = pass.weights;
  const int64_t d = pass.config.d, padded = weights.embedding.cols_padded, vocab = pass.config.vocab;
  const int64_t count = static_cast<int64_t>(impl.wanted.size());
  for (const Segment& segment : pass.segments) segment.state->set_position(segment.position + segment.count);
  if (count == 0) return {};

  const int64_t width = PadTo(d, 16);
  float* y = impl.normed.Reserve(count * width);
  int8_t* q = impl.logit_q.Reserve(count * padded);
  float* scale = impl.logit_scale.Reserve(count);
  pass.pool.Run(count, Pass::Grain(2 * d * Pass::kFloatCost), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      pass.ops.rms_norm(pass.X(impl.wanted[static_cast<size_t>(i)]), weights.norm_out, d, y + i * width);
      pass.ops.quantize(y + i * width, d, padded, q + i * padded, scale + i);
    }
  });
  float* logits = impl.logits.Reserve(count * vocab);
  int32_t* acc = impl.logit_acc.Reserve(count * vocab);
  pass.pool.Run(vocab, Pass::Grain(count * padded), [&](int64_t begin, int64_t end) {
    pass.ops.int8(weights.embedding, q, padded, static_cast<int>(count), acc, vocab, begin, end);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t at = i * vocab + begin;
      pass.ops.scale_rows(acc + at, weights.embedding_scale + begin, scale[i], end - begin, logits + at);
    }
  });
  return {logits, static_cast<size_t>(count * vocab)};
}

std::span<const ExpertId> Decoder::routes() const { return impl_->routes; }

const kernels::Ops& Decoder::ops() const { return impl_->pass.ops; }

namespace {

// The outputs of a layer's jobs, one after the other in `out`. Many small jobs split by job, few large ones
// within.
absl::Status RunJobs(const ModelConfig& config, ExpertSource& source, WorkerPool& pool,
                     const kernels::Ops& ops, std::span<const ExpertJob> jobs,
                     std::span<const int64_t> first_row, float* out) {
  const auto run = [&](size_t j) -> absl::Status {
    absl::StatusOr<ExpertTiles> tiles = source.Acquire(jobs[j].layer, jobs[j].expert);
    if (!tiles.ok()) return tiles.status();
    return RunExpert(config, *tiles, jobs[j], pool, out + first_row[j] * config.d, ops);
  };
  const int64_t count = static_cast<int64_t>(jobs.size());
  if (count < 2 * pool.threads()) {
    for (size_t j = 0; j < jobs.size(); ++j) {
      if (absl::Status status = run(j); !status.ok()) return status;
    }
    return absl::OkStatus();
  }
  std::vector<absl::Status> statuses(jobs.size());
  const int64_t rows = first_row.back() + static_cast<int64_t>(jobs.back().rows.size());
  pool.Run(count, Pass::Grain(3 * rows * config.d * config.f / count), [&](int64_t begin, int64_t end) {
    for (int64_t j = begin; j < end; ++j) statuses[static_cast<size_t>(j)] = run(static_cast<size_t>(j));
  });
  for (absl::Status& status : statuses) {
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::span<const float>> RunBatch(Decoder& decoder, const ModelConfig& config,
                                                ExpertSource& source, WorkerPool& pool,
                                                std::span<const BatchRow> rows) {
  if (absl::Status status = decoder.Begin(rows); !status.ok()) return status;
  float* out = decoder.impl_->expert_out.Reserve(static_cast<int64_t>(rows.size()) * config.d);
  std::vector<int64_t>& first_row = decoder.impl_->job_first_row;
  for (int32_t layer = 0; layer < config.layers; ++layer) {
    const std::vector<ExpertJob> jobs = decoder.RunLayer(LayerId(layer));
    if (jobs.empty()) continue;
    first_row.assign(1, 0);
    for (const ExpertJob& job : jobs)
      first_row.push_back(first_row.back() + static_cast<int64_t>(job.rows.size()));
    first_row.pop_back();
    absl::Status status = RunJobs(config, source, pool, decoder.ops(), jobs, first_row, out);
    if (!status.ok()) return status;
    for (size_t j = 0; j < jobs.size(); ++j) decoder.AddExpertOutput(jobs[j], out + first_row[j] * config.d);
  }
  return decoder.Finish();
}

}  // namespace omni
