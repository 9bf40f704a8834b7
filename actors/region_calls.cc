#include "actors/region_calls.h"

#include <algorithm>
#include <utility>

#include <absl/strings/str_cat.h>

#include "actors/swarm_log.h"
#include "engine/base/simulated.h"

namespace omni {
namespace {

std::shared_ptr<RegionRequest> CopyRows(const std::vector<ExpertJob>& jobs, int64_t d) {
  auto request = std::make_shared<RegionRequest>();
  request->layer = jobs.front().layer;
  request->width = PadTo(d, 64);
  for (const ExpertJob& job : jobs) {
    request->experts.push_back({job.expert, static_cast<int32_t>(job.rows.size())});
    request->rows += static_cast<int64_t>(job.rows.size());
  }
  int8_t* q = request->AllocateRows();
  float* scale = request->mutable_scale();
  for (const ExpertJob& job : jobs) {
    for (int32_t row : job.rows) {
      q = std::copy_n(job.q + row * job.q_stride, request->width, q);
      *scale++ = job.scale[row];
    }
  }
  return request;
}

}  // namespace

RegionCalls::RegionCalls(const ModelConfig& config, const RegionCallOptions& options, SwarmCounters& counters,
                         Owner& owner)
    : config_(config), options_(options), counters_(counters), owner_(owner) {}

void RegionCalls::set_links(std::vector<std::shared_ptr<RegionLink>> links) {
  regions_.clear();
  told_.assign(static_cast<size_t>(config_.layers), 0);
  for (std::shared_ptr<RegionLink>& link : links) {
    regions_.emplace_back();
    regions_.back().link = std::move(link);
    regions_.back().told.assign(static_cast<size_t>(config_.layers), false);
  }
}

void RegionCalls::Count(LayerId layer, ExpertId expert, int64_t rows) {
  counters_.expert_rows[layer.index() * static_cast<size_t>(counters_.experts) + expert.index()].Add(rows);
  counters_.last_experts[layer.index()].Set(expert.value);
}

void RegionCalls::Ask(std::vector<ExpertJob> jobs) {
  if (jobs.empty()) return;
  const LayerId layer = jobs.front().layer;
  asked_.clear();
  for (ExpertJob& job : jobs) {
    Count(layer, job.expert, std::ssize(job.rows));
    const RegionId id = config_.RegionOf(job.expert);
    Region& region = At(id);
    if (region.jobs.empty()) asked_.push_back(id);
    region.jobs.push_back(std::move(job));
  }
  std::sort(asked_.begin(), asked_.end());
  for (RegionId id : asked_) {
    ++open_;
    Send(id, 1);
  }
  if (told_[layer.index()] > 0) LetGoOfGuesses(layer);
  for (RegionId id : asked_) At(id).link->Flush();
}

// Of the regions that were told of experts of the layer, those that are asked use them now; the others need
// not keep them.
void RegionCalls::LetGoOfGuesses(LayerId layer) {
  told_[layer.index()] = 0;
  for (Region& region : regions_) {
    if (!region.told[layer.index()]) continue;
    region.told[layer.index()] = false;
    if (region.request == nullptr) region.link->Prefetch(layer, {}, Foresight::kGuess);
  }
}

void RegionCalls::Send(RegionId id, int attempt) {
  Region& region = At(id);
  std::shared_ptr<RegionRequest> request = CopyRows(region.jobs, config_.d);
  request->id = next_id_++;
  request->region = id;
  request->epoch = region.epoch;
  request->attempt = attempt;
  region.request = request;
  region.sent = options_.now();
  counters_.region_requests[id.index()].Add(1);
  ++hops_;
  region.link->Send(std::move(request));
}

void RegionCalls::Prefetch(LayerId layer, std::span<const ExpertId> experts, Foresight foresight) {
  for (size_t r = 0; r < regions_.size(); ++r) {
    Region& region = regions_[r];
    of_one_region_.clear();
    for (ExpertId expert : experts) {
      if (config_.RegionOf(expert).index() == r) of_one_region_.push_back(expert);
    }
    if (of_one_region_.empty() && !region.told[layer.index()]) continue;
    told_[layer.index()] += !of_one_region_.empty() - region.told[layer.index()];
    region.told[layer.index()] = !of_one_region_.empty();
    region.link->Prefetch(layer, of_one_region_, foresight);
  }
}

bool RegionCalls::OnReply(const RegionReply& reply) {
  if (reply.region.value < 0 || reply.region.index() >= regions_.size()) return false;
  Region& region = At(reply.region);
  if (region.request == nullptr || region.request->id != reply.request_id ||
      (region.epoch != reply.epoch && !OMNI_PLANTED(kEpochUncheckedByCoordinator))) {
    OMNI_REACHED(kRegionAnswerIgnored);
    if (OMNI_PLANTED(kSecondAnswerAdded) && !answered_.empty() &&
        config_.RegionOf(answered_.front().expert) == reply.region)
      owner_.OnOutput(answered_.front(), reply.output.data());
    return false;
  }
  if (reply.statuses.size() != region.jobs.size() ||
      reply.output.size() != static_cast<size_t>(region.request->rows * config_.d)) {
    // Whoever is behind the link computes something else than was asked: as good as none.
    Retry(reply.region, "an answer of another shape");
    return true;
  }
  region.request = nullptr;
  region.link->OnAnswered(reply);
  std::vector<ExpertJob>& jobs = answered_;
  jobs.clear();
  jobs.swap(region.jobs);  // both keep their memory
  ++hops_;
  --open_;
  counters_.region_compute_ns[reply.region.index()].Add(reply.compute.count());
  const float* out = reply.output.data();
  for (size_t i = 0; i < jobs.size(); ++i) {
    if (reply.statuses[i].ok()) {
      owner_.OnOutput(jobs[i], out);
    } else {
      owner_.OnFailed(jobs[i], reply.statuses[i]);
    }
    out += static_cast<int64_t>(jobs[i].rows.size()) * config_.d;
  }
  return true;
}

void RegionCalls::OnLost(RegionId id, const std::string& reason) {
  counters_.restarts.Add(1);
  LogRegionRestarted(id, reason);
  At(id).link->Renew();
  if (At(id).request != nullptr) Retry(id, reason);
}

void RegionCalls::OnMoved(RegionId id, uint64_t epoch) {
  Region& region = At(id);
  if (epoch <= region.epoch) return;
  region.epoch = epoch;
  LogRegionMoved(id, epoch);
  if (region.request == nullptr || OMNI_PLANTED(kEpochUncheckedByCoordinator)) return;
  OMNI_REACHED(kRegionMovedWhileAsked);
  counters_.moves.Add(1);
  Send(id, region.request->attempt);  // nobody failed
  region.link->Flush();
}

void RegionCalls::OnTick(Clock::time_point now) {
  for (size_t r = 0; r < regions_.size(); ++r) {
    if (regions_[r].request == nullptr || now - regions_[r].sent < options_.timeout) continue;
    const RegionId id(static_cast<int32_t>(r));
    OMNI_REACHED(kRegionTimedOut);
    counters_.timeouts.Add(1);
    counters_.restarts.Add(1);
    const std::string reason = absl::StrCat("no answer within ", options_.timeout.count(), " ms");
    LogRegionRestarted(id, reason);
    regions_[r].link->Renew();
    Retry(id, reason);
  }
}

std::optional<RegionCalls::Clock::time_point> RegionCalls::WakeTime() const {
  std::optional<Clock::time_point> first;
  if (open_ == 0) return first;
  for (const Region& region : regions_) {
    if (region.request == nullptr) continue;
    const std::optional<Clock::time_point> wake = region.link->WakeTime();
    if (wake.has_value() && (!first.has_value() || *wake < *first)) first = wake;
  }
  return first;
}

void RegionCalls::Wake(Clock::time_point now) {
  for (Region& region : regions_) {
    if (region.request != nullptr) region.link->Wake(now);
  }
}

void RegionCalls::Retry(RegionId id, const std::string& reason) {
  Region& region = At(id);
  const int attempt = region.request->attempt;
  if (attempt < options_.attempts) {
    OMNI_REACHED(kRegionAskedAgain);
    counters_.retries.Add(1);
    LogRegionAskedAgain(id, region.jobs.front().layer, attempt + 1, reason);
    Send(id, attempt + 1);
    region.link->Flush();
    return;
  }
  OMNI_REACHED(kRegionGivenUp);
  region.request = nullptr;
  const std::vector<ExpertJob> jobs = std::exchange(region.jobs, {});
  --open_;
  const absl::Status status =
      absl::UnavailableError(absl::StrCat("region ", id.value, " failed ", attempt, " times at layer ",
                                          jobs.front().layer.value, " (last: ", reason, ")"));
  LogRegionGivenUp(id, jobs.front().layer, attempt, reason);
  for (const ExpertJob& job : jobs) owner_.OnFailed(job, status);
}

void RegionCalls::GiveUp() {
  for (Region& region : regions_) {
    region.request = nullptr;
    region.jobs.clear();
  }
  open_ = 0;
}

int64_t RegionCalls::TakeHops() { return std::exchange(hops_, 0); }

}  // namespace omni
