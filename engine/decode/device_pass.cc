#include "engine/decode/device_pass.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include <absl/strings/str_cat.h>

namespace omni {
namespace {

namespace device = kernels::device;

device::Output To(float* y, int64_t stride, const TwoBitLinear& linear, float divisor = 0, bool add = false) {
  return {nullptr, y, stride, linear.scale, linear.rows, divisor, add};
}

// Hands out pieces of one buffer: called twice, first to measure.
class Pieces {
 public:
  explicit Pieces(uint8_t* base) : base_(base) {}
  template <typename T>
  void Take(T*& piece, int64_t count) {
    if (base_ != nullptr) piece = reinterpret_cast<T*>(base_ + at_);
    at_ += PadTo(count * static_cast<int64_t>(sizeof(T)), 256);
  }
  int64_t bytes() const { return at_; }

 private:
  uint8_t* base_;
  int64_t at_ = 0;
};

int64_t RecurrentBefore(const ModelConfig& c, int64_t layer) {
  int64_t count = 0;
  for (int64_t l = 0; l < layer; ++l) count += c.IsAttention(l) ? 0 : 1;
  return count;
}

// Where a state's parts lie in `base`; their bytes.
int64_t Carve(const ModelConfig& c, uint8_t* base, DeviceState& state) {
  const int64_t recurrent = RecurrentBefore(c, c.layers), attention = c.layers - recurrent;
  Pieces pieces(base);
  pieces.Take(state.pdr, recurrent * c.d * c.r);
  pieces.Take(state.slow, c.has_slow_state() ? recurrent * c.d : 0);
  pieces.Take(state.ring, attention * 2 * c.kv_heads * c.window * c.head_dim());
  return pieces.bytes();
}

}  // namespace

absl::StatusOr<std::unique_ptr<DevicePass>> DevicePass::Make(const ModelWeights& weights, DevicePool& pool,
                                                             int64_t max_rows) {
  std::unique_ptr<DevicePass> pass(new DevicePass(weights.config));
  absl::StatusOr<DeviceWeights> uploaded = DeviceWeights::Upload(weights, pool);
  if (!uploaded.ok()) return uploaded.status();
  pass->weights_ = *std::move(uploaded);
  if (absl::Status s = pass->Allocate(pool, max_rows); !s.ok()) return s;
  return pass;
}

DevicePass::~DevicePass() {
  *self_ = nullptr;
  if (stream_ != nullptr) device::DeleteStream(stream_);
}

absl::Status DevicePass::Allocate(DevicePool& pool, int64_t max_rows) {
  const ModelConfig& c = config_;
  pool_ = &pool;
  max_rows_ = max_rows;
  width_ = PadTo(c.d, 64);
  f_width_ = TilesPerExpert(c) * kTileNeurons;
  kv_width_ = PadTo(c.kv_heads * c.head_dim(), 16);
  rank_ = PadTo(c.r, 16);
  DeviceState measured;
  state_bytes_ = Carve(c, nullptr, measured);
  floor_ = static_cast<float>(std::exp(static_cast<double>(c.decay_floor)));
  root_r_ = std::sqrt(static_cast<float>(c.r));
  score_scale_ = 1.0f / std::sqrt(static_cast<float>(c.head_dim()));
  if (absl::Status s = DeviceStatus(device::NewStream(&stream_), "making a stream"); !s.ok()) return s;

  const int64_t R = max_rows, half = c.head_dim() / 2;
  at_.row_segment = PadTo(4 * R, 64);
  at_.segments = at_.row_segment + PadTo(4 * R, 64);
  at_.stretches = at_.segments + PadTo(R * static_cast<int64_t>(sizeof(device::Segment)), 64);
  at_.cos = at_.stretches + PadTo(3 * R * static_cast<int64_t>(sizeof(device::Stretch)), 64);
  at_.sin = at_.cos + PadTo(4 * R * half, 64);
  at_.bytes = at_.sin + PadTo(4 * R * half, 64);

  const auto floats = [&](uint8_t* base) {
    Pieces pieces(base);
    for (float** piece : {&x_, &h_, &p_, &v_, &mix_, &before_, &hidden_, &outputs_})
      pieces.Take(*piece, R * width_);
    pieces.Take(k_, R * std::max(rank_, kv_width_));
    pieces.Take(kq_, R * std::max(rank_, kv_width_));
    pieces.Take(a_, R * f_width_);
    pieces.Take(norms_, R * c.d);
    pieces.Take(scores_, R * c.heads * c.window);
    return pieces.bytes();
  };
  const auto bytes = [&](uint8_t* base) {
    Pieces pieces(base);
    pieces.Take(q_.q, R * width_);
    pieces.Take(q2_.q, R * width_);
    pieces.Take(qa_.q, R * f_width_);
    return pieces.bytes();
  };
  const auto small = [&](uint8_t* base) {
    Pieces pieces(base);
    for (device::Quantized* q : {&q_, &q2_, &qa_}) {
      pieces.Take(q->scale, R);
      pieces.Take(q->sum, R);
    }
    pieces.Take(largest_, R);
    pieces.Take(score_largest_, R * c.heads);
    pieces.Take(keys_, R * kv_width_);
    pieces.Take(values_, R * kv_width_);
    return pieces.bytes();
  };
  const std::pair<DeviceBuffer*, int64_t> buffers[] = {
      {&batch_, at_.bytes},      {&floats_, floats(nullptr)},        {&q_bytes_, bytes(nullptr)},
      {&small_, small(nullptr)}, {&routes_, 4 * (c.layers + 1) * R}, {&logits_, 4 * R * c.vocab}};
  for (const auto& [buffer, size] : buffers) {
    absl::StatusOr<DeviceBuffer> made = pool.Allocate(size, "a batch's rows");
    if (!made.ok()) return made.status();
    *buffer = *std::move(made);
    // Columns that pad a row are never written: they stay zero.
    if (absl::Status s = DeviceStatus(device::Zero(buffer->data(), size, stream_), "clearing"); !s.ok())
      return s;
  }
  if (c.has_slow_state()) {
    if (absl::Status s = PutRouters(pool); !s.ok()) return s;
  }
  floats(floats_.data());
  bytes(q_bytes_.data());
  small(small_.data());
  q_.stride = q2_.stride = width_;
  qa_.stride = f_width_;

  const std::pair<PinnedBuffer*, int64_t> pinned[] = {
      {&batch_host_, at_.bytes},         {&hidden_host_, 4 * R * width_}, {&logits_host_, 4 * R * c.vocab},
      {&routes_host_, 4 * c.layers * R}, {&q_host_, R * width_},          {&scale_host_, 4 * R},
      {&outputs_host_, 4 * R * width_}};
  for (const auto& [buffer, size] : pinned) {
    absl::StatusOr<PinnedBuffer> made = PinnedBuffer::Make(size);
    if (!made.ok()) return made.status();
    *buffer = *std::move(made);
  }
  return absl::OkStatus();
}

absl::Status DevicePass::PutRouters(DevicePool& pool) {
  std::vector<device::RouterAhead> routers;
  for (int64_t l = 0; l < config_.layers; ++l) {
    if (config_.IsAttention(l)) continue;
    routers.push_back({RouterOf(l, true), static_cast<int64_t>(routers.size()) * config_.d, l * max_rows_});
  }
  const auto count = static_cast<int64_t>(routers.size());
  absl::StatusOr<DeviceBuffer> table =
      pool.Allocate(count * static_cast<int64_t>(sizeof(device::RouterAhead)), "the routers");
  if (!table.ok()) return table.status();
  absl::StatusOr<DeviceBuffer> followed = pool.Allocate(4 * count * width_, "what slow states follow");
  if (!followed.ok()) return followed.status();
  routers_ = *std::move(table);
  followed_ = *std::move(followed);
  device::Failure failure = device::CopyIn(routers_.data(), routers.data(), routers_.bytes(), stream_);
  if (failure.code == 0) failure = device::Synchronize(stream_);
  return DeviceStatus(failure, "copying the routers");
}

absl::Status DeviceState::Fetch(SessionState& state) {
  if (pass == nullptr || *pass == nullptr) {
    return DeviceStatus({device::kGone}, "a state that was on it");
  }
  return (*pass)->Fetch(*this, state);
}

absl::Status DevicePass::Fetch(const DeviceState& there, SessionState& state) {
  pool_->Enter();
  if (absl::Status s = ReserveStates(1); !s.ok()) return s;
  uint8_t* bytes = states_host_.as<uint8_t>();
  device::Failure failure = device::CopyOut(bytes, there.bytes.data(), state_bytes_, stream_);
  if (failure.code == 0) failure = device::Synchronize(stream_);
  if (absl::Status s = DeviceStatus(failure, "fetching a state"); !s.ok()) return s;
  ForState(state, bytes,
           [](void* host, void* staged, int64_t n) { std::memcpy(host, staged, static_cast<size_t>(n)); });
  return absl::OkStatus();
}

// The state's own memory here, or some into which it is copied.
absl::StatusOr<std::shared_ptr<DeviceState>> DevicePass::StateOf(SessionState& state) {
  if (auto* kept = dynamic_cast<DeviceState*>(state.elsewhere()); kept != nullptr && kept->pass == self_) {
    if (kept->position != state.position()) {
      return absl::FailedPreconditionError(absl::StrCat("device: a session's state is of position ",
                                                        kept->position, " there and of ", state.position(),
                                                        " here; it was changed and not brought home"));
    }
    return std::static_pointer_cast<DeviceState>(state.shared_elsewhere());
  }
  if (absl::Status s = state.BringHome(); !s.ok()) return s;
  std::shared_ptr<DeviceState> made;
  if (!spare_.empty()) {
    made = std::move(spare_.back());
    spare_.pop_back();
  } else {
    made = std::make_shared<DeviceState>();
    absl::StatusOr<DeviceBuffer> buffer = pool_->Allocate(state_bytes_, "a session's state");
    if (!buffer.ok()) return buffer.status();
    made->bytes = *std::move(buffer);
    made->pass = self_;
    Carve(config_, made->bytes.data(), *made);
  }
  if (absl::Status s = StateIn(state, *made); !s.ok()) return s;
  return made;
}

// Calls copy(in the state, in `bytes`, how many) for each of its parts, as DeviceState has them.
template <typename Copy>
void DevicePass::ForState(SessionState& state, uint8_t* bytes, Copy copy) const {
  const ModelConfig& c = config_;
  DeviceState at;
  Carve(c, bytes, at);
  const int64_t ring = c.kv_heads * c.window * c.head_dim();
  int64_t recurrent = 0, attention = 0;
  for (int64_t l = 0; l < c.layers; ++l) {
    const LayerId layer(static_cast<int32_t>(l));
    if (c.IsAttention(l)) {
      copy(state.keys(layer), at.ring + 2 * attention * ring, 2 * ring);
      copy(state.values(layer), at.ring + (2 * attention + 1) * ring, 2 * ring);
      ++attention;
      continue;
    }
    copy(state.pdr(layer), at.pdr + recurrent * c.d * c.r, 4 * c.d * c.r);
    if (c.has_slow_state()) copy(state.slow(layer), at.slow + recurrent * c.d, 4 * c.d);
    ++recurrent;
  }
}

// Pinned memory for so many states; what is on its way there must be done.
absl::Status DevicePass::ReserveStates(int64_t count) {
  if (count <= states_host_count_) return absl::OkStatus();
  if (absl::Status s = DeviceStatus(device::Synchronize(stream_), "copying states"); !s.ok()) return s;
  absl::StatusOr<PinnedBuffer> made = PinnedBuffer::Make(count * state_bytes_);
  if (!made.ok()) return made.status();
  states_host_ = *std::move(made);
  states_host_count_ = count;
  return absl::OkStatus();
}

absl::Status DevicePass::StateIn(SessionState& state, const DeviceState& there) {
  if (absl::Status s = ReserveStates(1); !s.ok()) return s;
  uint8_t* bytes = states_host_.as<uint8_t>();
  if (absl::Status s = DeviceStatus(device::Synchronize(stream_), "copying a state"); !s.ok()) return s;
  ForState(state, bytes,
           [](void* host, void* staged, int64_t n) { std::memcpy(staged, host, static_cast<size_t>(n)); });
  return DeviceStatus(device::CopyIn(there.bytes.data(), bytes, state_bytes_, stream_), "copying a state");
}

absl::Status DevicePass::StatesBack() {
  if (std::all_of(segments_.begin(), segments_.end(), [](const DeviceRows& s) { return s.stays; }))
    return absl::OkStatus();
  if (absl::Status s = ReserveStates(static_cast<int64_t>(segments_.size())); !s.ok()) return s;
  device::Failure failure;
  for (size_t i = 0; i < segments_.size() && failure.code == 0; ++i) {
    if (segments_[i].stays) continue;
    failure = device::CopyOut(states_host_.as<uint8_t>(static_cast<int64_t>(i) * state_bytes_),
                              in_use_[i]->bytes.data(), state_bytes_, stream_);
  }
  return DeviceStatus(failure, "copying states back");
}

void DevicePass::TakeStates() {
  for (size_t i = 0; i < segments_.size(); ++i) {
    SessionState& state = *segments_[i].state;
    in_use_[i]->position = segments_[i].position + segments_[i].count;
    if (segments_[i].stays) {
      state.set_elsewhere(std::move(in_use_[i]));
      continue;
    }
    ForState(state, states_host_.as<uint8_t>(static_cast<int64_t>(i) * state_bytes_),
             [](void* host, void* staged, int64_t n) { std::memcpy(host, staged, static_cast<size_t>(n)); });
    state.set_elsewhere(nullptr);
    spare_.push_back(std::move(in_use_[i]));
  }
  in_use_.clear();
}

absl::Status DevicePass::Begin(std::span<const TokenId> tokens, std::span<const DeviceRows> segments) {
  // The batch's pinned memory may still be read by the copy of the last one.
  if (absl::Status s = DeviceStatus(device::Synchronize(stream_), "the pass before"); !s.ok()) return s;
  n_ = static_cast<int>(tokens.size());
  routed_ahead_ = false;
  segments_.assign(segments.begin(), segments.end());
  in_use_.clear();
  int32_t* token = batch_host_.as<int32_t>();
  int32_t* row_segment = batch_host_.as<int32_t>(at_.row_segment);
  device::Segment* segment = batch_host_.as<device::Segment>(at_.segments);
  longest_ = 0;
  for (size_t s = 0; s < segments_.size(); ++s) {
    const DeviceRows& rows = segments_[s];
    absl::StatusOr<std::shared_ptr<DeviceState>> state = StateOf(*rows.state);
    if (!state.ok()) return state.status();
    segment[s] = {
        rows.first_row, rows.count,     rows.position, static_cast<int32_t>(rows.position % config_.window),
        (*state)->pdr,  (*state)->slow, (*state)->ring};
    in_use_.push_back(*std::move(state));
    longest_ = std::max(longest_, static_cast<int>(rows.count));
    for (int32_t i = 0; i < rows.count; ++i) {
      const int32_t row = rows.first_row + i;
      token[row] = tokens[static_cast<size_t>(row)].value;
      row_segment[row] = static_cast<int32_t>(s);
      const int64_t half = angles_.half();
      angles_.At(rows.position + i, batch_host_.as<float>(at_.cos) + row * half,
                 batch_host_.as<float>(at_.sin) + row * half);
    }
  }
  spare_.clear();  // there were fewer rows before: what nobody needs now is given back
  SetStretches();
  return DeviceStatus(device::CopyIn(batch_.data(), batch_host_.as<uint8_t>(), at_.bytes, stream_),
                      "copying a batch");
}

// As PdrMixer::StepStates: up to a segment's end, or to its state's next renormalisation.
void DevicePass::SetStretches() {
  const int64_t period = config_.state_norm_period;
  device::Stretch* stretch = batch_host_.as<device::Stretch>(at_.stretches);
  rounds_.clear();
  int64_t used = 0;
  for (int64_t round = 0;; ++round) {
    Round made{used, 0, false};
    for (size_t s = 0; s < segments_.size(); ++s) {
      const DeviceRows& rows = segments_[s];
      const int64_t to_norm = period - rows.position % period;
      const int64_t begin = round == 0 ? 0 : to_norm + (round - 1) * period;
      const int64_t end = std::min<int64_t>(to_norm + round * period, rows.count);
      if (begin >= rows.count) continue;
      const bool normalize = end == to_norm + round * period;
      stretch[used++] = {static_cast<int32_t>(s), static_cast<int32_t>(rows.first_row + begin),
                         static_cast<int32_t>(end - begin), normalize ? 1 : 0};
      ++made.count;
      made.normalizes = made.normalizes || normalize;
    }
    if (made.count == 0) return;
    rounds_.push_back(made);
  }
}

bool DevicePass::plain_step() const { return n_ == 1 && rounds_.size() == 1 && !rounds_[0].normalizes; }

void DevicePass::Embed() {
  const ModelWeights& w = weights_.view();
  device::Embed(w.embedding, w.embedding_scale, batch_.as<int32_t>(), n_, config_.d, x_, width_, stream_);
}

void DevicePass::RouteAhead() {
  device::RouteAhead(routers_.as<device::RouterAhead>(),
                     static_cast<int>(RecurrentBefore(config_, config_.layers)),
                     batch_.as<device::Segment>(at_.segments), batch_.as<int32_t>(), routes(0), stream_);
  routed_ahead_ = true;
}

void DevicePass::Layer(int64_t l) {
  const LayerWeights& layer = weights_.view().layers[static_cast<size_t>(l)];
  const bool attention = config_.IsAttention(l);
  device::NormQuantize(x_, width_, layer.norm1, n_, config_.d, width_, nullptr, 0, q_, nullptr, nullptr,
                       stream_);
  attention ? Attention(l) : Pdr(l);
  const int64_t recurrent = RecurrentBefore(config_, l);
  float* h = routed_ahead_ && !attention ? followed_.as<float>() + recurrent * width_ : h_;
  device::NormQuantize(x_, width_, layer.norm2, n_, config_.d, width_, h, width_, q_, largest_, qa_.sum,
                       stream_);
  if (attention) {
    SharedFfn(l);
    return;
  }
  if (routed_ahead_) return;
  const float* seen = h_;
  if (config_.has_slow_state()) {
    device::SlowStep(batch_.as<device::Segment>(at_.segments), static_cast<int>(segments_.size()),
                     recurrent * config_.d, h_, width_, 1, 0, config_.d, config_.slow_rate, before_, stream_);
    seen = before_;
  }
  device::Route(RouterOf(l, true), seen, width_, batch_.as<int32_t>(), n_, routes(l), stream_);
}

void DevicePass::Pdr(int64_t l) {
  const LayerWeights& layer = weights_.view().layers[static_cast<size_t>(l)];
  device::TwoBitProducts products;
  products.of[0] = {layer.wp.m, To(p_, width_, layer.wp)};
  products.of[1] = {layer.wv.m, To(v_, width_, layer.wv)};
  products.of[2] = {layer.wk.m, To(k_, rank_, layer.wk, config_.key_scale ? root_r_ : 0)};
  products.of[3] = {layer.wq.m, To(kq_, rank_, layer.wq)};
  products.count = 4;
  device::TwoBit(products, q_, n_, stream_);
  const device::PdrInputs in{p_,
                             v_,
                             k_,
                             kq_,
                             layer.bp,
                             width_,
                             rank_,
                             floor_,
                             config_.d,
                             config_.r,
                             RecurrentBefore(config_, l) * config_.d * config_.r,
                             rounds_.size() == 1};
  const auto* segments = batch_.as<device::Segment>(at_.segments);
  for (const Round& round : rounds_) {
    const auto* stretches = batch_.as<device::Stretch>(at_.stretches) + round.first;
    device::PdrStep(in, segments, stretches, static_cast<int>(round.count), mix_, width_, stream_);
    if (round.normalizes)
      device::PdrNormalize(in, segments, stretches, static_cast<int>(round.count), norms_, stream_);
  }
  device::NormQuantize(mix_, width_, layer.norm_readout, n_, config_.d, width_, nullptr, 0, q2_, nullptr,
                       nullptr, stream_);
  device::TwoBitProducts out;
  out.of[0] = {layer.wo.m, To(x_, width_, layer.wo, 0, true)};
  out.count = 1;
  device::TwoBit(out, q2_, n_, stream_);
}

void DevicePass::Attention(int64_t l) {
  const LayerWeights& layer = weights_.view().layers[static_cast<size_t>(l)];
  device::TwoBitProducts products;
  products.of[0] = {layer.wq.m, To(p_, width_, layer.wq)};
  products.of[1] = {layer.wk.m, To(k_, kv_width_, layer.wk)};
  products.of[2] = {layer.wv.m, To(kq_, kv_width_, layer.wv)};
  products.count = 3;
  device::TwoBit(products, q_, n_, stream_);
  device::Attention a;
  a.q = p_;
  a.k = k_;
  a.v = kq_;
  a.cos = batch_.as<float>(at_.cos);
  a.sin = batch_.as<float>(at_.sin);
  a.stride = width_;
  a.kv_stride = kv_width_;
  a.keys = keys_;
  a.values = values_;
  a.heads = config_.heads;
  a.kv_heads = config_.kv_heads;
  a.h = config_.head_dim();
  a.window = config_.window;
  a.offset = (l - RecurrentBefore(config_, l)) * 2 * a.kv_heads * a.window * a.h;
  a.scale = score_scale_;
  a.scores = scores_;
  a.largest = score_largest_;
  const auto* segments = batch_.as<device::Segment>(at_.segments);
  device::RotateRows(a, n_, stream_);
  device::Attend(a, segments, batch_.as<int32_t>(at_.row_segment), n_, mix_, width_, stream_);
  device::StoreRing(a, segments, static_cast<int>(segments_.size()), longest_, stream_);
  device::NormQuantize(mix_, width_, nullptr, n_, config_.d, width_, nullptr, 0, q2_, nullptr, nullptr,
                       stream_);
  device::TwoBitProducts out;
  out.of[0] = {layer.wo.m, To(x_, width_, layer.wo, 0, true)};
  out.count = 1;
  device::TwoBit(out, q2_, n_, stream_);
}

void DevicePass::SharedFfn(int64_t l) {
  const LayerWeights& layer = weights_.view().layers[static_cast<size_t>(l)];
  const int64_t padded = layer.down.m.num_blocks * 64;
  device::GateUp(layer.gate.m, layer.up.m, layer.gate.scale, layer.up.scale, q_, n_, config_.f, a_, f_width_,
                 largest_, stream_);
  device::QuantizeKnown(a_, f_width_, n_, padded, largest_, qa_, stream_);
  device::TwoBitProducts down;
  down.of[0] = {layer.down.m, To(x_, width_, layer.down, 0, true)};
  down.count = 1;
  device::TwoBit(down, qa_, n_, stream_);
}

void DevicePass::AddExperts(int64_t l, const device::Experts& from) {
  device::Experts experts = from;
  experts.known = routed_ahead_;
  device::ExpertGateUp(experts, routes(l), q_, n_, a_, f_width_, largest_, stream_);
  // Rows of experts still to come are quantised too, in vain, and again when theirs is here.
  if (experts.only >= 0) static_cast<void>(device::Zero(qa_.sum, 4 * n_, stream_));
  device::QuantizeKnown(a_, f_width_, n_, f_width_, largest_, qa_, stream_);
  device::ExpertDown(experts, routes(l), qa_, n_, x_, width_, stream_);
}

void DevicePass::Hidden() {
  device::NormQuantize(x_, width_, weights_.view().norm_out, n_, config_.d, width_, hidden_, width_, {},
                       nullptr, nullptr, stream_);
  if (!routed_ahead_) return;
  device::SlowStep(batch_.as<device::Segment>(at_.segments), 1, 0, followed_.as<float>(), width_,
                   RecurrentBefore(config_, config_.layers), width_, config_.d, config_.slow_rate, nullptr,
                   stream_);
}

void DevicePass::Logits(std::span<const int64_t> rows) {
  const ModelWeights& w = weights_.view();
  // Their rows one after the other, in mix_.
  for (size_t i = 0; i < rows.size(); ++i) {
    static_cast<void>(device::CopyWithin(mix_ + static_cast<int64_t>(i) * width_, hidden_ + rows[i] * width_,
                                         4 * config_.d, stream_));
  }
  const int count = static_cast<int>(rows.size());
  device::NormQuantize(mix_, width_, nullptr, count, config_.d, width_, nullptr, 0, q2_, nullptr, nullptr,
                       stream_);
  device::Int8(w.embedding, q2_, count,
               {nullptr, logits_.as<float>(), config_.vocab, w.embedding_scale, config_.vocab, 0, false},
               stream_);
  static_cast<void>(device::CopyOut(logits_out(), logits_.data(), 4 * count * config_.vocab, stream_));
}

void DevicePass::AddOutputs() {
  static_cast<void>(device::CopyIn(outputs_, outputs(), 4 * n_ * width_, stream_));
  device::AddRows(x_, outputs_, width_, n_, config_.d, stream_);
}

void DevicePass::CopyRoutes() {
  static_cast<void>(device::CopyOut(routes_out(), routes_.data(), 4 * config_.layers * max_rows_, stream_));
}

void DevicePass::CopyExpertInputs() {
  static_cast<void>(device::CopyOut(q_out(), q_.q, n_ * width_, stream_));
  static_cast<void>(device::CopyOut(scale_out(), q_.scale, 4 * n_, stream_));
}

void DevicePass::CopyHiddenOut() {
  static_cast<void>(device::CopyOut(hidden_out(), hidden_, 4 * n_ * width_, stream_));
}

void DevicePass::CopyHiddenIn() {
  static_cast<void>(device::CopyIn(hidden_, hidden_out(), 4 * n_ * width_, stream_));
}

device::Router DevicePass::RouterOf(int64_t l, bool with_members) const {
  const LayerWeights& layer = weights_.view().layers[static_cast<size_t>(l)];
  return {layer.route,
          layer.positions,
          layer.route_bias,
          with_members ? layer.members : nullptr,
          weights_.expert_at(),
          config_.num_experts(),
          config_.experts_per_region(),
          config_.d};
}

absl::StatusOr<std::vector<int32_t>> DevicePass::Guess(int64_t l, bool from_slow, bool with_members) {
  int32_t* to = routes(config_.layers);  // behind those of the last layer
  const device::Router router = RouterOf(l, with_members);
  int64_t count = n_;
  if (from_slow) {
    count = static_cast<int64_t>(segments_.size());
    for (size_t s = 0; s < segments_.size(); ++s) {
      const float* u = in_use_[s]->slow + RecurrentBefore(config_, l) * config_.d;
      device::Route(router, u, width_, batch_.as<int32_t>() + segments_[s].first_row, 1, to + s, stream_);
    }
  } else {
    const LayerWeights& layer = weights_.view().layers[static_cast<size_t>(l)];
    device::NormQuantize(x_, width_, layer.norm2, n_, config_.d, width_, mix_, width_, {}, nullptr, nullptr,
                         stream_);
    device::Route(router, mix_, width_, batch_.as<int32_t>(), n_, to, stream_);
  }
  std::vector<int32_t> guessed(static_cast<size_t>(count));
  device::Failure failure = device::CopyOut(guessed.data(), to, 4 * count, stream_);
  if (failure.code == 0) failure = device::Synchronize(stream_);
  if (absl::Status s = DeviceStatus(failure, "routes ahead"); !s.ok()) return s;
  return guessed;
}

absl::StatusOr<std::vector<int32_t>> DevicePass::KnownRoutes() {
  RouteAhead();
  CopyRoutes();
  if (absl::Status s = DeviceStatus(device::Synchronize(stream_), "routes ahead"); !s.ok()) return s;
  std::vector<int32_t> known;
  for (int64_t l = 0; l < config_.layers; ++l) known.push_back(routes_out()[l * max_rows_]);
  return known;
}

absl::StatusOr<std::vector<float>> DevicePass::Seen() {
  std::vector<float> seen(static_cast<size_t>(n_ * width_));
  device::Failure failure =
      device::CopyOut(seen.data(), config_.has_slow_state() ? before_ : h_, 4 * n_ * width_, stream_);
  if (failure.code == 0) failure = device::Synchronize(stream_);
  if (absl::Status s = DeviceStatus(failure, "what a router sees"); !s.ok()) return s;
  return seen;
}

void DevicePass::SetRoutes(int64_t layer, std::span<const int32_t> to) {
  static_cast<void>(device::CopyIn(routes(layer), to.data(), 4 * n_, stream_));
  static_cast<void>(device::Synchronize(stream_));
}

}  // namespace omni
