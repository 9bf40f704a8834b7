#include "actors/coordinator_state.h"

#include <algorithm>
#include <utility>

#include <absl/strings/str_cat.h>

namespace omni {

CoordinatorState::CoordinatorState(const ModelWeights& weights, WorkerPool& pool,
                                   const CoordinatorOptions& options, SwarmCounters& counters)
    : config_(weights.config), options_(options), counters_(counters), decoder_(weights, pool) {
  decoder_.set_reroute(options_.reroute);
  const int ahead = std::clamp(options_.predict_ahead, 0, SwarmCounters::kAhead);
  predicted_.resize(static_cast<size_t>(ahead));
  for (auto& layers : predicted_) layers.resize(static_cast<size_t>(config_.layers));
  accuracy_.assign(predicted_.size(), 0.5);
}

void CoordinatorState::Submit(std::shared_ptr<Session> session) {
  if (shut_down_) {
    session->Fail(absl::UnavailableError("the swarm is shutting down"));
  } else if (queue_.size() >= static_cast<size_t>(options_.max_queued)) {
    session->Fail(absl::ResourceExhaustedError(
        absl::StrCat(options_.max_queued, " requests are waiting already; try again later")));
  } else {
    counters_.sessions.Add(1);
    queue_.push_back(std::move(session));
    Wake();
  }
}

void CoordinatorState::Cancel(uint64_t session) {
  for (auto& s : queue_) {
    if (s->id() == session) s->Cancel();
  }
  for (auto& s : active_) {
    if (s->id() == session) s->Cancel();
  }
  Wake();
}

void CoordinatorState::Resume(uint64_t session) {
  for (auto& s : active_) {
    if (s->id() == session) s->Resume();
  }
  Wake();
}

void CoordinatorState::Wake() {
  if (in_step_ || step_wanted_) return;
  step_wanted_ = true;
  io_->StepSoon();
}

void CoordinatorState::Sweep() {
  std::erase_if(active_, [](const auto& s) { return s->over(); });
  std::erase_if(queue_, [](const auto& s) { return s->over(); });
}

void CoordinatorState::Admit() {
  const auto now = Clock::now();
  while (!queue_.empty() && active_.size() < static_cast<size_t>(options_.max_active)) {
    queue_.front()->Activate(config_, now);
    active_.push_back(std::move(queue_.front()));
    queue_.pop_front();
  }
  counters_.active.Set(static_cast<int64_t>(active_.size()));
  counters_.queued.Set(static_cast<int64_t>(queue_.size()));
}

void CoordinatorState::AddPart(const std::shared_ptr<Session>& session, int64_t rows) {
  const auto tokens = session->pending();
  Part part{session, static_cast<int32_t>(rows_.size()), static_cast<int32_t>(rows),
            rows == static_cast<int64_t>(tokens.size())};
  for (int64_t i = 0; i < rows; ++i) {
    rows_.push_back({session->state(), tokens[static_cast<size_t>(i)], part.wants_logits && i + 1 == rows});
  }
  parts_.push_back(std::move(part));
}

// Everybody who decodes gets a row; prompts share what is left, in turns.
void CoordinatorState::Plan() {
  parts_.clear();
  rows_.clear();
  has_prefill_ = false;
  std::vector<std::shared_ptr<Session>> prompts;
  for (const auto& session : active_) {
    if (!session->runnable()) continue;
    if (!session->decoding()) {
      prompts.push_back(session);
    } else if (rows_.size() < static_cast<size_t>(options_.max_rows)) {
      AddPart(session, 1);
    }
  }
  if (prompts.empty()) return;
  int64_t room = options_.max_rows - static_cast<int64_t>(rows_.size());
  if (!rows_.empty()) room = std::min<int64_t>(room, options_.prefill_rows_beside_decode);
  ++next_prefill_;
  for (size_t i = 0; i < prompts.size() && room > 0; ++i) {
    const auto& session = prompts[(next_prefill_ + i) % prompts.size()];
    const auto waiting = static_cast<int64_t>(prompts.size() - i);
    const int64_t share = (room + waiting - 1) / waiting;
    const int64_t rows = std::min(share, static_cast<int64_t>(session->pending().size()));
    AddPart(session, rows);
    room -= rows;
    has_prefill_ = true;
  }
}

void CoordinatorState::Step() {
  step_wanted_ = false;
  const bool chained = std::exchange(chained_, false);
  if (in_step_ || shut_down_) return;
  if (!chained) step_start_ = Clock::now();
  step_compute_ = std::chrono::nanoseconds(0);
  step_hops_ = chained ? 1 : 0;
  Sweep();
  Admit();
  Plan();
  if (rows_.empty()) return;
  in_step_ = true;
  if (!tick_armed_) {
    tick_armed_ = true;
    io_->TickAfter(options_.job_timeout / 4);
  }
  const absl::Status begun = Timed([&] { return decoder_.Begin(rows_); });
  if (!begun.ok()) {
    for (Part& part : parts_) part.session->Fail(begun);
    EndStep();
    return;
  }
  layer_ = 0;
  for (auto& layers : predicted_) {
    for (auto& guess : layers) guess.clear();  // of a step that was given up
  }
  Advance();
}

void CoordinatorState::Advance() {
  if (std::all_of(parts_.begin(), parts_.end(), [](const Part& part) { return part.session->over(); })) {
    EndStep();
    return;
  }
  while (layer_ < config_.layers) {
    const LayerId layer(static_cast<int32_t>(layer_++));
    if (options_.foretell) {
      expected_.clear();
      options_.foretell(layer, expected_);
      if (!expected_.empty()) io_->ReadAhead(layer, expected_);
    }
    std::vector<ExpertJob> jobs = Timed([&] { return decoder_.RunLayer(layer); });
    if (jobs.empty()) continue;
    CheckPrediction(layer);
    Ask(layer, std::move(jobs));
    Predict();
    return;
  }
  FinishStep();
}

void CoordinatorState::Ask(LayerId layer, std::vector<ExpertJob> jobs) {
  std::map<RegionId, std::vector<ExpertJob>> by_region;
  for (ExpertJob& job : jobs) {
    counters_.expert_rows[layer.index() * static_cast<size_t>(counters_.experts) + job.expert.index()].Add(
        static_cast<int64_t>(job.rows.size()));
    by_region[config_.RegionOf(job.expert)].push_back(std::move(job));
  }
  for (auto& [region, region_jobs] : by_region) SendAttempt(region, 1, std::move(region_jobs));
}

// The present layer's output is not yet in the rows: that is what makes it a guess, and what gives it time.
void CoordinatorState::Predict() {
  int64_t layer = layer_;
  for (size_t a = 0; a < predicted_.size(); ++a) {
    auto& layers = predicted_[a];
    while (layer < config_.layers && config_.IsAttention(layer)) ++layer;
    if (layer == config_.layers) return;
    const LayerId ahead(static_cast<int32_t>(layer++));
    const std::span<const ExpertId> routes = Timed([&] { return decoder_.PredictRoutes(ahead); });
    layers[ahead.index()].assign(routes.begin(), routes.end());
    if (accuracy_[a] < kWorthReading) continue;
    expected_.assign(routes.begin(), routes.end());
    std::sort(expected_.begin(), expected_.end());
    expected_.erase(std::unique(expected_.begin(), expected_.end()), expected_.end());
    io_->ReadAhead(ahead, expected_);
  }
}

void CoordinatorState::CheckPrediction(LayerId layer) {
  const std::span<const ExpertId> routes = decoder_.routes();
  for (size_t ahead = 0; ahead < predicted_.size(); ++ahead) {
    std::vector<ExpertId>& guess = predicted_[ahead][layer.index()];
    if (guess.size() == routes.size()) {
      int64_t right = 0;
      for (size_t row = 0; row < routes.size(); ++row) right += guess[row] == routes[row];
      counters_.predicted[ahead].Add(static_cast<int64_t>(routes.size()));
      counters_.predicted_right[ahead].Add(right);
      const double share = static_cast<double>(right) / static_cast<double>(routes.size());
      accuracy_[ahead] += (share - accuracy_[ahead]) / 64;
    }
    guess.clear();
  }
}

void CoordinatorState::SendAttempt(RegionId region, int attempt, std::vector<ExpertJob> jobs) {
  auto job = std::make_shared<const RegionJob>(next_job_++, region, attempt, std::move(jobs));
  pending_[region] = {job, Clock::now()};
  counters_.region_requests[region.index()].Add(1);
  ++step_hops_;
  io_->SendJob(std::move(job));
}

void CoordinatorState::OnReply(const RegionReply& reply) {
  const auto found = pending_.find(reply.region);
  if (found == pending_.end() || found->second.job->id() != reply.job_id)
    return;  // answered by another attempt
  const RegionJobPtr job = std::move(found->second.job);
  pending_.erase(found);
  ++step_hops_;
  step_compute_ += reply.compute;
  counters_.region_compute_ns[reply.region.index()].Add(reply.compute.count());
  for (size_t i = 0; i < job->jobs().size(); ++i) {
    if (reply.statuses[i].ok()) {
      Timed([&] { decoder_.AddExpertOutput(job->jobs()[i], reply.output.data() + reply.offsets[i]); });
    } else {
      FailRows(job->jobs()[i], reply.statuses[i]);
    }
  }
  if (pending_.empty()) Advance();
}

void CoordinatorState::OnRegionDown(RegionId region, const std::string& reason) {
  counters_.restarts.Add(1);
  io_->ReplaceRegion(region);
  if (pending_.contains(region)) Retry(region, reason);
}

void CoordinatorState::Retry(RegionId region, const std::string& reason) {
  const auto found = pending_.find(region);
  const RegionJobPtr job = found->second.job;
  if (job->attempt() < options_.job_attempts) {
    counters_.retries.Add(1);
    SendAttempt(region, job->attempt() + 1, job->jobs());
    return;
  }
  pending_.erase(found);
  const absl::Status status = absl::UnavailableError(
      absl::StrCat("region ", region.value, " failed ", job->attempt(), " times at layer ",
                   job->jobs().front().layer.value, " (last: ", reason, ")"));
  for (const ExpertJob& expert : job->jobs()) FailRows(expert, status);
  if (pending_.empty()) Advance();
}

void CoordinatorState::OnTick(Clock::time_point now) {
  tick_armed_ = false;
  if (!in_step_) return;
  tick_armed_ = true;
  io_->TickAfter(options_.job_timeout / 4);
  std::vector<RegionId> late;
  for (const auto& [region, pending] : pending_) {
    // A job being computed ends by itself; only one that nobody has begun may be given to another actor.
    if (now - pending.sent >= options_.job_timeout && pending.job->Abandon()) late.push_back(region);
  }
  for (RegionId region : late) {
    counters_.timeouts.Add(1);
    counters_.restarts.Add(1);
    io_->ReplaceRegion(region);
    Retry(region, absl::StrCat("no answer within ", options_.job_timeout.count(), " ms"));
  }
}

void CoordinatorState::FailRows(const ExpertJob& job, const absl::Status& status) {
  counters_.failed_jobs.Add(1);
  for (int32_t row : job.rows) {
    for (Part& part : parts_) {
      if (row >= part.begin && row < part.begin + part.rows) part.session->Fail(status);
    }
  }
}

void CoordinatorState::FinishStep() {
  std::span<const float> logits = Timed([&] { return decoder_.Finish(); });
  const auto vocab = static_cast<size_t>(config_.vocab);
  drawn_.clear();
  Timed([&] {
    for (const Part& part : parts_) {
      if (!part.wants_logits) continue;
      drawn_.push_back(part.session->Draw(logits.first(vocab)));
      logits = logits.subspan(vocab);
    }
  });
  const auto now = Clock::now();
  // Before the tokens: a client that has its answer finds it counted. The times come after, they include the
  // hand-over.
  StepCounters& counters = has_prefill_ ? counters_.mixed : counters_.decode;
  counters.steps.Add(1);
  counters.hops.Add(step_hops_);
  counters.rows.Add(static_cast<int64_t>(rows_.size()));
  size_t next = 0;
  for (const Part& part : parts_) {
    part.session->OnComputed(part.rows);
    if (part.wants_logits) part.session->OnToken(drawn_[next++], now);
  }
  counters.wall_ns.Add((Clock::now() - step_start_).count());
  counters.compute_ns.Add(step_compute_.count());
  EndStep();
}

void CoordinatorState::EndStep() {
  in_step_ = false;
  parts_.clear();
  Sweep();
  counters_.active.Set(static_cast<int64_t>(active_.size()));
  if (active_.empty() && queue_.empty()) return;
  chained_ = true;
  step_start_ = Clock::now();
  Wake();
}

void CoordinatorState::Abort(const absl::Status& status) {
  for (auto& session : active_) session->Fail(status);
  for (auto& session : queue_) session->Fail(status);
  // Jobs that a region is computing still read the decoder's buffers: their step ends with their replies.
  std::erase_if(pending_, [](const auto& entry) { return entry.second.job->Abandon(); });
  if (in_step_ && pending_.empty()) EndStep();
}

void CoordinatorState::Shutdown() {
  shut_down_ = true;
  for (auto& session : active_) session->Cancel();
  Abort(absl::UnavailableError("the swarm is shutting down"));
}

}  // namespace omni
