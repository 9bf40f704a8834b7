#include "engine/decode/device_decoder.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include <absl/strings/str_cat.h>

#include "engine/decode/device_pass.h"
#include "engine/decode/router.h"

namespace omni {
namespace {

namespace device = kernels::device;
using ExpertsAt = DeviceSettings::ExpertsAt;

absl::Status CheckSupported(const ModelConfig& c, const DeviceSettings& settings) {
  if (c.d > device::kMaxNormed) {
    return absl::UnimplementedError(
        absl::StrCat("device: rows of d = ", c.d, " are wider than its norms take, ", device::kMaxNormed));
  }
  if (c.window > device::kMaxWindow) {
    return absl::UnimplementedError(
        absl::StrCat("device: a window of ", c.window, " positions is longer than ", device::kMaxWindow));
  }
  if (settings.max_rows < 1 || settings.max_rows > device::kMaxRows) {
    return absl::InvalidArgumentError(absl::StrCat("device: batches of ", settings.max_rows,
                                                   " rows; between 1 and ", device::kMaxRows, " can be had"));
  }
  return absl::OkStatus();
}

}  // namespace

struct DeviceDecoder::Impl {
  explicit Impl(const ModelWeights& w, const DeviceSettings& s) : weights(w), config(w.config), settings(s) {}
  ~Impl() {
    if (pool != nullptr) pool->Enter();
    if (step != nullptr) device::DeleteGraph(step);
  }

  absl::StatusOr<ExpertsAt> Place(ExpertSource* source) const;
  absl::Status SetRows(std::span<const BatchRow> rows);
  void Layer(int64_t l);
  void StreamExperts(int64_t l);
  void WholeStep();
  void StreamedStep();
  void AskPolicies(int64_t l);
  absl::Status Synchronize(const char* what);
  void LogitsHere() const;
  void Note(const absl::Status& status) { error.Update(status); }
  std::span<const ExpertId> GuessedRoutes(int64_t l, bool from_slow, bool with_members);

  const ModelWeights& weights;
  const ModelConfig& config;
  const DeviceSettings settings;
  std::shared_ptr<DevicePool> pool;
  std::unique_ptr<DevicePass> pass;
  std::unique_ptr<DeviceExperts> experts;  // null if they are outside
  ExpertsAt at = ExpertsAt::kOutside;

  std::vector<TokenId> tokens;
  std::vector<DeviceRows> segments;
  std::vector<RoutePolicy*> policies;  // by row; empty: no row has one
  std::vector<int64_t> wanted;         // rows that want logits, then those that want only their hidden state
  int64_t with_logits = 0;
  device::Graph step = nullptr;  // all layers of one row, its hidden state, its routes and its logits
  int64_t graphs = 0;
  bool stepped = false;              // all layers of this batch are on the stream already
  bool whole = false;                // and the logits of its only row as well
  bool hidden_taken = false;         // it may have been changed
  std::vector<float> hidden_before;  // of a whole step: as it was
  bool outputs_pending = false;
  int64_t layer = -1;  // run last
  absl::Status error;  // of this pass
  std::vector<ExpertJob> jobs;
  std::vector<ExpertId> routes, guessed;
};

DeviceDecoder::DeviceDecoder(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
DeviceDecoder::~DeviceDecoder() = default;

absl::StatusOr<std::unique_ptr<DeviceDecoder>> DeviceDecoder::Create(const ModelWeights& weights,
                                                                     ExpertSource* source,
                                                                     const DeviceSettings& settings,
                                                                     std::shared_ptr<DevicePool> shared) {
  if (absl::Status s = CheckSupported(weights.config, settings); !s.ok()) return s;
  auto impl = std::make_unique<Impl>(weights, settings);
  impl->pool = std::move(shared);
  if (impl->pool == nullptr) {
    absl::StatusOr<std::shared_ptr<DevicePool>> pool = DevicePool::Open(settings.device, settings.memory_cap);
    if (!pool.ok()) return pool.status();
    impl->pool = *std::move(pool);
  }
  impl->pool->Enter();
  absl::StatusOr<std::unique_ptr<DevicePass>> pass =
      DevicePass::Make(weights, *impl->pool, settings.max_rows);
  if (!pass.ok()) return pass.status();
  impl->pass = *std::move(pass);
  const absl::StatusOr<ExpertsAt> at = impl->Place(source);
  if (!at.ok()) return at.status();
  impl->at = *at;
  if (*at != ExpertsAt::kOutside) {
    absl::StatusOr<DeviceExperts> experts =
        *at == ExpertsAt::kResident
            ? DeviceExperts::Resident(weights.config, *source, *impl->pool)
            : DeviceExperts::Streamed(weights.config, *source, *impl->pool, settings.source_is_pinned);
    if (!experts.ok()) return experts.status();
    impl->experts = std::make_unique<DeviceExperts>(*std::move(experts));
  }
  if (absl::Status s = impl->Synchronize("preparing"); !s.ok()) return s;
  return std::unique_ptr<DeviceDecoder>(new DeviceDecoder(std::move(impl)));
}

absl::StatusOr<ExpertsAt> DeviceDecoder::Impl::Place(ExpertSource* source) const {
  const bool or_streamed = settings.experts == ExpertsAt::kResidentOrStreamed;
  if (!or_streamed && settings.experts != ExpertsAt::kResidentOrOutside) return settings.experts;
  const ExpertsAt other = or_streamed ? ExpertsAt::kStreamed : ExpertsAt::kOutside;
  if (!source->resident()) return other;
  const absl::StatusOr<int64_t> bytes = DeviceExperts::BytesForResident(config, *source);
  if (!bytes.ok()) return bytes.status();
  return *bytes + settings.sessions * pass->state_bytes() <= pool->left() ? ExpertsAt::kResident : other;
}

absl::Status DeviceDecoder::Impl::Synchronize(const char* what) {
  return DeviceStatus(device::Synchronize(pass->stream()), what);
}

absl::Status DeviceDecoder::Impl::SetRows(std::span<const BatchRow> rows) {
  if (rows.empty()) return absl::InvalidArgumentError("batch: it has no rows; give at least one");
  if (static_cast<int64_t>(rows.size()) > settings.max_rows) {
    return absl::ResourceExhaustedError(
        absl::StrCat("batch: ", rows.size(), " rows, the device's decoder was made for ", settings.max_rows));
  }
  tokens.clear();
  segments.clear();
  wanted.clear();
  policies.clear();
  std::vector<int64_t> only_hidden;
  for (size_t i = 0; i < rows.size(); ++i) {
    const BatchRow& row = rows[i];
    if (row.state == nullptr) return absl::InvalidArgumentError(absl::StrCat("batch row ", i, ": no state"));
    if (row.aside) {
      return absl::UnimplementedError(
          absl::StrCat("batch row ", i, ": it is aside, which no device takes; give it a copy of the state"));
    }
    if (row.adapter != nullptr) {
      return absl::UnimplementedError(
          absl::StrCat("batch row ", i, ": it has an adapter, which no device applies; the CPU does"));
    }
    if (row.token.value < 0 || row.token.value >= config.vocab) {
      return absl::InvalidArgumentError(absl::StrCat("batch row ", i, ": token ", row.token.value,
                                                     " is outside 0 .. ", config.vocab - 1,
                                                     "; was the text encoded with this model's tokenizer?"));
    }
    tokens.push_back(row.token);
    if (row.policy != nullptr) policies.resize(rows.size());
    if (row.want_logits) {
      wanted.push_back(static_cast<int64_t>(i));
    } else if (row.want_hidden) {
      only_hidden.push_back(static_cast<int64_t>(i));
    }
    if (i > 0 && row.state == rows[i - 1].state) {
      ++segments.back().count;
      segments.back().stays = segments.back().stays && !row.want_state;
      continue;
    }
    if (!row.state->Fits(config)) {
      return absl::InvalidArgumentError(
          absl::StrCat("batch row ", i, ": its state was made for a model of another configuration"));
    }
    for (const DeviceRows& other : segments) {
      if (other.state != row.state) continue;
      return absl::InvalidArgumentError(
          "batch: rows of one session are not adjacent; put a session's rows together, in order");
    }
    segments.push_back({row.state, static_cast<int32_t>(i), 1, row.state->position(),
                        settings.states_stay && !row.want_state});
  }
  for (size_t i = 0; i < policies.size(); ++i) policies[i] = rows[i].policy;
  with_logits = static_cast<int64_t>(wanted.size());
  wanted.insert(wanted.end(), only_hidden.begin(), only_hidden.end());
  return absl::OkStatus();
}

absl::Status DeviceDecoder::Begin(std::span<const BatchRow> rows) {
  Impl& impl = *impl_;
  if (absl::Status s = impl.SetRows(rows); !s.ok()) return s;
  impl.pool->Enter();
  impl.error = absl::OkStatus();
  impl.stepped = impl.whole = impl.hidden_taken = impl.outputs_pending = false;
  impl.layer = -1;
  impl.jobs.clear();
  if (absl::Status s = impl.pass->Begin(impl.tokens, impl.segments); !s.ok()) return s;
  const bool resident = impl.experts != nullptr && impl.experts->resident();
  const bool whole = impl.settings.graphs && resident && impl.policies.empty() && impl.pass->plain_step();
  const bool known = impl.experts != nullptr && !resident && impl.policies.empty() &&
                     impl.config.has_slow_state() && impl.pass->plain_step();
  if (whole) {
    impl.WholeStep();
  } else if (known) {
    impl.StreamedStep();
  } else {
    impl.pass->Embed();
  }
  return impl.error;
}

// The graph reads tokens, positions and states where every batch has them, so that one is enough.
void DeviceDecoder::Impl::WholeStep() {
  stepped = whole = true;
  if (step == nullptr) {
    Note(DeviceStatus(device::BeginGraph(pass->stream()), "recording a token"));
    if (!error.ok()) return;
    if (config.has_slow_state()) pass->RouteAhead();
    pass->Embed();
    for (int64_t l = 0; l < config.layers; ++l) {
      pass->Layer(l);
      if (!config.IsAttention(l)) pass->AddExperts(l, experts->Of(LayerId(static_cast<int32_t>(l))));
    }
    pass->Hidden();
    pass->CopyRoutes();
    pass->Logits(std::array<int64_t, 1>{0});
    Note(DeviceStatus(device::EndGraph(pass->stream(), &step), "recording a token"));
    if (!error.ok()) return;
    ++graphs;
  }
  Note(DeviceStatus(device::Launch(step, pass->stream()), "a token"));
}

bool DeviceDecoder::StartLayer(LayerId layer, const Done&) {
  Impl& impl = *impl_;
  impl.pool->Enter();
  impl.layer = layer.value;
  impl.jobs.clear();
  if (!impl.stepped && impl.error.ok()) impl.Layer(layer.value);
  return true;
}

void DeviceDecoder::Impl::Layer(int64_t l) {
  if (std::exchange(outputs_pending, false)) pass->AddOutputs();
  pass->Layer(l);
  if (config.IsAttention(l)) return;
  if (!policies.empty()) AskPolicies(l);
  if (experts == nullptr) {
    pass->CopyRoutes();
    pass->CopyExpertInputs();
  } else if (experts->resident()) {
    pass->AddExperts(l, experts->Of(LayerId(static_cast<int32_t>(l))));
  } else {
    StreamExperts(l);
  }
}

// Which experts is known when the router has run.
void DeviceDecoder::Impl::StreamExperts(int64_t l) {
  pass->CopyRoutes();
  Note(Synchronize("a layer"));
  if (!error.ok()) return;
  const std::span<const int32_t> to(pass->routes_out() + l * settings.max_rows, tokens.size());
  std::vector<int32_t> used(to.begin(), to.end());
  std::sort(used.begin(), used.end());
  used.erase(std::unique(used.begin(), used.end()), used.end());
  for (const int32_t expert : used) {
    const absl::StatusOr<device::Experts> here =
        experts->Brought(LayerId(static_cast<int32_t>(l)), ExpertId(expert), pass->stream());
    if (!here.ok()) return Note(here.status());
    pass->AddExperts(l, *here);
  }
}

// One row whose routes the slow states know: all layers are put on the stream at once, and while an expert is
// computed the next one comes.
void DeviceDecoder::Impl::StreamedStep() {
  stepped = true;
  const absl::StatusOr<std::vector<int32_t>> known = pass->KnownRoutes();
  if (!known.ok()) return Note(known.status());
  for (int64_t l = 0; l < config.layers; ++l) {
    if (!config.IsAttention(l))
      experts->Foresee(LayerId(static_cast<int32_t>(l)), ExpertId((*known)[static_cast<size_t>(l)]));
  }
  const auto bring = [&](int64_t l) {
    while (l < config.layers && config.IsAttention(l)) ++l;
    if (l >= config.layers || !error.ok()) return;
    Note(experts->Bring(LayerId(static_cast<int32_t>(l)), ExpertId((*known)[static_cast<size_t>(l)]),
                        pass->stream()));
  };
  bring(0);
  pass->Embed();
  for (int64_t l = 0; l < config.layers && error.ok(); ++l) {
    if (config.IsAttention(l)) {
      pass->Layer(l);
      continue;
    }
    bring(l + 1);
    pass->Layer(l);
    const absl::StatusOr<device::Experts> here = experts->Brought(
        LayerId(static_cast<int32_t>(l)), ExpertId((*known)[static_cast<size_t>(l)]), pass->stream());
    if (!here.ok()) return Note(here.status());
    pass->AddExperts(l, *here);
  }
  pass->Hidden();
  pass->CopyRoutes();
}

void DeviceDecoder::Impl::AskPolicies(int64_t l) {
  const LayerWeights& layer_weights = weights.layers[static_cast<size_t>(l)];
  const absl::StatusOr<std::vector<float>> seen = pass->Seen();
  pass->CopyRoutes();
  Note(Synchronize("a layer"));
  if (!seen.ok()) return Note(seen.status());
  std::vector<int32_t> to(pass->routes_out() + l * settings.max_rows,
                          pass->routes_out() + l * settings.max_rows + tokens.size());
  for (const DeviceRows& segment : segments) {
    for (int32_t i = 0; i < segment.count; ++i) {
      const auto row = static_cast<size_t>(segment.first_row + i);
      if (policies[row] == nullptr) continue;
      const TorusPoint z = omni::Route(kernels::ActiveOps(), layer_weights.route,
                                       seen->data() + static_cast<int64_t>(row) * pass->width(), config.d);
      to[row] =
          policies[row]
              ->Choose({LayerId(static_cast<int32_t>(l)), segment.position + i, z, ExpertId(to[row]),
                        layer_weights.positions, config.num_experts(), layer_weights.route_bias, &config})
              .value;
    }
  }
  pass->SetRoutes(l, to);
}

absl::StatusOr<std::vector<ExpertJob>> DeviceDecoder::TakeJobs() {
  Impl& impl = *impl_;
  impl.pool->Enter();
  if (!impl.error.ok()) return impl.error;
  if (impl.experts != nullptr || impl.config.IsAttention(impl.layer)) return std::vector<ExpertJob>();
  if (absl::Status s = impl.Synchronize("a layer"); !s.ok()) return s;
  std::vector<ExpertJob> jobs;
  const int32_t* to = impl.pass->routes_out() + impl.layer * impl.settings.max_rows;
  for (int64_t e = 0; e < impl.config.num_experts(); ++e) {
    ExpertJob job{LayerId(static_cast<int32_t>(impl.layer)),
                  ExpertId(static_cast<int32_t>(e)),
                  {},
                  impl.pass->q_out(),
                  impl.pass->width(),
                  impl.pass->scale_out()};
    for (int row = 0; row < impl.pass->n(); ++row) {
      if (to[row] == e) job.rows.push_back(row);
    }
    if (!job.rows.empty()) jobs.push_back(std::move(job));
  }
  return jobs;
}

void DeviceDecoder::AddExpertOutput(const ExpertJob& job, const float* out) {
  Impl& impl = *impl_;
  for (int32_t row : job.rows) {
    std::copy_n(out, impl.config.d, impl.pass->outputs() + row * impl.pass->width());
    out += impl.config.d;
  }
  impl.outputs_pending = true;
}

bool DeviceDecoder::StartHidden(const Done&) {
  Impl& impl = *impl_;
  impl.pool->Enter();
  if (impl.error.ok()) {
    if (std::exchange(impl.outputs_pending, false)) impl.pass->AddOutputs();
    if (!impl.stepped) impl.pass->Hidden();
    impl.Note(impl.pass->StatesBack());
    impl.pass->CopyHiddenOut();
    impl.Note(impl.Synchronize("a pass"));
  }
  if (!impl.error.ok()) return true;
  if (impl.whole) {
    const float* row = impl.pass->hidden_out();
    impl.hidden_before.assign(row, row + impl.config.d);
  }
  impl.pass->TakeStates();
  for (const DeviceRows& segment : impl.segments)
    segment.state->set_position(segment.position + segment.count);
  return true;
}

std::span<float> DeviceDecoder::hidden(int64_t i) {
  impl_->hidden_taken = true;
  return {impl_->pass->hidden_out() + impl_->wanted[static_cast<size_t>(i)] * impl_->pass->width(),
          static_cast<size_t>(impl_->config.d)};
}

bool DeviceDecoder::StartLogits(const Done&) {
  Impl& impl = *impl_;
  impl.pool->Enter();
  if (impl.with_logits == 0 || !impl.error.ok()) return true;
  const auto row = std::as_bytes(std::span(impl.hidden_before));
  if (impl.whole && std::memcmp(impl.pass->hidden_out(), row.data(), row.size()) == 0)
    return true;  // they came with the layers
  if (impl.hidden_taken) impl.pass->CopyHiddenIn();
  impl.pass->Logits(std::span(impl.wanted).first(static_cast<size_t>(impl.with_logits)));
  // The sessions are a token further: if the device is lost here, their logits come from the hidden rows.
  if (!impl.Synchronize("logits").ok()) impl.LogitsHere();
  return true;
}

void DeviceDecoder::Impl::LogitsHere() const {
  const kernels::Ops& ops = kernels::ActiveOps();
  const int64_t padded = weights.embedding.cols_padded;
  std::vector<int8_t> q(static_cast<size_t>(padded));
  std::vector<int32_t> sums(static_cast<size_t>(config.vocab));
  for (int64_t i = 0; i < with_logits; ++i) {
    float scale = 0;
    ops.quantize(pass->hidden_out() + wanted[static_cast<size_t>(i)] * pass->width(), config.d, padded,
                 q.data(), &scale);
    ops.int8(weights.embedding, q.data(), padded, 1, sums.data(), config.vocab, 0, config.vocab);
    ops.scale_rows(sums.data(), weights.embedding_scale, scale, config.vocab,
                   pass->logits_out() + i * config.vocab);
  }
}

absl::StatusOr<std::span<const float>> DeviceDecoder::logits() {
  if (!impl_->error.ok()) return impl_->error;
  return std::span<const float>(impl_->pass->logits_out(),
                                static_cast<size_t>(impl_->with_logits * impl_->config.vocab));
}

std::span<const ExpertId> DeviceDecoder::routes() const {
  Impl& impl = *impl_;
  int64_t l = impl.layer;
  while (l > 0 && impl.config.IsAttention(l)) --l;
  impl.routes.clear();
  impl.pool->Enter();
  if (!impl.stepped) impl.pass->CopyRoutes();
  impl.Note(impl.Synchronize("routes"));
  if (!impl.error.ok()) return impl.routes;
  for (int row = 0; row < impl.pass->n(); ++row)
    impl.routes.push_back(ExpertId(impl.pass->routes_out()[l * impl.settings.max_rows + row]));
  return impl.routes;
}

std::span<const ExpertId> DeviceDecoder::Impl::GuessedRoutes(int64_t l, bool from_slow, bool with_members) {
  guessed.clear();
  if (!error.ok()) return guessed;
  pool->Enter();
  const absl::StatusOr<std::vector<int32_t>> ids = pass->Guess(l, from_slow, with_members);
  if (!ids.ok()) {
    Note(ids.status());
    return guessed;
  }
  for (const int32_t id : *ids) guessed.push_back(ExpertId(id));
  return guessed;
}

std::span<const ExpertId> DeviceDecoder::PredictRoutes(LayerId layer) {
  Impl& impl = *impl_;
  if (impl.stepped) {  // it is decided
    impl.guessed.clear();
    impl.pool->Enter();
    impl.Note(impl.Synchronize("routes"));
    if (!impl.error.ok()) return impl.guessed;
    impl.guessed.push_back(ExpertId(impl.pass->routes_out()[layer.value * impl.settings.max_rows]));
    return impl.guessed;
  }
  return impl.GuessedRoutes(layer.value, /*from_slow=*/false, /*with_members=*/true);
}

std::span<const ExpertId> DeviceDecoder::KnownRoutes(LayerId layer) {
  Impl& impl = *impl_;
  impl.guessed.clear();
  if (!impl.config.has_slow_state()) return impl.guessed;
  if (impl.stepped) return PredictRoutes(layer);
  return impl.GuessedRoutes(layer.value, /*from_slow=*/true, /*with_members=*/true);
}

std::span<const ExpertId> DeviceDecoder::NextRoutes(LayerId layer) {
  Impl& impl = *impl_;
  impl.guessed.clear();
  if (!impl.config.has_slow_state()) return impl.guessed;
  impl.GuessedRoutes(layer.value, /*from_slow=*/true, /*with_members=*/false);
  if (impl.config.route_from == RouteFrom::kAddress) {
    for (ExpertId& id : impl.guessed) id = impl.config.ExpertOf(impl.config.RegionOf(id), 0);
  }
  return impl.guessed;
}

const kernels::Ops& DeviceDecoder::ops() const { return kernels::ActiveOps(); }
absl::Status DeviceDecoder::status() const { return impl_->error; }
ExpertsAt DeviceDecoder::experts_at() const { return impl_->at; }
const char* DeviceDecoder::device_name() const { return impl_->pool->properties().name; }
int64_t DeviceDecoder::device_bytes() const { return impl_->pool->used(); }
int64_t DeviceDecoder::bytes_streamed() const {
  return impl_->experts == nullptr ? 0 : impl_->experts->bytes_brought();
}
int64_t DeviceDecoder::graphs_made() const { return impl_->graphs; }

}  // namespace omni
