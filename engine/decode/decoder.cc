#include "engine/decode/decoder.h"

#include <future>
#include <utility>

#include "engine/decode/pass.h"

namespace omni {
namespace {

// Starts a part of a pass and waits for its end.
template <typename F>
void StartAndWait(F&& start) {
  std::promise<void> over;
  if (!start([&over] { over.set_value(); })) over.get_future().wait();
}

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

absl::StatusOr<std::vector<ExpertJob>> Decoder::RunLayer(LayerId layer) {
  StartAndWait([&](const Done& done) { return StartLayer(layer, done); });
  return TakeJobs();
}

absl::StatusOr<std::span<const float>> Decoder::Finish() {
  StartAndWait([&](const Done& done) { return StartHidden(done); });
  StartAndWait([&](const Done& done) { return StartLogits(done); });
  return logits();
}

absl::StatusOr<std::span<const float>> RunBatch(Decoder& decoder, const ModelConfig& config,
                                                ExpertSource& source, WorkerPool& pool,
                                                std::span<const BatchRow> rows) {
  if (absl::Status status = decoder.Begin(rows); !status.ok()) return status;
  float* out = decoder.expert_out_.Reserve(static_cast<int64_t>(rows.size()) * config.d);
  std::vector<int64_t> first_row;
  for (int64_t l = 0; l < config.layers; ++l) {
    const absl::StatusOr<std::vector<ExpertJob>> jobs = decoder.RunLayer(LayerId(static_cast<int32_t>(l)));
    if (!jobs.ok()) return jobs.status();
    if (jobs->empty()) continue;
    first_row.clear();
    int64_t at = 0;
    for (const ExpertJob& job : *jobs) {
      first_row.push_back(at);
      at += static_cast<int64_t>(job.rows.size());
    }
    if (absl::Status s = RunJobs(config, source, pool, decoder.ops(), *jobs, first_row, out); !s.ok()) {
      return s;
    }
    for (size_t j = 0; j < jobs->size(); ++j)
      decoder.AddExpertOutput((*jobs)[j], out + first_row[j] * config.d);
  }
  return decoder.Finish();
}

}  // namespace omni
