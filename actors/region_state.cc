#include "actors/region_state.h"

#include <stdexcept>
#include <utility>

#include <absl/strings/str_cat.h>

namespace omni {

RegionReplyPtr RegionState::Run(const RegionJob& job) {
  if (fault_) {
    const RegionFault fault = fault_(job);
    if (fault == RegionFault::kLose) return nullptr;
    if (fault == RegionFault::kCrash) throw std::runtime_error("injected crash");
  }
  const auto start = std::chrono::steady_clock::now();
  auto reply = std::make_shared<RegionReply>();
  reply->job_id = job.id();
  reply->region = job.region();

  // Experts are fetched before the job is claimed: a fetch may hang, a computation does not.
  std::vector<ExpertTiles> tiles(job.jobs().size());
  int64_t floats = 0;
  for (size_t i = 0; i < job.jobs().size(); ++i) {
    const ExpertJob& expert = job.jobs()[i];
    auto acquired = provider_.Acquire(expert.layer, expert.expert);
    reply->statuses.push_back(acquired.status());
    if (acquired.ok()) tiles[i] = *std::move(acquired);
    reply->offsets.push_back(floats);
    floats += static_cast<int64_t>(expert.rows.size()) * config_.d;
  }
  if (!job.Claim()) return nullptr;
  reply->output.resize(static_cast<size_t>(floats));
  const auto count = static_cast<int64_t>(job.jobs().size());
  // Many experts with few rows each are split by expert, few experts within.
  const int64_t grain = count < 2 * pool_.threads() ? count : 1;
  pool_.Run(count, grain, [&](int64_t begin, int64_t end) {
    for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
      if (!reply->statuses[i].ok()) continue;
      reply->statuses[i] =
          RunExpert(config_, tiles[i], job.jobs()[i], pool_, reply->output.data() + reply->offsets[i]);
    }
  });
  reply->compute = std::chrono::steady_clock::now() - start;
  return reply;
}

}  // namespace omni
