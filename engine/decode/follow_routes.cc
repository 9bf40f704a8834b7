#include "engine/decode/follow_routes.h"

#include <algorithm>

#include "engine/decode/cpu_decoder.h"

namespace omni {
namespace {

constexpr size_t kRowsPerPass = 64;

}  // namespace

absl::StatusOr<FollowedRoutes> FollowRoutes(const ModelWeights& weights, ExpertSource& source,
                                            WorkerPool& pool, std::span<const TokenId> tokens,
                                            const std::function<void(double share)>& progress) {
  const ModelConfig& config = weights.config;
  FollowedRoutes routes;
  for (int64_t l = 0; l < config.layers; ++l) {
    if (!config.IsAttention(l)) routes.layers.push_back(l);
  }
  const size_t width = routes.layers.size();
  routes.experts.resize(tokens.size() * width);
  CpuDecoder decoder(weights, pool);
  SessionState state(config);
  std::vector<float> out;
  for (size_t begin = 0; begin < tokens.size(); begin += kRowsPerPass) {
    const size_t end = std::min(begin + kRowsPerPass, tokens.size());
    std::vector<BatchRow> rows;
    for (size_t t = begin; t < end; ++t) rows.push_back({&state, tokens[t], false});
    if (absl::Status s = decoder.Begin(rows); !s.ok()) return s;
    std::vector<ExpertId> known;
    for (const int64_t layer : routes.layers) {
      for (ExpertId expert : decoder.KnownRoutes(LayerId(static_cast<int32_t>(layer))))
        known.push_back(expert);
    }
    size_t place = 0;
    for (int32_t l = 0; l < config.layers; ++l) {
      const absl::StatusOr<std::vector<ExpertJob>> jobs = decoder.RunLayer(LayerId(l));
      if (!jobs.ok()) return jobs.status();
      for (const ExpertJob& job : *jobs) {
        absl::StatusOr<ExpertTiles> tiles = source.Acquire(job.layer, job.expert);
        if (!tiles.ok()) return tiles.status();
        out.resize(job.rows.size() * static_cast<size_t>(config.d));
        if (absl::Status s = RunExpert(config, *tiles, job, pool, out.data()); !s.ok()) return s;
        decoder.AddExpertOutput(job, out.data());
      }
      if (config.IsAttention(l)) continue;
      for (size_t t = begin; t < end; ++t) routes.experts[t * width + place] = decoder.routes()[t - begin];
      ++routes.asked;
      if (!known.empty()) routes.known += known[place] == decoder.routes()[0];
      ++place;
    }
    if (absl::Status s = decoder.Finish().status(); !s.ok()) return s;
    if (progress) progress(static_cast<double>(end) / static_cast<double>(tokens.size()));
  }
  return routes;
}

}  // namespace omni
