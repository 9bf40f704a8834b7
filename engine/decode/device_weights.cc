#include "engine/decode/device_weights.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <future>
#include <memory>
#include <thread>
#include <unordered_map>
#include <utility>

#include <absl/strings/str_cat.h>
#include <absl/synchronization/mutex.h>

#include "engine/decode/worker_pool.h"

namespace omni {
namespace {

namespace device = kernels::device;

constexpr int64_t kAlign = 256;

// Walks over a model's weights twice: once for their size, once to copy them and to say where they are.
class Copier {
 public:
  Copier() = default;
  explicit Copier(uint8_t* to) : to_(to) {}

  template <typename T>
  void Put(const T*& memory, int64_t count) {
    if (memory == nullptr) return;
    const int64_t bytes = count * static_cast<int64_t>(sizeof(T));
    if (to_ != nullptr) {
      if (failure_.code == 0) failure_ = device::CopyIn(to_ + at_, memory, bytes, nullptr);
      memory = reinterpret_cast<const T*>(to_ + at_);
    }
    at_ += PadTo(bytes, kAlign);
  }
  void Put(TwoBitLinear& linear) {
    if (linear.m.base == nullptr) return;
    Put(linear.m.base, linear.m.num_groups * linear.m.num_blocks * kernels::kTernaryBlockBytes);
    Put(linear.scale, PadTo(linear.rows, kernels::kTwoBitRows));
  }
  int64_t bytes() const { return at_; }
  device::Failure failure() const { return failure_; }

 private:
  uint8_t* to_ = nullptr;
  int64_t at_ = 0;
  device::Failure failure_;
};

void PutAll(Copier& copier, ModelWeights& weights) {
  const ModelConfig& c = weights.config;
  copier.Put(weights.embedding.base,
             (c.vocab - 1) * weights.embedding.stride + weights.embedding.cols_padded);
  copier.Put(weights.embedding_scale, c.vocab);
  copier.Put(weights.norm_out, c.d);
  for (LayerWeights& layer : weights.layers) {
    copier.Put(layer.norm1, c.d);
    copier.Put(layer.norm2, c.d);
    for (TwoBitLinear* linear :
         {&layer.wp, &layer.wk, &layer.wq, &layer.wv, &layer.wo, &layer.gate, &layer.up, &layer.down}) {
      copier.Put(*linear);
    }
    copier.Put(layer.bp, c.d);
    copier.Put(layer.norm_readout, c.d);
    copier.Put(layer.route, 3 * c.d);
    copier.Put(layer.positions, 3 * c.num_experts());
    copier.Put(layer.route_bias, c.num_experts());
    copier.Put(layer.members, c.vocab);
  }
}

std::vector<int32_t> PlacesOf(const ModelConfig& c) {
  std::vector<int32_t> at;
  for (int64_t e = 0; e < c.num_experts(); ++e) {
    for (int64_t place = 0; place < c.experts_per_region(); ++place)
      at.push_back(c.ExpertOf(c.RegionOf(ExpertId(static_cast<int32_t>(e))), place).value);
  }
  return at;
}

}  // namespace

device::Experts ShapeOfExperts(const ModelConfig& config) {
  const TileLayout layout(config.d);
  device::Experts experts;
  experts.stride = experts.tiles = TilesPerExpert(config);
  experts.d = layout.d;
  experts.d_pad = layout.d_pad;
  experts.down_offset = layout.down_offset();
  experts.gate_scale_offset = layout.gate_scale_offset();
  experts.up_scale_offset = layout.up_scale_offset();
  return experts;
}

int64_t TileStrideOnDevice(const ModelConfig& config) {
  return PadTo(TileLayout(config.d).payload(), kAlign);
}

int64_t DeviceWeights::BytesFor(const ModelWeights& weights) {
  ModelWeights copy = weights;
  Copier copier;
  PutAll(copier, copy);
  return copier.bytes() +
         PadTo(4 * weights.config.num_experts() * weights.config.experts_per_region(), kAlign);
}

absl::StatusOr<DeviceWeights> DeviceWeights::Upload(const ModelWeights& weights, DevicePool& pool) {
  if (weights.embedding.stride % 16 != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "device: the embedding's rows are ", weights.embedding.stride, " bytes apart, not 16 or a multiple"));
  }
  const int64_t bytes = BytesFor(weights);
  absl::StatusOr<DeviceBuffer> buffer = pool.Allocate(bytes, "the shared weights");
  if (!buffer.ok()) return buffer.status();
  DeviceWeights made;
  made.bytes_ = *std::move(buffer);
  made.view_ = weights;
  Copier copier(made.bytes_.data());
  PutAll(copier, made.view_);
  const std::vector<int32_t> places = PlacesOf(weights.config);
  const int32_t* expert_at = places.data();
  copier.Put(expert_at, static_cast<int64_t>(places.size()));
  made.expert_at_ = expert_at;
  if (absl::Status s = DeviceStatus(copier.failure(), "copying the shared weights"); !s.ok()) return s;
  if (absl::Status s = DeviceStatus(device::Synchronize(nullptr), "copying the shared weights"); !s.ok())
    return s;
  return made;
}

namespace {

// As many as keep up with a link of some tens of gigabytes a second, and no more than half of the machine's.
int CopierThreads() { return static_cast<int>(std::clamp(std::thread::hardware_concurrency() / 2, 1u, 8u)); }

// Towards the source, beside the regions.
constexpr RequesterId kRequester(1 << 20);

}  // namespace

struct DeviceExperts::Impl {
  explicit Impl(const ModelConfig& c, ExpertSource& experts)
      : config(c), source(experts), shape(ShapeOfExperts(c)), stride(TileStrideOnDevice(c)) {}
  ~Impl() {
    source.ForgetRequester(kRequester);
    for (Slot& slot : slots) {
      for (device::Event* event : {&slot.filled, &slot.used}) {
        if (*event != nullptr) device::DeleteEvent(*event);
      }
    }
    if (copies != nullptr) device::DeleteStream(copies);
  }

  // By the name under which it is read ahead, so that the source knows that it has come to that. Waits; tiles
  // may have to be checked.
  absl::StatusOr<ExpertTiles> Ask(LayerId layer, ExpertId expert) {
    const auto asked = std::make_shared<std::promise<absl::StatusOr<ExpertTiles>>>();
    source.Request(kRequester, layer, expert,
                   [asked](absl::StatusOr<ExpertTiles> tiles) { asked->set_value(std::move(tiles)); });
    return asked->get_future().get();
  }

  struct Slot;
  absl::Status Gather(const ExpertTiles& from, const Slot& slot);
  absl::Status CopyThroughPinned(const ExpertTiles& from, const Slot& slot);

  const ModelConfig config;
  ExpertSource& source;
  device::Experts shape;
  int64_t stride;  // of tiles in the device's memory

  // Resident.
  DeviceBuffer tiles, tables;
  std::vector<int64_t> table_of_layer;  // by layer, in `tables`; -1: none

  // Streamed: `filled` when an expert is here, `used` when what needed the one before is done.
  struct Slot {
    DeviceBuffer tiles;
    PinnedBuffer pinned;
    const uint8_t* const* table = nullptr;
    device::Event filled = nullptr, used = nullptr;
    int64_t layer = -1;
    int32_t expert = -1;
    bool pinned_busy = false;
  };
  std::array<Slot, 2> slots;
  int next = 0;  // to be filled
  DeviceBuffer slot_tables;
  device::Stream copies = nullptr;
  bool source_is_pinned = false;
  // Where the tiles are that the device gathers from pinned memory, of the experts on their way, one after
  // the other and from the start again; in pinned memory itself.
  static constexpr int64_t kSources = 256;
  PinnedBuffer sources;
  int64_t next_source = 0;
  std::unique_ptr<WorkerPool> copiers;  // where the source is not pinned
  int64_t brought = 0;
};

// The device itself fetches the tiles, wherever they lie.
absl::Status DeviceExperts::Impl::Gather(const ExpertTiles& from, const Slot& slot) {
  device::Failure failure;
  if (next_source == kSources) {  // what is on its way still reads them
    failure = device::Synchronize(copies);
    next_source = 0;
  }
  const uint8_t** source = sources.as<const uint8_t*>() + next_source++ * shape.tiles;
  for (int64_t t = 0; t < shape.tiles; ++t) {
    if (from.check) {
      if (absl::Status s = from.check(t); !s.ok()) return s;
    }
    source[t] = from.tiles[static_cast<size_t>(t)];
  }
  if (failure.code == 0)
    device::Gather(source, shape.tiles, TileLayout(config.d).payload(), slot.tiles.data(), stride, copies);
  return DeviceStatus(failure, "streaming an expert");
}

absl::Status DeviceExperts::Impl::CopyThroughPinned(const ExpertTiles& from, const Slot& slot) {
  const auto payload = static_cast<size_t>(TileLayout(config.d).payload());
  absl::Mutex mutex;
  absl::Status status;
  copiers->Run(shape.tiles, 4, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      if (from.check) {
        if (absl::Status s = from.check(t); !s.ok()) {
          const absl::MutexLock lock(&mutex);
          status.Update(s);
          return;
        }
      }
      std::memcpy(slot.pinned.as<uint8_t>(t * stride), from.tiles[static_cast<size_t>(t)], payload);
    }
  });
  if (!status.ok()) return status;
  return DeviceStatus(
      device::CopyIn(slot.tiles.data(), slot.pinned.as<uint8_t>(), shape.tiles * stride, copies),
      "streaming an expert");
}

DeviceExperts::DeviceExperts(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
DeviceExperts::~DeviceExperts() = default;
DeviceExperts::DeviceExperts(DeviceExperts&&) noexcept = default;
DeviceExperts& DeviceExperts::operator=(DeviceExperts&&) noexcept = default;

bool DeviceExperts::resident() const { return impl_->copies == nullptr; }
int64_t DeviceExperts::bytes_brought() const { return impl_->brought; }

namespace {

// All experts of a model. Tiles that experts share are one in the host's memory, and so they are in the
// device's.
struct AllTiles {
  std::vector<const uint8_t*> distinct;
  std::vector<int64_t> wanted;          // by layer, expert and tile: its number in `distinct`
  std::vector<int64_t> first_of_layer;  // in `wanted`; -1: none
  std::vector<ExpertTiles> kept;
};

absl::StatusOr<AllTiles> TilesOf(const ModelConfig& config, ExpertSource& source) {
  const int64_t per_expert = TilesPerExpert(config);
  AllTiles all;
  std::unordered_map<const uint8_t*, int64_t> number;
  for (int64_t l = 0; l < config.layers; ++l) {
    all.first_of_layer.push_back(config.IsAttention(l) ? -1 : static_cast<int64_t>(all.wanted.size()));
    if (config.IsAttention(l)) continue;
    for (int64_t e = 0; e < config.num_experts(); ++e) {
      absl::StatusOr<ExpertTiles> tiles =
          source.Acquire(LayerId(static_cast<int32_t>(l)), ExpertId(static_cast<int32_t>(e)));
      if (!tiles.ok()) return tiles.status();
      for (int64_t t = 0; t < per_expert; ++t) {
        if (tiles->check) {
          if (absl::Status s = tiles->check(t); !s.ok()) return s;
        }
        const uint8_t* tile = tiles->tiles[static_cast<size_t>(t)];
        const auto [it, is_new] = number.emplace(tile, static_cast<int64_t>(all.distinct.size()));
        if (is_new) all.distinct.push_back(tile);
        all.wanted.push_back(it->second);
      }
      all.kept.push_back(*std::move(tiles));
    }
  }
  return all;
}

}  // namespace

absl::StatusOr<int64_t> DeviceExperts::BytesForResident(const ModelConfig& config, ExpertSource& source) {
  const absl::StatusOr<AllTiles> all = TilesOf(config, source);
  if (!all.ok()) return all.status();
  return static_cast<int64_t>(all->distinct.size()) * TileStrideOnDevice(config) +
         static_cast<int64_t>(all->wanted.size() * sizeof(const uint8_t*));
}

absl::StatusOr<DeviceExperts> DeviceExperts::Resident(const ModelConfig& config, ExpertSource& source,
                                                      DevicePool& pool) {
  auto impl = std::make_unique<Impl>(config, source);
  const int64_t payload = TileLayout(config.d).payload();
  absl::StatusOr<AllTiles> all = TilesOf(config, source);
  if (!all.ok()) return all.status();
  const std::vector<const uint8_t*>& distinct = all->distinct;
  const std::vector<int64_t>& wanted = all->wanted;
  impl->table_of_layer = std::move(all->first_of_layer);
  absl::StatusOr<DeviceBuffer> tiles =
      pool.Allocate(static_cast<int64_t>(distinct.size()) * impl->stride, "the experts' tiles");
  if (!tiles.ok()) return tiles.status();
  impl->tiles = *std::move(tiles);
  absl::StatusOr<DeviceBuffer> tables = pool.Allocate(
      static_cast<int64_t>(wanted.size() * sizeof(const uint8_t*)), "the tables of the experts' tiles");
  if (!tables.ok()) return tables.status();
  impl->tables = *std::move(tables);
  std::vector<const uint8_t*> table;
  for (int64_t tile : wanted) table.push_back(impl->tiles.data() + tile * impl->stride);
  device::Failure failure = device::CopyIn(impl->tables.data(), table.data(), impl->tables.bytes(), nullptr);
  for (size_t i = 0; i < distinct.size() && failure.code == 0; ++i) {
    failure = device::CopyIn(impl->tiles.data() + static_cast<int64_t>(i) * impl->stride, distinct[i],
                             payload, nullptr);
  }
  if (failure.code == 0) failure = device::Synchronize(nullptr);
  if (absl::Status s = DeviceStatus(failure, "copying the experts"); !s.ok()) return s;
  return DeviceExperts(std::move(impl));
}

device::Experts DeviceExperts::Of(LayerId layer) const {
  device::Experts experts = impl_->shape;
  experts.table = impl_->tables.as<const uint8_t*>() + impl_->table_of_layer[layer.index()];
  return experts;
}

absl::StatusOr<DeviceExperts> DeviceExperts::Streamed(const ModelConfig& config, ExpertSource& source,
                                                      DevicePool& pool, bool source_is_pinned) {
  auto impl = std::make_unique<Impl>(config, source);
  impl->source_is_pinned = source_is_pinned;
  if (!source_is_pinned) impl->copiers = std::make_unique<WorkerPool>(CopierThreads());
  const int64_t tiles = impl->shape.tiles, table_bytes = tiles * static_cast<int64_t>(sizeof(const uint8_t*));
  if (source_is_pinned) {
    absl::StatusOr<PinnedBuffer> sources = PinnedBuffer::Make(Impl::kSources * table_bytes);
    if (!sources.ok()) return sources.status();
    impl->sources = *std::move(sources);
  }
  absl::StatusOr<DeviceBuffer> tables = pool.Allocate(2 * table_bytes, "the tables of two experts' tiles");
  if (!tables.ok()) return tables.status();
  impl->slot_tables = *std::move(tables);
  std::vector<const uint8_t*> table;
  device::Failure failure = device::NewStream(&impl->copies);
  for (Impl::Slot& slot : impl->slots) {
    absl::StatusOr<DeviceBuffer> buffer = pool.Allocate(tiles * impl->stride, "a buffer of one expert");
    if (!buffer.ok()) return buffer.status();
    slot.tiles = *std::move(buffer);
    if (!source_is_pinned) {
      absl::StatusOr<PinnedBuffer> pinned = PinnedBuffer::Make(tiles * impl->stride);
      if (!pinned.ok()) return pinned.status();
      slot.pinned = *std::move(pinned);
    }
    slot.table = impl->slot_tables.as<const uint8_t*>() + table.size();
    for (int64_t t = 0; t < tiles; ++t) table.push_back(slot.tiles.data() + t * impl->stride);
    for (device::Event* event : {&slot.filled, &slot.used}) {
      if (failure.code == 0) failure = device::NewEvent(event);
    }
  }
  if (failure.code == 0)
    failure = device::CopyIn(impl->slot_tables.data(), table.data(), 2 * table_bytes, nullptr);
  if (failure.code == 0) failure = device::Synchronize(nullptr);
  if (absl::Status s = DeviceStatus(failure, "preparing to stream experts"); !s.ok()) return s;
  return DeviceExperts(std::move(impl));
}

void DeviceExperts::Foresee(LayerId layer, ExpertId expert) {
  impl_->source.ReadAhead(kRequester, layer, {&expert, 1}, Foresight::kKnown);
}

absl::Status DeviceExperts::Bring(LayerId layer, ExpertId expert, device::Stream compute) {
  Impl& impl = *impl_;
  for (const Impl::Slot& slot : impl.slots) {
    if (slot.layer == layer.value && slot.expert == expert.value) return absl::OkStatus();
  }
  absl::StatusOr<ExpertTiles> tiles = impl.Ask(layer, expert);
  if (!tiles.ok()) return tiles.status();
  Impl::Slot& slot = impl.slots[static_cast<size_t>(impl.next)];
  impl.next = 1 - impl.next;
  slot.layer = -1;
  // What may still read the buffer is on `compute` by now; the pinned memory is free when its last copy is
  // over.
  device::Failure failure = device::Record(slot.used, compute);
  if (failure.code == 0) failure = device::WaitFor(impl.copies, slot.used);
  if (failure.code == 0 && slot.pinned_busy) failure = device::Await(slot.filled);
  const int64_t payload = TileLayout(impl.config.d).payload(), count = impl.shape.tiles;
  if (failure.code == 0) {
    if (absl::Status s =
            impl.source_is_pinned ? impl.Gather(*tiles, slot) : impl.CopyThroughPinned(*tiles, slot);
        !s.ok()) {
      return s;
    }
  }
  if (failure.code == 0) failure = device::Record(slot.filled, impl.copies);
  if (absl::Status s = DeviceStatus(failure, "streaming an expert"); !s.ok()) return s;
  slot.pinned_busy = !impl.source_is_pinned;
  slot.layer = layer.value;
  slot.expert = expert.value;
  impl.brought += count * payload;
  return absl::OkStatus();
}

absl::StatusOr<device::Experts> DeviceExperts::Brought(LayerId layer, ExpertId expert,
                                                       device::Stream compute) {
  if (absl::Status s = Bring(layer, expert, compute); !s.ok()) return s;
  for (const Impl::Slot& slot : impl_->slots) {
    if (slot.layer != layer.value || slot.expert != expert.value) continue;
    if (absl::Status s = DeviceStatus(device::WaitFor(compute, slot.filled), "streaming an expert"); !s.ok())
      return s;
    device::Experts experts = impl_->shape;
    experts.table = slot.table;
    experts.only = expert.value;
    return experts;
  }
  return absl::InternalError("device: an expert that was brought is not there");
}

}  // namespace omni
