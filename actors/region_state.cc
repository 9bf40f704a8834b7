#include "actors/region_state.h"

#include <algorithm>
#include <exception>
#include <numeric>
#include <utility>

#include <absl/container/inlined_vector.h>

namespace omni {
namespace {

using Clock = std::chrono::steady_clock;

// Adds the time of a block to the reply's.
class Stopwatch {
 public:
  explicit Stopwatch(RegionReply& reply) : reply_(reply), start_(Clock::now()) {}
  ~Stopwatch() { reply_.compute += Clock::now() - start_; }

 private:
  RegionReply& reply_;
  Clock::time_point start_;
};

void Fill(RegionWork& work, RegionRequestPtr request, int64_t d) {
  const RegionRequest& r = *request;
  const int8_t* q = r.q();
  const float* scale = r.scale();
  work.jobs.reserve(r.experts.size());
  for (const RegionRequest::Expert& expert : r.experts) {
    work.jobs.push_back(
        {r.layer, expert.expert, std::vector<int32_t>(static_cast<size_t>(expert.rows)), q, r.width, scale});
    std::iota(work.jobs.back().rows.begin(), work.jobs.back().rows.end(), 0);
    q += expert.rows * r.width;
    scale += expert.rows;
  }
  work.left = r.experts.size();
  work.reply = std::make_shared<RegionReply>();
  work.reply->request_id = r.id;
  work.reply->region = r.region;
  work.reply->epoch = r.epoch;
  work.reply->attempt = r.attempt;
  work.reply->statuses.resize(r.experts.size());
  work.reply->output.resize(static_cast<size_t>(r.rows * d));
  work.request = std::move(request);
}

}  // namespace

RegionReplyPtr RegionState::Start(RegionRequestPtr request, const Post& post) {
  const auto start = Clock::now();
  if (!experts_.resident()) {
    auto work = std::make_shared<RegionWork>();
    Fill(*work, std::move(request), config_.d);
    Ask(work, post);
    return nullptr;
  }
  const auto own = std::find_if(expected_->begin(), expected_->end(),
                                [&](const Expected& e) { return e.request == request; });
  RegionReplyPtr reply;
  if (own != expected_->end()) {
    reply = std::move(own->reply);
    expected_->erase(own);
    if (reply == nullptr) reply = StartTogether(request);
  }
  if (reply != nullptr) return reply;
  RegionWork work;
  RegionWork* const only = &work;
  Fill(work, std::move(request), config_.d);
  ComputeAll({&only, 1});
  work.reply->compute = Clock::now() - start;
  return std::move(work.reply);
}

// With whatever else is expected. Null: something was thrown, and nobody knows whose fault it was; each is
// then to be started alone.
RegionReplyPtr RegionState::StartTogether(const RegionRequestPtr& request) {
  if (expected_->empty()) return nullptr;
  const auto start = Clock::now();
  try {
    std::vector<RegionWork> works(1 + expected_->size());
    absl::InlinedVector<RegionWork*, 16> all;
    for (size_t i = 0; i < works.size(); ++i) {
      const bool computed = i > 0 && (*expected_)[i - 1].reply != nullptr;
      if (computed) continue;
      Fill(works[i], i == 0 ? request : (*expected_)[i - 1].request, config_.d);
      all.push_back(&works[i]);
    }
    ComputeAll(all);
    works[0].reply->compute = Clock::now() - start;
    for (size_t i = 1; i < works.size(); ++i) {
      if (works[i].reply != nullptr) (*expected_)[i - 1].reply = std::move(works[i].reply);
    }
    return std::move(works[0].reply);
  } catch (const std::exception&) {
    expected_->clear();
    return nullptr;
  }
}

void RegionState::Expect(RegionRequestPtr request) {
  if (!experts_.resident()) return;
  // One that was never started, since its region was lost or the step given up, makes room for the next.
  std::erase_if(*expected_, [&](const Expected& e) { return e.request->region == request->region; });
  expected_->push_back({std::move(request), nullptr});
}

// Also what is in memory is posted: other regions ask for their experts before this one computes.
void RegionState::Ask(const RegionWorkPtr& work, const Post& post) {
  work->served.resize(work->jobs.size());
  work->begun.resize(work->jobs.size());
  for (size_t i = 0; i < work->jobs.size(); ++i) {
    experts_.Request(
        requester_, work->jobs[i].layer, work->jobs[i].expert,
        [work, i, post](absl::StatusOr<ExpertTiles> expert) mutable {
          post({std::move(work), i, std::move(expert)});
        },
        [work, i, post](ExpertTiles tiles) {
          post({work, i, std::move(tiles), true});
        });
  }
}

RegionReplyPtr RegionState::OnArrival(const ExpertArrival& arrival) {
  RegionWork& work = *arrival.work;
  Stopwatch stopwatch(*work.reply);
  if (arrival.partial) {
    if (!work.served[arrival.job]) ComputePartly(work, arrival.job, *arrival.expert);
    return nullptr;
  }
  Compute(work, arrival.job, arrival.expert);
  return work.left == 0 ? work.reply : nullptr;
}

float* RegionState::OutputOf(RegionWork& work, size_t job) {
  const int64_t first_row = (work.jobs[job].q - work.request->q()) / work.request->width;
  return work.reply->output.data() + first_row * config_.d;
}

// Few experts that have most of their tiles in common, as those of one token's perspectives have, are
// computed together whatever regions they are of. Many regions are split by region, so that experts which
// share tiles are computed together; else many experts by expert, and few experts within.
void RegionState::ComputeAll(std::span<RegionWork* const> works) {
  absl::InlinedVector<RegionWork*, 16> order(works.begin(), works.end());
  const auto rows = [](const RegionWork* work) { return work->request->rows; };
  // The largest is taken first: threads begin at the end (worker_pool.h).
  std::sort(order.begin(), order.end(), [&](const auto* a, const auto* b) { return rows(a) < rows(b); });
  absl::InlinedVector<Item, 64> items;
  absl::InlinedVector<size_t, 17> first = {0};  // item of each work, and the end
  bool together = true;
  for (RegionWork* work : order) {
    for (size_t i = 0; i < work->jobs.size(); ++i) {
      items.push_back({work, i, experts_.Acquire(work->jobs[i].layer, work->jobs[i].expert)});
      together = together && items.back().expert.ok() && items.back().expert->check == nullptr;
    }
    first.push_back(items.size());
    work->left = 0;
  }
  if (runner_ != nullptr) {
    for (const Item& item : items) ComputeAlone(item);
    return;
  }
  if (together && ComputeAcross(items)) return;
  if (together && std::ssize(order) >= 2 * pool_.threads()) {
    pool_.Run(std::ssize(order), 1, [&](int64_t begin, int64_t end) {
      for (auto w = static_cast<size_t>(begin); w < static_cast<size_t>(end); ++w)
        ComputeTogether(*order[w], std::span(items).subspan(first[w], first[w + 1] - first[w]));
    });
    return;
  }
  const auto count = std::ssize(items);
  const int64_t grain = count < 2 * pool_.threads() ? count : 1;
  pool_.Run(count, grain, [&](int64_t begin, int64_t end) {
    for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) ComputeAlone(items[i]);
  });
}

void RegionState::ComputeTogether(RegionWork& work, std::span<const Item> items) {
  absl::InlinedVector<ExpertTiles, 8> experts;
  for (const Item& item : items) experts.push_back(*item.expert);
  if (RunExperts(config_, experts, work.jobs, pool_, OutputOf(work, 0)).ok()) return;
  for (const Item& item : items) ComputeAlone(item);  // each says what is wrong with it
}

// False: they have too little in common, or are too many.
bool RegionState::ComputeAcross(std::span<const Item> items) {
  constexpr size_t kMost = 8;
  if (items.size() < 2 || items.size() > kMost) return false;
  absl::InlinedVector<ExpertTiles, kMost> experts;
  absl::InlinedVector<ExpertJob, kMost> jobs;
  int64_t rows = 0;
  for (const Item& item : items) {
    experts.push_back(*item.expert);
    jobs.push_back(item.work->jobs[item.job]);
    rows += std::ssize(jobs.back().rows);
  }
  if (2 * SharedTiles(experts) < std::ssize(experts[0].tiles)) return false;
  const int64_t width = jobs[0].q_stride;
  std::vector<int8_t> q(static_cast<size_t>(rows * width));
  std::vector<float> scale(static_cast<size_t>(rows)), out(static_cast<size_t>(rows * config_.d));
  rows = 0;
  for (ExpertJob& job : jobs) {  // whose rows are adjacent in their requests
    const int64_t count = std::ssize(job.rows);
    std::copy_n(job.q, count * width, q.begin() + rows * width);
    std::copy_n(job.scale, count, scale.begin() + rows);
    job.q = q.data() + rows * width;
    job.scale = scale.data() + rows;
    rows += count;
  }
  if (!RunExperts(config_, experts, jobs, pool_, out.data()).ok()) return false;
  const float* from = out.data();
  for (const Item& item : items) {
    const int64_t floats = std::ssize(item.work->jobs[item.job].rows) * config_.d;
    std::copy_n(from, floats, OutputOf(*item.work, item.job));
    from += floats;
  }
  return true;
}

void RegionState::ComputeAlone(const Item& item) {
  RegionWork& work = *item.work;
  absl::Status& status = work.reply->statuses[item.job];
  status = item.expert.status();
  if (status.ok()) status = RunOne(*item.expert, work.jobs[item.job], OutputOf(work, item.job));
}

absl::Status RegionState::RunOne(const ExpertTiles& expert, const ExpertJob& job, float* out) {
  return runner_ != nullptr ? runner_->Run(expert, job, out) : RunExpert(config_, expert, job, pool_, out);
}

void RegionState::Compute(RegionWork& work, size_t job, const absl::StatusOr<ExpertTiles>& expert) {
  absl::Status& status = work.reply->statuses[job];
  if (!expert.ok()) {
    status = expert.status();
  } else if (work.begun[job]) {
    status = work.begun[job]->Finish(*expert, OutputOf(work, job));
  } else {
    status = RunOne(*expert, work.jobs[job], OutputOf(work, job));
  }
  work.served[job] = true;
  --work.left;
}

void RegionState::ComputePartly(RegionWork& work, size_t job, const ExpertTiles& tiles) {
  if (runner_ != nullptr) return;
  if (!work.begun[job]) work.begun[job] = std::make_unique<ExpertRun>(config_, work.jobs[job], pool_);
  if (!work.begun[job]->Add(tiles).ok()) work.begun[job] = nullptr;  // Compute will say what is wrong
}

}  // namespace omni
