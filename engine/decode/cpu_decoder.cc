#include "engine/decode/cpu_decoder.h"

#include <algorithm>
#include <utility>

#include <absl/strings/str_cat.h>

#include "engine/decode/head_change.h"
#include "engine/decode/lanes.h"
#include "engine/decode/pass.h"
#include "engine/decode/router.h"

namespace omni {

struct CpuDecoder::Impl {
  Impl(const ModelWeights& weights, WorkerPool& pool, const kernels::Ops& kernel_ops)
      : lanes(weights, pool, kernel_ops), pass(lanes.whole().pass) {}

  absl::Status SetSegments(std::span<const BatchRow> batch);
  void SetPolicies(std::span<const BatchRow> batch);
  void SetAdapters(std::span<const BatchRow> batch);
  QuantizedRows RunLane(Lane& lane, LayerId layer);
  void RouteRows(Lane& lane, LayerId layer, const LayerWeights& weights);
  ExpertId ExpertAt(const TorusPoint& z, const LayerWeights& weights, TokenId token) const;
  void AskPolicies(LayerId layer, const LayerWeights& weights);
  std::vector<ExpertJob> GroupByExpert(LayerId layer, const QuantizedRows& h);
  const RowAdapter* AdapterOf(int64_t i) const {  // of the i-th wanted row
    return adapters.empty() ? nullptr : adapters[static_cast<size_t>(i)];
  }

  Lanes lanes;
  Pass& pass;                          // of the whole batch
  std::vector<TokenId> tokens;         // by row
  std::vector<int64_t> wanted;         // rows that want logits, then those that want only their hidden state
  std::vector<int64_t> only_hidden;    // of a batch that is being taken in
  int64_t with_logits = 0;             // of `wanted`
  std::vector<RoutePolicy*> policies;  // by row; empty: no row has one
  std::vector<const RowAdapter*> adapters;  // of `wanted`; empty: no row has one
  std::vector<ExpertId> routes, predicted;
  std::vector<TorusPoint> points;  // by row, for the policies
  std::vector<ExpertJob> jobs;     // of the layer run last
  std::vector<int32_t> job_of_expert;
  std::vector<const SessionState*> seen;
  int64_t hidden_width = 0;  // d padded to 16
  Scratch<float> hidden, guessed, logit_scale, logits;
  Scratch<int8_t> logit_q;
  Scratch<int32_t> logit_acc;
};

namespace {

absl::Status TwoAdapters(size_t row) {
  return absl::InvalidArgumentError(
      absl::StrCat("batch row ", row, ": another adapter than the row before it, of the same session, has"));
}

}  // namespace

CpuDecoder::CpuDecoder(const ModelWeights& weights, WorkerPool& pool, const kernels::Ops& ops)
    : impl_(std::make_unique<Impl>(weights, pool, ops)) {}

CpuDecoder::~CpuDecoder() = default;

absl::Status CpuDecoder::Impl::SetSegments(std::span<const BatchRow> batch) {
  const ModelConfig& config = pass.config;
  if (batch.empty()) return absl::InvalidArgumentError("batch: it has no rows; give at least one");
  pass.segments.clear();
  wanted.clear();
  only_hidden.clear();
  seen.clear();
  for (size_t i = 0; i < batch.size(); ++i) {
    const BatchRow& row = batch[i];
    if (row.state == nullptr) return absl::InvalidArgumentError(absl::StrCat("batch row ", i, ": no state"));
    if (row.token.value < 0 || row.token.value >= config.vocab) {
      return absl::InvalidArgumentError(absl::StrCat("batch row ", i, ": token ", row.token.value,
                                                     " is outside 0 .. ", config.vocab - 1,
                                                     "; was the text encoded with this model's tokenizer?"));
    }
    if (row.want_logits) {
      wanted.push_back(static_cast<int64_t>(i));
    } else if (row.want_hidden) {
      only_hidden.push_back(static_cast<int64_t>(i));
    }
    const bool beside = i > 0 && row.state == batch[i - 1].state;
    if (beside) {
      if (row.adapter != batch[i - 1].adapter) return TwoAdapters(i);
      if (row.aside && !batch[i - 1].aside) {
        return absl::InvalidArgumentError(
            absl::StrCat("batch row ", i, ": it is aside and comes after a row of its session that is not"));
      }
      if (!batch[i - 1].aside) {
        ++pass.segments.back().count;
        continue;
      }
    }
    if (!row.state->Fits(config)) {
      return absl::InvalidArgumentError(
          absl::StrCat("batch row ", i, ": its state was made for a model of another configuration"));
    }
    if (absl::Status s = row.state->BringHome(); !s.ok()) return s;
    pass.segments.push_back(
        {row.state, static_cast<int64_t>(i), 1, row.state->position(), row.adapter, row.aside});
    if (!beside) seen.push_back(row.state);
  }
  with_logits = static_cast<int64_t>(wanted.size());
  wanted.insert(wanted.end(), only_hidden.begin(), only_hidden.end());
  std::sort(seen.begin(), seen.end(), std::less<>());
  if (std::adjacent_find(seen.begin(), seen.end()) != seen.end()) {
    return absl::InvalidArgumentError(
        "batch: rows of one session are not adjacent; put a session's rows together, in order");
  }
  return absl::OkStatus();
}

void CpuDecoder::Impl::SetPolicies(std::span<const BatchRow> batch) {
  policies.clear();
  if (std::none_of(batch.begin(), batch.end(), [](const BatchRow& row) { return row.policy != nullptr; })) {
    return;
  }
  for (const BatchRow& row : batch) policies.push_back(row.policy);
  points.resize(batch.size());
}

void CpuDecoder::Impl::SetAdapters(std::span<const BatchRow> batch) {
  adapters.clear();
  if (std::none_of(batch.begin(), batch.end(), [](const BatchRow& row) { return row.adapter != nullptr; })) {
    return;
  }
  for (int64_t row : wanted) adapters.push_back(batch[static_cast<size_t>(row)].adapter);
}

absl::Status CpuDecoder::Begin(std::span<const BatchRow> rows) {
  Pass& pass = impl_->pass;
  pass.rows = 0;
  if (absl::Status status = impl_->SetSegments(rows); !status.ok()) return status;
  impl_->SetPolicies(rows);
  impl_->SetAdapters(rows);
  impl_->tokens.clear();
  for (const BatchRow& row : rows) impl_->tokens.push_back(row.token);
  impl_->jobs.clear();
  impl_->routes.resize(rows.size());
  pass.Resize(static_cast<int64_t>(rows.size()));
  impl_->lanes.Cut();
  const ModelWeights& weights = pass.weights;
  pass.ForRows(pass.config.d, [&](int64_t row) {
    const size_t token = rows[static_cast<size_t>(row)].token.index();
    const int8_t* embedding = weights.embedding.base + static_cast<int64_t>(token) * weights.embedding.stride;
    const float scale = weights.embedding_scale[token];
    float* x = pass.X(row);
    for (int64_t i = 0; i < pass.config.d; ++i) x[i] = static_cast<float>(embedding[i]) * scale;
  });
  impl_->lanes.For([](Lane& lane) { lane.attention.Begin(); });
  return absl::OkStatus();
}

bool CpuDecoder::StartLayer(LayerId layer, const Done&) {
  Impl& impl = *impl_;
  impl.jobs.clear();
  QuantizedRows h;  // of the whole batch
  impl.lanes.For([&](Lane& lane) {
    const QuantizedRows rows = impl.RunLane(lane, layer);
    if (lane.first_row == 0) h = rows;
  });
  if (impl.pass.config.IsAttention(layer.value)) return true;
  if (!impl.policies.empty()) impl.AskPolicies(layer, impl.pass.weights.layers[layer.index()]);
  impl.jobs = impl.GroupByExpert(layer, h);
  return true;
}

// All of a layer but its experts.
QuantizedRows CpuDecoder::Impl::RunLane(Lane& lane, LayerId layer) {
  const LayerWeights& weights = pass.weights.layers[layer.index()];
  const bool with_attention = pass.config.IsAttention(layer.value);
  if (with_attention) {
    lane.attention.Run(weights, layer);
  } else {
    lane.pdr.Run(weights, layer);
  }
  const QuantizedRows h = lane.pass.NormAndQuantizeAll(weights.norm2, layer, &LayerChange::ffn_gain);
  if (with_attention) {
    lane.ffn.Run(weights, h);
  } else {
    RouteRows(lane, layer, weights);
  }
  return h;
}

// The expert for a row whose router sees `z`.
ExpertId CpuDecoder::Impl::ExpertAt(const TorusPoint& z, const LayerWeights& weights, TokenId token) const {
  const ModelConfig& config = pass.config;
  const ExpertId nearest = NearestExpert(z, weights.positions, weights.route_bias, config.num_experts());
  if (weights.members == nullptr) return nearest;
  return config.ExpertOf(config.RegionOf(nearest), weights.members[token.index()]);
}

void CpuDecoder::Impl::RouteRows(Lane& lane, LayerId layer, const LayerWeights& weights) {
  const int64_t d = pass.config.d, experts = pass.config.num_experts();
  const bool keep_points = !policies.empty();
  if (pass.config.has_slow_state()) lane.slow.Step(layer);
  lane.pass.ForRows((3 * d + 10 * experts) * Pass::kFloatCost, [&](int64_t row) {
    const float* seen = pass.config.has_slow_state() ? lane.slow.Before(row) : lane.pass.H(row);
    const TorusPoint z = Route(pass.ops, weights.route, seen, d);
    const auto at = static_cast<size_t>(lane.first_row + row);
    routes[at] = ExpertAt(z, weights, tokens[at]);
    if (keep_points) points[at] = z;
  });
}

void CpuDecoder::Impl::AskPolicies(LayerId layer, const LayerWeights& weights) {
  for (const Segment& segment : pass.segments) {
    for (int64_t i = 0; i < segment.count; ++i) {
      const auto row = static_cast<size_t>(segment.first_row + i);
      if (policies[row] == nullptr) continue;
      routes[row] =
          policies[row]->Choose({layer, segment.position + i, points[row], routes[row], weights.positions,
                                 pass.config.num_experts(), weights.route_bias, &pass.config});
    }
  }
}

absl::StatusOr<std::vector<ExpertJob>> CpuDecoder::TakeJobs() { return std::exchange(impl_->jobs, {}); }

std::span<const ExpertId> CpuDecoder::PredictRoutes(LayerId layer) {
  Pass& pass = impl_->pass;
  const LayerWeights& weights = pass.weights.layers[layer.index()];
  const int64_t d = pass.config.d, experts = pass.config.num_experts(), width = PadTo(d, 16);
  impl_->predicted.resize(static_cast<size_t>(pass.rows));
  float* normed = impl_->guessed.Reserve(pass.rows * width);
  pass.ForRows((5 * d + 10 * experts) * Pass::kFloatCost, [&](int64_t row) {
    float* h = normed + row * width;
    pass.ops.rms_norm(pass.X(row), weights.norm2, d, h);
    impl_->predicted[static_cast<size_t>(row)] = impl_->ExpertAt(
        Route(pass.ops, weights.route, h, d), weights, impl_->tokens[static_cast<size_t>(row)]);
  });
  return impl_->predicted;
}

std::span<const ExpertId> CpuDecoder::KnownRoutes(LayerId layer) {
  Impl& impl = *impl_;
  impl.predicted.clear();
  if (!impl.pass.config.has_slow_state()) return impl.predicted;
  const LayerWeights& weights = impl.pass.weights.layers[layer.index()];
  for (const Segment& segment : impl.pass.segments) {
    const TorusPoint z = Route(impl.pass.ops, weights.route, segment.state->slow(layer), impl.pass.config.d);
    impl.predicted.push_back(impl.ExpertAt(z, weights, impl.tokens[static_cast<size_t>(segment.first_row)]));
  }
  return impl.predicted;
}

std::span<const ExpertId> CpuDecoder::NextRoutes(LayerId layer) {
  Impl& impl = *impl_;
  const ModelConfig& config = impl.pass.config;
  impl.predicted.clear();
  if (!config.has_slow_state()) return impl.predicted;
  const LayerWeights& weights = impl.pass.weights.layers[layer.index()];
  for (const Segment& segment : impl.pass.segments) {
    const TorusPoint z = Route(impl.pass.ops, weights.route, segment.state->slow(layer), config.d);
    const ExpertId nearest = NearestExpert(z, weights.positions, weights.route_bias, config.num_experts());
    impl.predicted.push_back(weights.members == nullptr ? nearest
                                                        : config.ExpertOf(config.RegionOf(nearest), 0));
  }
  return impl.predicted;
}

std::vector<ExpertJob> CpuDecoder::Impl::GroupByExpert(LayerId layer, const QuantizedRows& h) {
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

void CpuDecoder::AddExpertOutput(const ExpertJob& job, const float* out) {
  const int64_t d = impl_->pass.config.d;
  for (int32_t row : job.rows) {
    impl_->pass.ops.add(impl_->pass.X(row), out, d);
    out += d;
  }
}

bool CpuDecoder::StartHidden(const Done&) {
  Impl& impl = *impl_;
  Pass& pass = impl.pass;
  const int64_t d = pass.config.d, count = static_cast<int64_t>(impl.wanted.size());
  for (const Segment& segment : pass.segments) {
    if (!segment.aside) segment.state->set_position(segment.position + segment.count);
  }
  impl.hidden_width = PadTo(d, 16);
  float* y = impl.hidden.Reserve(count * impl.hidden_width);
  pass.pool.Run(count, Pass::Grain(d * Pass::kFloatCost), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      pass.ops.rms_norm(pass.X(impl.wanted[static_cast<size_t>(i)]), pass.weights.norm_out, d,
                        y + i * impl.hidden_width);
      if (const RowAdapter* adapter = impl.AdapterOf(i); adapter != nullptr)
        ChangeHidden(adapter->head, pass.ops, d, y + i * impl.hidden_width);
    }
  });
  return true;
}

std::span<float> CpuDecoder::hidden(int64_t i) {
  return {impl_->hidden.data() + i * impl_->hidden_width, static_cast<size_t>(impl_->pass.config.d)};
}

bool CpuDecoder::StartLogits(const Done&) {
  Impl& impl = *impl_;
  Pass& pass = impl.pass;
  const ModelWeights& weights = pass.weights;
  const int64_t d = pass.config.d, padded = weights.embedding.cols_padded, vocab = pass.config.vocab;
  const int64_t count = impl.with_logits;
  if (count == 0) return true;
  int8_t* q = impl.logit_q.Reserve(count * padded);
  float* scale = impl.logit_scale.Reserve(count);
  pass.pool.Run(count, Pass::Grain(d * Pass::kFloatCost), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      pass.ops.quantize(impl.hidden.data() + i * impl.hidden_width, d, padded, q + i * padded, scale + i);
  });
  float* logits = impl.logits.Reserve(count * vocab);
  int32_t* acc = impl.logit_acc.Reserve(count * vocab);
  pass.pool.Run(vocab, Pass::Grain(count * padded), [&](int64_t begin, int64_t end) {
    pass.ops.int8(weights.embedding, q, padded, static_cast<int>(count), acc, vocab, begin, end);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t at = i * vocab + begin;
      pass.ops.scale_rows(acc + at, weights.embedding_scale + begin, scale[i], end - begin, logits + at);
      const RowAdapter* const adapter = impl.AdapterOf(i);
      if (adapter != nullptr && adapter->head.bias != nullptr)
        pass.ops.add(logits + at, adapter->head.bias + begin, end - begin);
    }
  });
  return true;
}

absl::StatusOr<std::span<const float>> CpuDecoder::logits() {
  const int64_t count = impl_->with_logits * impl_->pass.config.vocab;
  return std::span<const float>(impl_->logits.data(), static_cast<size_t>(count));
}

std::span<const ExpertId> CpuDecoder::routes() const { return impl_->routes; }

const kernels::Ops& CpuDecoder::ops() const { return impl_->pass.ops; }

}  // namespace omni
