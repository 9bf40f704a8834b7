#include "tests/bench/device_limits.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>

#include "engine/base/splitmix.h"
#include "engine/decode/device_decoder.h"
#include "engine/decode/device_memory.h"

namespace omni {
namespace {

namespace device = kernels::device;

// Bytes that are valid as every kind of weight: codes below 243.
std::vector<uint8_t> DrawnCodes(int64_t bytes) {
  std::vector<uint8_t> codes(static_cast<size_t>(bytes));
  uint64_t state = 1;
  for (size_t i = 0; i < codes.size(); i += 8) {
    state = SplitMix64(state + i);
    for (size_t j = 0; j < 8 && i + j < codes.size(); ++j)
      codes[i + j] = static_cast<uint8_t>((state >> (8 * j) & 0xff) * 243 / 256);
  }
  return codes;
}

double Seconds(std::chrono::steady_clock::time_point since) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - since).count();
}

}  // namespace

double MedianMilliseconds(device::Stream stream, int repetitions, const std::function<void()>& work) {
  device::Event from = nullptr, to = nullptr;
  if (device::NewEvent(&from) || device::NewEvent(&to)) return -1;
  std::vector<float> times;
  for (int i = 0; i <= repetitions; ++i) {
    device::Failure failure = device::Record(from, stream);
    work();
    if (failure.code == 0) failure = device::Record(to, stream);
    if (failure.code == 0) failure = device::Synchronize(stream);
    float ms = -1;
    if (failure.code == 0) failure = device::Milliseconds(from, to, &ms);
    if (failure) {
      times.assign(1, -1);
      break;
    }
    if (i > 0) times.push_back(ms);
  }
  device::DeleteEvent(from);
  device::DeleteEvent(to);
  std::nth_element(times.begin(), times.begin() + static_cast<int64_t>(times.size()) / 2, times.end());
  return times[times.size() / 2];
}

absl::StatusOr<Figures> MeasureLimits(int64_t copy_bytes) {
  absl::StatusOr<std::shared_ptr<DevicePool>> pool = DevicePool::Open(0, 0);
  if (!pool.ok()) return pool.status();
  absl::StatusOr<DeviceBuffer> from = (*pool)->Allocate(copy_bytes, "copies"),
                               to = (*pool)->Allocate(copy_bytes, "copies");
  if (!from.ok() || !to.ok()) return from.ok() ? to.status() : from.status();
  const int64_t host_bytes = std::min(copy_bytes, int64_t{256} << 20);
  absl::StatusOr<PinnedBuffer> host = PinnedBuffer::Make(host_bytes);
  if (!host.ok()) return host.status();
  std::memset(host->as<uint8_t>(), 1, static_cast<size_t>(host_bytes));
  device::Stream stream = nullptr;
  if (absl::Status s = DeviceStatus(device::NewStream(&stream), "a stream"); !s.ok()) return s;
  const double copy = MedianMilliseconds(stream, 10, [&] {
    static_cast<void>(device::CopyWithin(to->data(), from->data(), copy_bytes, stream));
  });
  const double in = MedianMilliseconds(stream, 10, [&] {
    static_cast<void>(device::CopyIn(to->data(), host->as<uint8_t>(), host_bytes, stream));
  });
  // Pieces of an expert's tiles' size, from all over the pinned memory, by one launch and by a copy each.
  const int64_t piece = std::min<int64_t>(host_bytes / 16, 159744), stride = PadTo(piece, 256),
                pieces = std::min<int64_t>(host_bytes / stride, 172);
  absl::StatusOr<PinnedBuffer> sources = PinnedBuffer::Make(8 * pieces);
  if (!sources.ok()) return sources.status();
  for (int64_t i = 0; i < pieces; ++i)
    sources->as<const uint8_t*>()[i] = host->as<uint8_t>(i * 7 % pieces * (host_bytes / pieces / 256 * 256));
  const double gather = MedianMilliseconds(stream, 10, [&] {
    device::Gather(sources->as<const uint8_t*>(), pieces, piece, to->data(), stride, stream);
  });
  const double one_by_one = MedianMilliseconds(stream, 10, [&] {
    for (int64_t i = 0; i < pieces; ++i) {
      static_cast<void>(
          device::CopyIn(to->data() + i * stride, sources->as<const uint8_t*>()[i], piece, stream));
    }
  });
  device::DeleteStream(stream);
  if (!(copy > 0 && in > 0 && gather > 0 && one_by_one > 0))
    return absl::UnavailableError("device: copies could not be timed");
  const double gathered = 1e-6 * static_cast<double>(pieces * piece);
  return Figures{{"copy_gbps", 2e-6 * static_cast<double>(copy_bytes) / copy},
                 {"host_to_device_gbps", 1e-6 * static_cast<double>(host_bytes) / in},
                 {"gather_gbps", gathered / gather},
                 {"copies_one_by_one_gbps", gathered / one_by_one}};
}

absl::StatusOr<Figures> MeasureProducts(int64_t d, int64_t r, int64_t f, int64_t vocab, int copies,
                                        double copy_gbps) {
  absl::StatusOr<std::shared_ptr<DevicePool>> opened = DevicePool::Open(0, 0);
  if (!opened.ok()) return opened.status();
  DevicePool& pool = **opened;
  const TileLayout layout(d);
  const int64_t d_pad = layout.d_pad, tiles = PadTo(f, 64) / 64, f_pad = 64 * tiles,
                tile = PadTo(layout.payload(), 256);
  const auto two_bit_bytes = [](int64_t rows, int64_t cols) { return PadTo(rows, 4) / 4 * PadTo(cols, 64); };
  const int64_t pdr_bytes = 2 * two_bit_bytes(d, d) + 2 * two_bit_bytes(r, d),
                out_bytes = two_bit_bytes(d, d);
  const int64_t gate_bytes = 2 * two_bit_bytes(f, d), down_bytes = two_bit_bytes(d, f_pad);
  const int64_t each = std::max({pdr_bytes, gate_bytes, down_bytes, tiles * tile});
  absl::StatusOr<DeviceBuffer> weights = pool.Allocate(copies * each, "weights");
  absl::StatusOr<DeviceBuffer> embedding = pool.Allocate(vocab * d_pad, "the embedding");
  const int64_t floats = 4 * (4 * f_pad + vocab);
  absl::StatusOr<DeviceBuffer> rows = pool.Allocate(2 * floats + 2 * f_pad + 4096, "rows");
  absl::StatusOr<DeviceBuffer> tables = pool.Allocate(copies * tiles * 8, "tables");
  absl::StatusOr<DeviceBuffer> states = pool.Allocate(copies * 4 * d * r, "states");
  for (const auto* buffer : {&weights, &embedding, &rows, &tables, &states}) {
    if (!buffer->ok()) return buffer->status();
  }
  device::Stream stream = nullptr;
  device::Failure failure = device::NewStream(&stream);
  const std::vector<uint8_t> codes = DrawnCodes(each);
  std::vector<const uint8_t*> table;
  for (int c = 0; c < copies && failure.code == 0; ++c) {
    failure = device::CopyIn(weights->data() + c * each, codes.data(), each, stream);
    for (int64_t t = 0; t < tiles; ++t) table.push_back(weights->data() + c * each + t * tile);
  }
  if (failure.code == 0) failure = device::CopyIn(tables->data(), table.data(), tables->bytes(), stream);
  for (const auto* buffer : {&embedding, &rows, &states}) {
    if (failure.code == 0) failure = device::Zero((*buffer)->data(), (*buffer)->bytes(), stream);
  }
  if (failure.code == 0) failure = device::Synchronize(stream);
  if (absl::Status s = DeviceStatus(failure, "preparing products"); !s.ok()) return s;

  // Rows of zeros: the times are those of any others.
  float* y = rows->as<float>();
  float* scales = rows->as<float>(floats);
  int8_t* q = rows->as<int8_t>(2 * floats);
  int32_t* zeros = rows->as<int32_t>(2 * floats + 2 * f_pad);
  uint32_t* largest = reinterpret_cast<uint32_t*>(zeros + 16);
  const device::Quantized x{q, f_pad, scales, zeros}, qa{q + f_pad, f_pad, scales, zeros + 32};
  const device::Output out{nullptr, y, vocab, scales, std::max(vocab, f), 0, false};
  const auto two_bit = [&](int c, int64_t at, int64_t n_rows, int64_t cols) {
    device::Output of = out;
    of.rows = n_rows;
    return device::TwoBitProduct{
        {weights->data() + c * each + at, PadTo(cols, 64) / 64, PadTo(n_rows, 4) / 4}, of};
  };
  device::Segment segment;
  segment.count = 1;
  segment.pdr = states->as<float>();
  const device::Stretch stretch{0, 0, 1, 0};
  device::Segment* segments = reinterpret_cast<device::Segment*>(zeros + 64);
  device::Stretch* stretches = reinterpret_cast<device::Stretch*>(zeros + 128);
  failure = device::CopyIn(segments, &segment, sizeof(segment), stream);
  if (failure.code == 0) failure = device::CopyIn(stretches, &stretch, sizeof(stretch), stream);
  if (failure.code == 0) failure = device::Synchronize(stream);
  if (absl::Status s = DeviceStatus(failure, "preparing products"); !s.ok()) return s;

  device::Experts experts{nullptr,
                          tiles,
                          tiles,
                          d,
                          d_pad,
                          layout.down_offset(),
                          layout.gate_scale_offset(),
                          layout.up_scale_offset(),
                          -1,
                          true};
  struct Part {
    const char* name;
    int64_t bytes;
    std::function<void(int copy)> run;
  };
  const Part parts[] = {
      {"pdr_in", pdr_bytes,
       [&](int c) {
         device::TwoBitProducts products;
         products.of[0] = two_bit(c, 0, d, d);
         products.of[1] = two_bit(c, two_bit_bytes(d, d), d, d);
         products.of[2] = two_bit(c, 2 * two_bit_bytes(d, d), r, d);
         products.of[3] = two_bit(c, 2 * two_bit_bytes(d, d) + two_bit_bytes(r, d), r, d);
         products.count = 4;
         device::TwoBit(products, x, 1, stream);
       }},
      {"pdr_state", 8 * d * r,
       [&](int c) {
         device::PdrStep({y, y, y, y, y, d, r, 0, d, r, c * d * r, true}, segments, stretches, 1,
                         y + 2 * f_pad, d, stream);
       }},
      {"mixer_out", out_bytes,
       [&](int c) {
         device::TwoBitProducts products;
         products.of[0] = two_bit(c, 0, d, d);
         products.count = 1;
         device::TwoBit(products, x, 1, stream);
       }},
      {"shared_gate_up", gate_bytes,
       [&](int c) {
         const kernels::TwoBitMatrix gate{weights->data() + c * each, d_pad / 64, PadTo(f, 4) / 4};
         kernels::TwoBitMatrix up = gate;
         up.base += gate_bytes / 2;
         device::GateUp(gate, up, scales, scales, x, 1, f, y, f_pad, largest, stream);
       }},
      {"shared_down", down_bytes,
       [&](int c) {
         device::TwoBitProducts products;
         products.of[0] = two_bit(c, 0, d, f_pad);
         products.count = 1;
         device::TwoBit(products, qa, 1, stream);
       }},
      {"expert_gate_up", tiles * 26 * d_pad,
       [&](int c) {
         experts.table = tables->as<const uint8_t*>() + c * tiles;
         device::ExpertGateUp(experts, zeros, x, 1, y, f_pad, largest, stream);
       }},
      {"expert_down", tiles * layout.down_groups() * 64,
       [&](int c) {
         experts.table = tables->as<const uint8_t*>() + c * tiles;
         device::ExpertDown(experts, zeros, qa, 1, y, f_pad, stream);
       }},
      {"logits", vocab * d_pad,
       [&](int) {
         device::Int8({embedding->as<int8_t>(), d_pad, d_pad, vocab}, x, 1, out, stream);
       }},
      {"norm", 0,
       [&](int) {
         device::NormQuantize(y, d, scales, 1, d, d_pad, nullptr, 0, x, nullptr, nullptr, stream);
       }},
      {"quantize_a", 0, [&](int) { device::QuantizeKnown(y, f_pad, 1, f_pad, largest, qa, stream); }},
  };
  Figures figures;
  double us_of_expert_layer = 0;
  int64_t bytes_of_expert_layer = 0;
  for (const Part& part : parts) {
    // One graph of all copies, so that no launch is waited for by the host.
    device::Graph graph = nullptr;
    failure = device::BeginGraph(stream);
    for (int c = 0; c < copies; ++c) part.run(c);
    if (failure.code == 0) failure = device::EndGraph(stream, &graph);
    if (absl::Status s = DeviceStatus(failure, part.name); !s.ok()) return s;
    const double ms =
        MedianMilliseconds(stream, 10, [&] { static_cast<void>(device::Launch(graph, stream)); }) / copies;
    device::DeleteGraph(graph);
    if (!(ms > 0)) return absl::UnavailableError(std::string("device: could not be timed: ") + part.name);
    figures.push_back({std::string(part.name) + "_us", 1e3 * ms});
    if (part.bytes == 0) continue;
    figures.push_back(
        {std::string(part.name) + "_share", 1e-6 * static_cast<double>(part.bytes) / ms / copy_gbps});
    const std::string name = part.name;
    if (name != "shared_gate_up" && name != "shared_down" && name != "logits") {
      us_of_expert_layer += 1e3 * ms;
      bytes_of_expert_layer += part.bytes;
    }
  }
  figures.push_back(
      {"layer_share", 1e-3 * static_cast<double>(bytes_of_expert_layer) / us_of_expert_layer / copy_gbps});
  device::DeleteStream(stream);
  return figures;
}

namespace {

// Weights of a whole model that all lie in one piece of drawn bytes. Experts of a layer are one and the same.
class DrawnModel final : public ExpertSource {
 public:
  static absl::StatusOr<std::unique_ptr<DrawnModel>> Make(const ModelConfig& config) {
    auto model = std::make_unique<DrawnModel>();
    ModelWeights& w = model->weights_;
    w.config = config;
    const ModelConfig& c = w.config;
    const int64_t d_pad = PadTo(c.d, 64), f_pad = PadTo(c.f, 64);
    const int64_t largest = std::max({c.vocab * d_pad, PadTo(c.f, 4) / 4 * d_pad, PadTo(c.d, 4) / 4 * f_pad});
    model->codes_ = DrawnCodes(largest + (1 << 20));
    model->floats_.assign(static_cast<size_t>(std::max({c.vocab, c.f, 3 * c.d, 3 * c.num_experts()}) + 64),
                          0.01f);
    model->members_.assign(static_cast<size_t>(c.vocab), 0);
    for (size_t i = 0; i < model->floats_.size(); ++i)
      model->floats_[i] = 0.001f + 0.01f * static_cast<float>(SplitMix64(i) >> 40) * 0x1p-24f;
    const float* floats = model->floats_.data();
    w.embedding = {reinterpret_cast<const int8_t*>(model->codes_.data()), d_pad, d_pad, c.vocab};
    w.embedding_scale = w.norm_out = floats;
    int64_t number = 0;
    const auto linear = [&](int64_t rows, int64_t cols) {
      TwoBitLinear made;
      made.m = {model->codes_.data() + (number++ * 4160) % (1 << 20), PadTo(cols, 64) / 64,
                PadTo(rows, 4) / 4};
      made.scale = floats;
      made.rows = rows;
      made.cols = cols;
      return made;
    };
    for (int64_t l = 0; l < c.layers; ++l) {
      LayerWeights layer;
      layer.norm1 = layer.norm2 = floats;
      layer.wo = linear(c.d, c.d);
      if (c.IsAttention(l)) {
        layer.wq = linear(c.d, c.d);
        layer.wk = linear(c.kv_heads * c.head_dim(), c.d);
        layer.wv = linear(c.kv_heads * c.head_dim(), c.d);
        layer.gate = linear(c.f, c.d);
        layer.up = linear(c.f, c.d);
        layer.down = linear(c.d, c.f);
      } else {
        layer.wp = linear(c.d, c.d);
        layer.wv = linear(c.d, c.d);
        layer.wk = linear(c.r, c.d);
        layer.wq = linear(c.r, c.d);
        layer.bp = layer.route = layer.positions = floats;
        layer.norm_readout = c.readout_norm ? floats : nullptr;
        layer.route_bias = c.route_bias ? floats : nullptr;
        layer.members = c.route_from == RouteFrom::kAddress ? model->members_.data() : nullptr;
      }
      w.layers.push_back(layer);
    }
    const TileLayout layout(c.d);
    const int64_t tiles = TilesPerExpert(c), payload = layout.payload();
    int64_t with_experts = 0;
    for (int64_t l = 0; l < c.layers; ++l) model->number_.push_back(c.IsAttention(l) ? -1 : with_experts++);
    absl::StatusOr<PinnedBuffer> memory = PinnedBuffer::Make(with_experts * tiles * PadTo(payload, 256));
    if (!memory.ok()) return memory.status();
    model->tiles_ = *std::move(memory);
    for (int64_t i = 0; i < with_experts * tiles; ++i) {
      uint8_t* tile = model->tiles_.as<uint8_t>(i * PadTo(payload, 256));
      std::memcpy(tile, model->codes_.data() + i * 64 % (1 << 19),
                  static_cast<size_t>(layout.gate_scale_offset()));
      std::memcpy(tile + layout.gate_scale_offset(), floats, 512);
      model->table_.push_back(tile);
    }
    return model;
  }
  const ModelWeights& weights() const { return weights_; }
  absl::StatusOr<ExpertTiles> Acquire(LayerId layer, ExpertId) override {
    const auto tiles = static_cast<size_t>(TilesPerExpert(weights_.config));
    const auto first = static_cast<size_t>(number_[layer.index()]) * tiles;
    return ExpertTiles{std::span(table_).subspan(first, tiles), nullptr};
  }

 private:
  ModelWeights weights_;
  std::vector<uint8_t> codes_, members_;
  std::vector<float> floats_;
  std::vector<int64_t> number_;
  PinnedBuffer tiles_;
  std::vector<const uint8_t*> table_;
};

}  // namespace

absl::StatusOr<Figures> MeasureTokens(const std::string& preset, int tokens, int64_t cap, double copy_gbps,
                                      double host_to_device_gbps) {
  absl::StatusOr<ModelConfig> config = Preset(preset);
  if (!config.ok()) return config.status();
  absl::StatusOr<std::unique_ptr<DrawnModel>> model = DrawnModel::Make(*config);
  if (!model.ok()) return model.status();
  const ModelConfig& c = *config;
  const TileLayout layout(c.d);
  int64_t recurrent = 0;
  for (int64_t l = 0; l < c.layers; ++l) recurrent += c.IsAttention(l) ? 0 : 1;
  const int64_t expert_bytes = recurrent * TilesPerExpert(c) * layout.payload();
  const ParameterCount count = CountParameters(c);
  // Two-bit matrices, the embedding's bytes, the states read and written, one expert of each layer.
  const double token_bytes = static_cast<double>(count.pdr + count.gqa + count.shared_ffn) / 4 +
                             static_cast<double>(count.embedding) +
                             8.0 * static_cast<double>(recurrent * c.d * c.r) +
                             static_cast<double>(expert_bytes);
  Figures figures = {{"token_bytes", token_bytes}};
  WorkerPool pool(1);
  struct Way {
    const char* name;
    bool resident, pinned;
    int64_t position;  // of the first token
  };
  for (const Way& way : {Way{"resident", true, true, 0}, Way{"resident_full_window", true, true, c.window},
                         Way{"streamed", false, true, 0}, Way{"streamed_from_unpinned", false, false, 0}}) {
    DeviceSettings settings;
    settings.experts =
        way.resident ? DeviceSettings::ExpertsAt::kResident : DeviceSettings::ExpertsAt::kStreamed;
    settings.memory_cap = way.resident ? 0 : cap;
    settings.source_is_pinned = way.pinned;
    settings.states_stay = true;
    settings.max_rows = 1;
    const auto decoder = DeviceDecoder::Create((*model)->weights(), model->get(), settings);
    if (!decoder.ok()) return decoder.status();
    SessionState state(c);
    state.set_position(way.position);
    std::vector<double> times;
    std::vector<std::pair<double, double>>
        parts;  // when a step was on the stream, and when its layers were done
    for (int i = 0; i < tokens + 2; ++i) {
      const auto start = std::chrono::steady_clock::now();
      const BatchRow row{&state, TokenId(static_cast<int32_t>(i * 97 % c.vocab)), true};
      if (absl::Status status = (*decoder)->Begin({&row, 1}); !status.ok()) return status;
      const double begun = Seconds(start);
      for (int64_t l = 0; l < c.layers; ++l) {
        const auto jobs = (*decoder)->RunLayer(LayerId(static_cast<int32_t>(l)));
        if (!jobs.ok()) return jobs.status();
      }
      (*decoder)->StartHidden({});
      static_cast<void>((*decoder)->hidden(0));  // whoever decodes looks at it
      const double hidden = Seconds(start);
      (*decoder)->StartLogits({});
      if (const auto logits = (*decoder)->logits(); !logits.ok()) return logits.status();
      if (i >= 2) parts.push_back({begun, hidden});
      if (i >= 2) times.push_back(Seconds(start));
    }
    std::nth_element(times.begin(), times.begin() + static_cast<int64_t>(times.size()) / 2, times.end());
    const double seconds = times[times.size() / 2];
    const std::string name = way.name;
    figures.push_back({name + "_token_ms", 1e3 * seconds});
    std::nth_element(parts.begin(), parts.begin() + static_cast<int64_t>(parts.size()) / 2, parts.end(),
                     [](const auto& a, const auto& b) { return a.second < b.second; });
    figures.push_back({name + "_begun_ms", 1e3 * parts[parts.size() / 2].first});
    figures.push_back({name + "_layers_ms", 1e3 * parts[parts.size() / 2].second});
    figures.push_back({name + "_device_mib", static_cast<double>((*decoder)->device_bytes()) / (1 << 20)});
    kernels::device::Properties now;
    if (kernels::device::Describe(0, &now).code == 0) {
      figures.push_back(
          {name + "_device_used_mib", static_cast<double>(now.memory_bytes - now.free_bytes) / (1 << 20)});
    }
    const double bytes = way.resident ? token_bytes : static_cast<double>(expert_bytes);
    figures.push_back(
        {name + "_share", 1e-9 * bytes / seconds / (way.resident ? copy_gbps : host_to_device_gbps)});
  }
  return figures;
}

}  // namespace omni
