#include "engine/decode/expert.h"

#include <algorithm>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include <absl/strings/str_cat.h>

#include "engine/decode/pass.h"
#include "engine/decode/scratch.h"

namespace omni {
namespace {

constexpr int64_t kTileRows = 2 * kTileNeurons;  // gate and up rows of a tile, interleaved
constexpr int64_t kTileGroups = (kTileRows + kernels::kTernaryRows - 1) / kernels::kTernaryRows;
constexpr int64_t kAccStride = (kTileGroups * kernels::kTernaryRows + 15) / 16 * 16;
// Rows that meet a tile together: enough to amortise unpacking its trits, few enough that their sums stay in
// the first-level cache (32 x 144 x 4 bytes).
constexpr int64_t kRowBlock = 32;

// Buffers of a calling thread, grown once; helpers write into the caller's.
struct ExpertScratch {
  Scratch<int8_t> q_in, q_a;
  Scratch<float> scale_in, scale_a, a, ones;
  Scratch<int32_t> acc;
  Scratch<const uint8_t*> down;
};

// The job's inputs as adjacent rows, copied only if they are not adjacent already.
QuantizedRows Gather(const ExpertJob& job, int64_t d_pad, ExpertScratch& scratch) {
  const int64_t n = static_cast<int64_t>(job.rows.size()), first = job.rows.front();
  if (job.rows.back() - first == n - 1) {
    return {job.q + first * job.q_stride, job.q_stride, job.scale + first};
  }
  int8_t* q = scratch.q_in.Reserve(n * d_pad);
  float* scale = scratch.scale_in.Reserve(n);
  for (int64_t i = 0; i < n; ++i) {
    const int64_t row = job.rows[static_cast<size_t>(i)];
    std::copy_n(job.q + row * job.q_stride, d_pad, q + i * d_pad);
    scale[i] = job.scale[row];
  }
  return {q, d_pad, scale};
}

// The product asks for the groups that follow within a tile; the first of the next tile are asked for here.
void AskFor(const uint8_t* memory, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(memory + i, 0, 2);
}

// a[row][64 t ..] of every row for one tile; `next`, if not null, is the tile to be taken next.
void RunTile(const TileLayout& layout, const uint8_t* tile, const uint8_t* next, const QuantizedRows& in,
             int64_t n, int64_t a_stride, float* a, const kernels::Ops& ops) {
  static thread_local Scratch<int32_t> thread_acc;
  int32_t* acc = thread_acc.Reserve(kRowBlock * kAccStride);
  kernels::TernaryMatrix rows;
  rows.base = tile;
  rows.group_stride = layout.d_pad;
  rows.num_blocks = layout.d_pad / kernels::kTernaryCols;
  rows.num_groups = kTileGroups;
  const float* gate_scale = reinterpret_cast<const float*>(tile + layout.gate_scale_offset());
  const float* up_scale = reinterpret_cast<const float*>(tile + layout.up_scale_offset());
  for (int64_t begin = 0; begin < n; begin += kRowBlock) {
    const int64_t count = std::min(kRowBlock, n - begin);
    ops.ternary(rows, in.q + begin * in.stride, in.stride, static_cast<int>(count), acc, kAccStride, 0,
                kTileGroups);
    if (next != nullptr && begin == 0) AskFor(next, 2 * layout.d_pad);
    for (int64_t i = 0; i < count; ++i) {
      const int32_t* sums = acc + i * kAccStride;
      ops.swiglu(sums, sums + 1, 2, gate_scale, up_scale, in.scale[begin + i], kTileNeurons,
                 a + (begin + i) * a_stride);
    }
  }
}

absl::Status CheckJob(const ModelConfig& config, size_t tiles, const ExpertJob& job) {
  const int64_t want = TilesPerExpert(config);
  if (static_cast<int64_t>(tiles) != want) {
    return absl::InvalidArgumentError(absl::StrCat("expert ", job.expert.value, ", layer ", job.layer.value,
                                                   ": ", tiles, " tiles, the configuration has ", want));
  }
  if (job.rows.empty() || job.q == nullptr || job.scale == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("expert ", job.expert.value, ", layer ", job.layer.value,
                                                   ": a job without rows or inputs"));
  }
  return absl::OkStatus();
}

// What both ways of running an expert do, on n rows.
struct ExpertPass {
  ExpertPass(const ModelConfig& config, int64_t rows, WorkerPool& workers, const kernels::Ops& kernel_ops)
      : layout(config.d),
        tiles(TilesPerExpert(config)),
        f_pad(tiles * kTileNeurons),
        n(rows),
        pool(workers),
        ops(kernel_ops) {}

  // a[row][neurons of the tile] of the tiles with these numbers.
  template <typename Number>
  absl::Status Gate(const ExpertTiles& expert, int64_t count, const QuantizedRows& in, float* a,
                    const Number& number) {
    const std::span<const uint8_t* const> tile = expert.tiles;
    std::mutex mutex;
    absl::Status damaged;
    pool.Run(count, Pass::Grain(n * kTileRows * layout.d_pad), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const uint8_t* next = i + 1 < end ? tile[static_cast<size_t>(number(i + 1))] : nullptr;
        const int64_t t = number(i);
        if (expert.check) {
          if (absl::Status s = expert.check(t); !s.ok()) {
            std::lock_guard lock(mutex);
            damaged.Update(s);
            continue;
          }
        }
        RunTile(layout, tile[static_cast<size_t>(t)], next, in, n, f_pad, a + t * kTileNeurons, ops);
      }
    });
    return damaged;
  }

  // out = down(a), whose rows it quantises first.
  void Down(const uint8_t* const* tile, const float* a, ExpertScratch& scratch, float* out) {
    const int64_t d = layout.d;
    QuantizeRows(a, scratch);
    const kernels::TernaryMatrix down = Columns(tile, 0, tiles, scratch);
    const float* ones = Ones(scratch);
    const int64_t acc_stride = AccStride();
    int32_t* acc = scratch.acc.Reserve(n * acc_stride);
    // One range a thread: a column of a tile is read as one stretch, and a stretch that ends early was
    // fetched too far.
    const int64_t grain = std::max(Pass::Grain(n * kernels::kTernaryRows * f_pad),
                                   (down.num_groups + pool.threads() - 1) / pool.threads());
    pool.Run(down.num_groups, grain, [&](int64_t begin, int64_t end) {
      ops.ternary(down, scratch.q_a.data(), f_pad, static_cast<int>(n), acc, acc_stride, begin, end);
      const int64_t first = begin * kernels::kTernaryRows, last = std::min(end * kernels::kTernaryRows, d);
      for (int64_t i = 0; i < n; ++i) {
        ops.scale_rows(acc + i * acc_stride + first, ones, scratch.scale_a.data()[i], last - first,
                       out + i * d + first);
      }
    });
  }

  // The rows of a, in scratch.q_a and scale_a.
  void QuantizeRows(const float* a, ExpertScratch& scratch) {
    int8_t* q = scratch.q_a.Reserve(n * f_pad);
    float* scale = scratch.scale_a.Reserve(n);
    pool.Run(n, Pass::Grain(f_pad * Pass::kFloatCost), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        ops.quantize(a + i * f_pad, f_pad, f_pad, q + i * f_pad, scale + i);
    });
  }

  // Down's columns that the tiles first .. end hold.
  kernels::TernaryMatrix Columns(const uint8_t* const* tile, int64_t first, int64_t end,
                                 ExpertScratch& scratch) {
    const uint8_t** table = scratch.down.Reserve(tiles);
    for (int64_t t = first; t < end; ++t) table[t - first] = tile[t] + layout.down_offset();
    kernels::TernaryMatrix down;
    down.table = table;
    down.group_stride = kernels::kTernaryBlockBytes;
    down.num_blocks = end - first;
    down.num_groups = layout.down_groups();
    return down;
  }

  // The column scales live in s_u, so the rows of down have scale 1.
  const float* Ones(ExpertScratch& scratch) {
    float* ones = scratch.ones.Reserve(layout.d);
    std::fill_n(ones, layout.d, 1.0f);
    return ones;
  }

  int64_t AccStride() const { return PadTo(layout.down_groups() * kernels::kTernaryRows, 16); }

  TileLayout layout;
  int64_t tiles, f_pad, n;
  WorkerPool& pool;
  const kernels::Ops& ops;
};

}  // namespace

absl::Status RunExpert(const ModelConfig& config, const ExpertTiles& expert, const ExpertJob& job,
                       WorkerPool& pool, float* out, const kernels::Ops& ops) {
  if (absl::Status s = CheckJob(config, expert.tiles.size(), job); !s.ok()) return s;
  static thread_local ExpertScratch scratch;
  ExpertPass pass(config, static_cast<int64_t>(job.rows.size()), pool, ops);
  const QuantizedRows in = Gather(job, pass.layout.d_pad, scratch);
  float* a = scratch.a.Reserve(pass.n * pass.f_pad);
  const absl::Status s = pass.Gate(expert, pass.tiles, in, a, [](int64_t i) { return i; });
  if (!s.ok()) return s;
  pass.Down(expert.tiles.data(), a, scratch, out);
  return absl::OkStatus();
}

int64_t SharedTiles(std::span<const ExpertTiles> experts) {
  int64_t shared = 0;
  for (size_t t = 0; t < experts[0].tiles.size(); ++t) {
    shared += std::all_of(experts.begin(), experts.end(), [&](const ExpertTiles& expert) {
      return t < expert.tiles.size() && expert.tiles[t] == experts[0].tiles[t];
    });
  }
  return shared;
}

namespace {

// RunExperts, in its three parts.
class ManyExperts {
 public:
  ManyExperts(const ModelConfig& config, std::span<const ExpertTiles> experts,
              std::span<const ExpertJob> jobs, int64_t rows, WorkerPool& pool, const kernels::Ops& ops,
              ExpertScratch& scratch)
      : experts_(experts), jobs_(jobs), scratch_(scratch), pass_(config, rows, pool, ops) {
    a_ = scratch.a.Reserve(rows * pass_.f_pad);
    Order();
  }

  // a. A tile that neighbours share meets their rows at once.
  void Gate() {
    struct Use {
      const uint8_t* tile;
      int64_t place, first, count;  // rows
    };
    std::vector<Use> uses;
    for (int64_t place = 0; place < pass_.tiles; ++place) {
      const int64_t t = order_[static_cast<size_t>(place)];
      int64_t first = 0, count = 0;
      for (size_t i = 0; i < jobs_.size(); ++i) {
        count += Rows(i);
        if (i + 1 < jobs_.size() && Tile(i + 1, t) == Tile(i, t)) continue;
        uses.push_back({Tile(i, t), place, first, count});
        first += std::exchange(count, 0);
      }
    }
    const ExpertJob& all = jobs_[0];
    const int64_t cost = pass_.n * pass_.tiles * kTileRows * pass_.layout.d_pad / std::ssize(uses);
    pass_.pool.Run(std::ssize(uses), Pass::Grain(cost), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const Use& use = uses[static_cast<size_t>(i)];
        const QuantizedRows in{all.q + use.first * all.q_stride, all.q_stride, all.scale + use.first};
        RunTile(pass_.layout, use.tile, nullptr, in, use.count, pass_.f_pad,
                a_ + use.first * pass_.f_pad + use.place * kTileNeurons, pass_.ops);
      }
    });
  }

  // out = down(a): the columns that all share for all rows at once, the others by job.
  void Down(float* out) {
    pass_.QuantizeRows(a_, scratch_);
    const float* ones = pass_.Ones(scratch_);
    const int64_t stride = pass_.AccStride();
    int32_t* acc = scratch_.acc.Reserve(2 * pass_.n * stride);
    int32_t* own = shared_ > 0 ? acc + pass_.n * stride : acc;
    const uint8_t** columns = Columns();
    const int64_t groups = pass_.layout.down_groups(), d = pass_.layout.d;
    // One range a thread, as in ExpertPass::Down; products of several rows also take many groups at once.
    const int64_t grain = std::max(Pass::Grain(pass_.n * kernels::kTernaryRows * pass_.f_pad),
                                   (groups + pass_.pool.threads() - 1) / pass_.pool.threads());
    pass_.pool.Run(groups, grain, [&](int64_t begin, int64_t end) {
      if (shared_ > 0) Multiply(columns, 0, shared_, 0, pass_.n, acc, begin, end);
      int64_t first = 0;
      for (size_t i = 0; i < jobs_.size() && shared_ < pass_.tiles; first += Rows(i), ++i) {
        Multiply(columns + static_cast<int64_t>(i) * pass_.tiles, shared_, pass_.tiles, first, Rows(i), own,
                 begin, end);
      }
      const int64_t from = begin * kernels::kTernaryRows, to = std::min(end * kernels::kTernaryRows, d);
      for (int64_t row = 0; row < pass_.n; ++row) {
        int32_t* sums = acc + row * stride;
        if (own != acc && shared_ < pass_.tiles) {
          for (int64_t j = from; j < to; ++j) sums[j] += own[row * stride + j];
        }
        pass_.ops.scale_rows(sums + from, ones, scratch_.scale_a.data()[row], to - from,
                             out + row * d + from);
      }
    });
  }

 private:
  int64_t Rows(size_t job) const { return static_cast<int64_t>(jobs_[job].rows.size()); }
  const uint8_t* Tile(size_t job, int64_t t) const { return experts_[job].tiles[static_cast<size_t>(t)]; }

  // Tiles that all share first: sums of integers do not tell.
  void Order() {
    std::vector<int64_t> others;
    for (int64_t t = 0; t < pass_.tiles; ++t) {
      bool all = true;
      for (size_t i = 1; i < jobs_.size(); ++i) all = all && Tile(i, t) == Tile(0, t);
      (all ? order_ : others).push_back(t);
    }
    shared_ = std::ssize(order_);
    order_.insert(order_.end(), others.begin(), others.end());
  }

  // The down columns of every job, `tiles` each.
  const uint8_t** Columns() {
    const uint8_t** columns = scratch_.down.Reserve(std::ssize(jobs_) * pass_.tiles);
    const uint8_t** next = columns;
    for (size_t i = 0; i < jobs_.size(); ++i) {
      for (int64_t t : order_) *next++ = Tile(i, t) + pass_.layout.down_offset();
    }
    return columns;
  }

  // Of the groups begin .. end, the columns of the tiles at the places from .. to.
  void Multiply(const uint8_t* const* columns, int64_t from, int64_t to, int64_t row, int64_t rows,
                int32_t* acc, int64_t begin, int64_t end) {
    kernels::TernaryMatrix down;
    down.table = columns + from;
    down.group_stride = kernels::kTernaryBlockBytes;
    down.num_blocks = to - from;
    down.num_groups = pass_.layout.down_groups();
    pass_.ops.ternary(down, scratch_.q_a.data() + row * pass_.f_pad + from * kTileNeurons, pass_.f_pad,
                      static_cast<int>(rows), acc + row * pass_.AccStride(), pass_.AccStride(), begin, end);
  }

  const std::span<const ExpertTiles> experts_;
  const std::span<const ExpertJob> jobs_;
  ExpertScratch& scratch_;
  ExpertPass pass_;
  float* a_;
  std::vector<int64_t> order_;  // tiles, by their place in a
  int64_t shared_ = 0;          // of order_, at its start
};

}  // namespace

absl::Status RunExperts(const ModelConfig& config, std::span<const ExpertTiles> experts,
                        std::span<const ExpertJob> jobs, WorkerPool& pool, float* out,
                        const kernels::Ops& ops) {
  int64_t rows = 0;
  for (size_t i = 0; i < jobs.size(); ++i) {
    if (absl::Status s = CheckJob(config, experts[i].tiles.size(), jobs[i]); !s.ok()) return s;
    if (experts[i].check) return absl::FailedPreconditionError("tiles that are still to be checked");
    rows += static_cast<int64_t>(jobs[i].rows.size());
  }
  static thread_local ExpertScratch scratch;
  ManyExperts many(config, experts, jobs, rows, pool, ops, scratch);
  many.Gate();
  many.Down(out);
  return absl::OkStatus();
}

struct ExpertRun::Impl {
  Impl(const ModelConfig& c, const ExpertJob& j, WorkerPool& pool, const kernels::Ops& ops)
      : config(c), job(j), pass(c, static_cast<int64_t>(j.rows.size()), pool, ops) {}

  const ModelConfig& config;
  const ExpertJob& job;
  ExpertPass pass;
  ExpertScratch scratch;
  QuantizedRows in;
  float* a = nullptr;
  std::vector<bool> done;     // by tile
  std::vector<int64_t> todo;  // of one Add
};

ExpertRun::ExpertRun(const ModelConfig& config, const ExpertJob& job, WorkerPool& pool,
                     const kernels::Ops& ops)
    : impl_(std::make_unique<Impl>(config, job, pool, ops)) {}
ExpertRun::~ExpertRun() = default;

absl::Status ExpertRun::Add(const ExpertTiles& partial) {
  Impl& run = *impl_;
  const std::span<const uint8_t* const> tiles = partial.tiles;
  if (absl::Status s = CheckJob(run.config, tiles.size(), run.job); !s.ok()) return s;
  if (run.a == nullptr) {
    run.in = Gather(run.job, run.pass.layout.d_pad, run.scratch);
    run.a = run.scratch.a.Reserve(run.pass.n * run.pass.f_pad);
    run.done.assign(tiles.size(), false);
  }
  run.todo.clear();
  for (size_t t = 0; t < tiles.size(); ++t) {
    if (tiles[t] == nullptr || run.done[t]) continue;
    run.todo.push_back(static_cast<int64_t>(t));
  }
  const absl::Status s = run.pass.Gate(partial, static_cast<int64_t>(run.todo.size()), run.in, run.a,
                                       [&](int64_t i) { return run.todo[static_cast<size_t>(i)]; });
  if (!s.ok()) return s;
  for (int64_t t : run.todo) run.done[static_cast<size_t>(t)] = true;
  return absl::OkStatus();
}

absl::Status ExpertRun::Finish(const ExpertTiles& expert, float* out) {
  if (absl::Status s = Add(expert); !s.ok()) return s;
  impl_->pass.Down(expert.tiles.data(), impl_->a, impl_->scratch, out);
  return absl::OkStatus();
}

}  // namespace omni
