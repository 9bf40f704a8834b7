#include "actors/region_state.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include <absl/strings/str_cat.h>

namespace omni {

bool RegionState::Lost(const RegionJob& job) {
  if (!fault_) return false;
  const RegionFault fault = fault_(job);
  if (fault == RegionFault::kCrash) throw std::runtime_error("injected crash");
  return fault == RegionFault::kLose;
}

RegionReplyPtr RegionState::Run(const RegionJob& job) {
  if (Lost(job)) return nullptr;
  const auto start = std::chrono::steady_clock::now();
  auto reply = std::make_shared<RegionReply>();
  reply->job_id = job.id();
  reply->region = job.region();

  // Experts are fetched before the job is claimed: a fetch may hang, a computation does not.
  std::vector<ExpertTiles> tiles(job.jobs().size());
  int64_t floats = 0;
  for (size_t i = 0; i < job.jobs().size(); ++i) {
    const ExpertJob& expert = job.jobs()[i];
    auto acquired = source_.Acquire(expert.layer, expert.expert);
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

RegionWorkPtr RegionState::Begin(const RegionJob& job) {
  if (Lost(job)) return nullptr;
  auto work = std::make_shared<RegionWork>();
  work->jobs = job.jobs();
  work->left = work->jobs.size();
  work->begun.resize(work->jobs.size());
  work->served.resize(work->jobs.size());
  work->reply = std::make_shared<RegionReply>();
  work->reply->job_id = job.id();
  work->reply->region = job.region();
  work->reply->statuses.resize(work->jobs.size());
  size_t rows = 0;
  for (const ExpertJob& expert : work->jobs) {
    work->reply->offsets.push_back(static_cast<int64_t>(rows) * config_.d);
    rows += expert.rows.size();
  }
  const int64_t width = PadTo(config_.d, 64);
  work->q.resize(rows * static_cast<size_t>(width));
  work->scale.resize(rows);
  work->reply->output.resize(rows * static_cast<size_t>(config_.d));
  if (!job.Claim()) return nullptr;
  int8_t* q = work->q.data();
  float* scale = work->scale.data();
  for (ExpertJob& expert : work->jobs) {
    const int8_t* first_q = q;
    const float* first_scale = scale;
    int32_t copied = 0;
    for (int32_t& row : expert.rows) {
      q = std::copy_n(expert.q + row * expert.q_stride, width, q);
      *scale++ = expert.scale[row];
      row = copied++;
    }
    expert.q = first_q;
    expert.q_stride = width;
    expert.scale = first_scale;
  }
  job.Unclaim();
  return work;
}

RegionReplyPtr RegionState::Serve(RegionWork& work, size_t job, const absl::StatusOr<ExpertTiles>& expert) {
  const auto start = std::chrono::steady_clock::now();
  RegionReply& reply = *work.reply;
  float* out = reply.output.data() + reply.offsets[job];
  if (!expert.ok()) {
    reply.statuses[job] = expert.status();
  } else if (work.begun[job]) {
    reply.statuses[job] = work.begun[job]->Finish(*expert, out);
  } else {
    reply.statuses[job] = RunExpert(config_, *expert, work.jobs[job], pool_, out);
  }
  work.served[job] = true;
  reply.compute += std::chrono::steady_clock::now() - start;
  return --work.left == 0 ? work.reply : nullptr;
}

void RegionState::ServePartial(RegionWork& work, size_t job, const ExpertTiles& partial) {
  if (work.served[job]) return;  // all of them came first
  const auto start = std::chrono::steady_clock::now();
  if (!work.begun[job]) work.begun[job] = std::make_unique<ExpertRun>(config_, work.jobs[job], pool_);
  if (!work.begun[job]->Add(partial).ok()) work.begun[job] = nullptr;  // Serve will say what is wrong
  work.reply->compute += std::chrono::steady_clock::now() - start;
}

}  // namespace omni
