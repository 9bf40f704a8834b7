#include "engine/decode/device_expert_runner.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

#include <absl/strings/str_cat.h>

#include "engine/base/log.h"
#include "engine/decode/device_memory.h"
#include "engine/decode/device_weights.h"

namespace omni {
namespace {

namespace device = kernels::device;

constexpr int64_t kMaxRows = 64;  // of a job in one piece

}  // namespace

struct DeviceExpertRunner::Impl {
  Impl(const ModelConfig& c, WorkerPool& workers, std::shared_ptr<DevicePool> p, int64_t keep)
      : config(c), cpu(workers), pool(std::move(p)), keep_free(keep), shape(ShapeOfExperts(c)) {}
  ~Impl() {
    pool->Enter();
    if (stream != nullptr) device::DeleteStream(stream);
  }

  // One expert in the device's memory.
  struct Held {
    DeviceBuffer tiles, table;
    int64_t layer = -1;
    int32_t expert = -1;
    uint64_t used = 0;
  };

  absl::Status Allocate();
  absl::StatusOr<Held*> Room();
  absl::StatusOr<Held*> Bring(const ExpertTiles& tiles, const ExpertJob& job);
  absl::Status Rows(const Held& expert, const ExpertJob& job, std::span<const int32_t> rows, float* out);
  absl::Status OnDevice(const ExpertTiles& tiles, const ExpertJob& job, float* out);

  const ModelConfig& config;
  WorkerPool& cpu;
  std::shared_ptr<DevicePool> pool;
  const int64_t keep_free;
  const device::Experts shape;
  int64_t width = 0, f_width = 0, tile_stride = 0;
  device::Stream stream = nullptr;
  DeviceBuffer q, scale, sum, routes, a, largest, qa, qa_scale, qa_sum, y;
  PinnedBuffer in, out_host, tiles_host;
  std::vector<std::unique_ptr<Held>> held;
  bool full = false;    // no more are allocated
  int64_t budget = -1;  // for those beyond the first; -1: not known yet
  uint64_t uses = 0;
  bool lost = false;

  mutable std::mutex mutex;
  ExpertRunnerReport report;
};

absl::Status DeviceExpertRunner::Impl::Allocate() {
  pool->Enter();
  width = PadTo(config.d, 64);
  f_width = TilesPerExpert(config) * kTileNeurons;
  tile_stride = TileStrideOnDevice(config);
  if (absl::Status s = DeviceStatus(device::NewStream(&stream), "making a stream"); !s.ok()) return s;
  const int64_t R = kMaxRows;
  for (const auto& [buffer, bytes] :
       {std::pair(&q, R * width), std::pair(&scale, 4 * R), std::pair(&sum, 4 * R), std::pair(&routes, 4 * R),
        std::pair(&a, 4 * R * f_width), std::pair(&largest, 4 * R), std::pair(&qa, R * f_width),
        std::pair(&qa_scale, 4 * R), std::pair(&qa_sum, 4 * R), std::pair(&y, 4 * R * width)}) {
    absl::StatusOr<DeviceBuffer> made = pool->Allocate(bytes, "rows of experts");
    if (!made.ok()) return made.status();
    *buffer = *std::move(made);
    // Columns that pad a row stay zero, and every route leads to the one expert of a job.
    if (absl::Status s = DeviceStatus(device::Zero(buffer->data(), bytes, stream), "clearing"); !s.ok())
      return s;
  }
  for (const auto& [buffer, bytes] : {std::pair(&in, R * (width + 8)), std::pair(&out_host, 4 * R * width),
                                      std::pair(&tiles_host, shape.tiles * tile_stride)}) {
    absl::StatusOr<PinnedBuffer> made = PinnedBuffer::Make(bytes);
    if (!made.ok()) return made.status();
    *buffer = *std::move(made);
  }
  const absl::StatusOr<Held*> first = Room();
  return first.status();
}

// Room for one more, or that of the one whose last use is longest ago.
absl::StatusOr<DeviceExpertRunner::Impl::Held*> DeviceExpertRunner::Impl::Room() {
  for (const auto& one : held) {
    if (one->layer < 0) return one.get();
  }
  const int64_t bytes = shape.tiles * tile_stride;
  const int64_t table_bytes = shape.tiles * static_cast<int64_t>(sizeof(const uint8_t*));
  // What others give back later is not its own to take.
  if (held.size() == 1 && budget < 0) budget = pool->left() - keep_free;
  if (!full && (held.empty() || budget >= bytes + table_bytes)) {
    if (!held.empty()) budget -= bytes + table_bytes;
    auto made = std::make_unique<Held>();
    absl::StatusOr<DeviceBuffer> tiles = pool->Allocate(bytes, "an expert of a region");
    absl::StatusOr<DeviceBuffer> table = pool->Allocate(table_bytes, "the table of an expert's tiles");
    if (tiles.ok() && table.ok()) {
      made->tiles = *std::move(tiles);
      made->table = *std::move(table);
      std::vector<const uint8_t*> at;
      for (int64_t t = 0; t < shape.tiles; ++t) at.push_back(made->tiles.data() + t * tile_stride);
      device::Failure failure = device::CopyIn(made->table.data(), at.data(), table_bytes, stream);
      if (failure.code == 0) failure = device::Synchronize(stream);
      if (absl::Status s = DeviceStatus(failure, "preparing for an expert"); !s.ok()) return s;
      held.push_back(std::move(made));
      return held.back().get();
    }
    if (held.empty()) return tiles.ok() ? table.status() : tiles.status();
  }
  full = true;
  return std::min_element(held.begin(), held.end(),
                          [](const auto& x, const auto& z) { return x->used < z->used; })
      ->get();
}

absl::StatusOr<DeviceExpertRunner::Impl::Held*> DeviceExpertRunner::Impl::Bring(const ExpertTiles& tiles,
                                                                                const ExpertJob& job) {
  for (const auto& one : held) {
    if (one->layer != job.layer.value || one->expert != job.expert.value) continue;
    one->used = ++uses;
    return one.get();
  }
  const absl::StatusOr<Held*> room = Room();
  if (!room.ok()) return room;
  Held& to = **room;
  to.layer = -1;
  const int64_t payload = TileLayout(config.d).payload();
  for (int64_t t = 0; t < shape.tiles; ++t) {
    if (tiles.check) {
      if (absl::Status s = tiles.check(t); !s.ok()) return s;
    }
    std::memcpy(tiles_host.as<uint8_t>(t * tile_stride), tiles.tiles[static_cast<size_t>(t)],
                static_cast<size_t>(payload));
  }
  const int64_t bytes = shape.tiles * tile_stride;
  // Nothing of an earlier job is under way: each waits for its end.
  if (absl::Status s = DeviceStatus(device::CopyIn(to.tiles.data(), tiles_host.as<uint8_t>(), bytes, stream),
                                    "bringing an expert");
      !s.ok()) {
    return s;
  }
  to.layer = job.layer.value;
  to.expert = job.expert.value;
  to.used = ++uses;
  std::lock_guard lock(mutex);
  report.bytes_streamed += bytes;
  report.held = std::ssize(held);
  return &to;
}

absl::Status DeviceExpertRunner::Impl::Rows(const Held& expert, const ExpertJob& job,
                                            std::span<const int32_t> rows, float* out) {
  const int n = static_cast<int>(rows.size());
  int8_t* q_in = in.as<int8_t>();
  float* scale_in = in.as<float>(kMaxRows * width);
  int32_t* sum_in = in.as<int32_t>(kMaxRows * (width + 4));
  for (int i = 0; i < n; ++i) {
    const int32_t row = rows[static_cast<size_t>(i)];
    const int8_t* from = job.q + row * job.q_stride;
    std::memcpy(q_in + i * width, from, static_cast<size_t>(width));
    scale_in[i] = job.scale[row];
    sum_in[i] = std::accumulate(from, from + width, int32_t{0});
  }
  device::Failure failure = device::CopyIn(q.data(), q_in, n * width, stream);
  const auto next = [&](device::Failure f) {
    if (failure.code == 0) failure = f;
  };
  next(device::CopyIn(scale.data(), scale_in, 4 * n, stream));
  next(device::CopyIn(sum.data(), sum_in, 4 * n, stream));
  next(device::Zero(largest.data(), 4 * n, stream));
  next(device::Zero(qa_sum.data(), 4 * n, stream));
  next(device::Zero(y.data(), 4 * n * width, stream));
  device::Experts experts = shape;
  experts.table = expert.table.as<const uint8_t*>();
  const device::Quantized x{q.as<int8_t>(), width, scale.as<float>(), sum.as<int32_t>()};
  const device::Quantized quantized{qa.as<int8_t>(), f_width, qa_scale.as<float>(), qa_sum.as<int32_t>()};
  device::ExpertGateUp(experts, routes.as<int32_t>(), x, n, a.as<float>(), f_width, largest.as<uint32_t>(),
                       stream);
  device::QuantizeKnown(a.as<float>(), f_width, n, f_width, largest.as<uint32_t>(), quantized, stream);
  device::ExpertDown(experts, routes.as<int32_t>(), quantized, n, y.as<float>(), width, stream);
  next(device::CopyOut(out_host.as<float>(), y.data(), 4 * n * width, stream));
  next(device::Synchronize(stream));
  if (absl::Status s = DeviceStatus(failure, "an expert"); !s.ok()) return s;
  for (int i = 0; i < n; ++i) std::copy_n(out_host.as<float>() + i * width, config.d, out + i * config.d);
  return absl::OkStatus();
}

absl::Status DeviceExpertRunner::Impl::OnDevice(const ExpertTiles& tiles, const ExpertJob& job, float* out) {
  pool->Enter();
  const absl::StatusOr<Held*> expert = Bring(tiles, job);
  if (!expert.ok()) return expert.status();
  const std::span<const int32_t> rows = job.rows;
  for (size_t at = 0; at < rows.size(); at += kMaxRows) {
    const std::span<const int32_t> piece = rows.subspan(at, std::min<size_t>(kMaxRows, rows.size() - at));
    if (absl::Status s = Rows(**expert, job, piece, out + static_cast<int64_t>(at) * config.d); !s.ok())
      return s;
  }
  return absl::OkStatus();
}

DeviceExpertRunner::DeviceExpertRunner(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
DeviceExpertRunner::~DeviceExpertRunner() = default;

absl::StatusOr<std::unique_ptr<DeviceExpertRunner>> DeviceExpertRunner::Create(
    const ModelConfig& config, WorkerPool& cpu, std::shared_ptr<DevicePool> pool, int64_t keep_free) {
  auto impl = std::make_unique<Impl>(config, cpu, std::move(pool), keep_free);
  if (absl::Status s = impl->Allocate(); !s.ok()) return s;
  return std::unique_ptr<DeviceExpertRunner>(new DeviceExpertRunner(std::move(impl)));
}

absl::Status DeviceExpertRunner::Run(const ExpertTiles& expert, const ExpertJob& job, float* out) {
  Impl& impl = *impl_;
  // What is wrong with a job, the CPU says.
  const bool whole = std::ssize(expert.tiles) == impl.shape.tiles && !job.rows.empty();
  if (!impl.lost && whole) {
    const absl::Status done = impl.OnDevice(expert, job, out);
    if (!IsDeviceFailure(done)) {
      std::lock_guard lock(impl.mutex);
      ++impl.report.jobs;
      return done;
    }
    impl.lost = true;
    LogWarning("device_lost", "device {device} is given up, and the CPU goes on: {reason}",
               {{"device", impl.pool->properties().name}, {"reason", done.message()}});
    std::lock_guard lock(impl.mutex);
    impl.report.lost = true;
  }
  {
    std::lock_guard lock(impl.mutex);
    ++impl.report.fallbacks;
  }
  return RunExpert(impl.config, expert, job, impl.cpu, out);
}

ExpertRunnerReport DeviceExpertRunner::Report() const {
  std::lock_guard lock(impl_->mutex);
  ExpertRunnerReport report = impl_->report;
  const DevicePool& pool = *impl_->pool;
  report.name = pool.properties().name;
  report.memory_used = pool.used();
  report.memory_cap = pool.cap() > 0 ? pool.cap() : pool.properties().free_bytes;
  return report;
}

}  // namespace omni
