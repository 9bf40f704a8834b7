#include "actors/coordinator_state.h"

#include <algorithm>
#include <utility>

#include <absl/strings/str_cat.h>

#include "actors/held_in_common.h"
#include "actors/swarm_log.h"

namespace omni {
namespace {

// Of so many rows that so many share, rounded up.
int64_t Share(int64_t rows, size_t sharers) {
  return (rows + static_cast<int64_t>(sharers) - 1) / static_cast<int64_t>(sharers);
}

}  // namespace

CoordinatorState::CoordinatorState(const ModelConfig& config, Decoder& decoder,
                                   const CoordinatorOptions& options, SwarmCounters& counters)
    : config_(config),
      options_(options),
      bytes_per_session_(SessionState::BytesFor(config)),
      counters_(counters),
      decoder_(decoder),
      calls_(config, options.calls, counters, *this),
      guess_(config, config.has_slow_state() ? 0 : options.predict_ahead, counters),
      queue_(options.max_queued),
      looks_(decoder.ops(), options.calibration, options.pool) {
  for (const auto* stages : {&options_.project, &options_.decide}) {
    for (const TokenStage* stage : *stages)
      stages_read_states_ = stages_read_states_ || stage->reads_states();
  }
}

void CoordinatorState::Connect(StepTimer* timer, std::vector<std::shared_ptr<RegionLink>> links) {
  timer_ = timer;
  calls_.set_links(std::move(links));
}

// --- Sessions

void CoordinatorState::Submit(std::shared_ptr<Session> session) {
  if (shut_down_) {
    session->Fail(absl::UnavailableError("the swarm is shutting down"));
  } else if (const int64_t bytes = BytesOf(*session);
             options_.state_bytes.has_value() && bytes > *options_.state_bytes) {
    session->Fail(absl::ResourceExhaustedError(
        absl::StrCat("a session's state takes ", bytes >> 20, " MiB, and the memory plan leaves ",
                     *options_.state_bytes >> 20, " MiB for all of them; give the program more memory")));
  } else if (absl::Status s = queue_.MayWait(session->caller()); !s.ok()) {
    session->Fail(s);
  } else {
    counters_.sessions.Add(1);
    if (!Fits(active_.size() + queue_.size() + 1))
      LogSessionQueued(session->id(), "as many sessions as may be active are active");
    queue_.Push(std::move(session));
    Wake();
  }
}

// What a step may need for it, and what it keeps.
int64_t CoordinatorState::BytesOf(const Session& session) const {
  return bytes_per_session_ * session.states(decoder_.takes_asides()) + session.context_bytes();
}

// Whether so many sessions may be active: those that are, and others of the queue.
bool CoordinatorState::Fits(size_t sessions) const {
  if (sessions > static_cast<size_t>(options_.max_active)) return false;
  if (!options_.state_bytes.has_value()) return true;
  int64_t bytes = 0, most = bytes_per_session_;
  HeldInCommon common(config_.d);
  for (const auto& session : active_) {
    bytes += BytesOf(*session);
    common.Add(*session);
  }
  for (const auto& session : queue_) {
    const int64_t more = BytesOf(*session) + (active_.empty() ? 0 : common.BytesWith(*session));
    most = std::max(most, more);
  }
  bytes += most * (static_cast<int64_t>(sessions) - std::ssize(active_));
  // What one alone holds keeps it from nothing: there is nobody to wait for.
  return bytes + (active_.empty() ? 0 : common.bytes()) <= *options_.state_bytes;
}

std::shared_ptr<Session> CoordinatorState::Find(SessionId session) const {
  for (const auto& s : active_) {
    if (s->id() == session) return s;
  }
  for (const auto& s : queue_) {
    if (s->id() == session) return s;
  }
  return nullptr;
}

void CoordinatorState::Cancel(SessionId session) {
  if (const auto found = Find(session)) found->Cancel();
  Wake();
}

void CoordinatorState::Resume(SessionId session) {
  if (const auto found = Find(session)) found->Resume();
  Wake();
}

void CoordinatorState::Snapshot(SessionId session, SnapshotPromise promise) {
  questions_.push_back({session, std::move(promise)});
  if (!in_step_) Answer();
}

void CoordinatorState::Answer() {
  for (Question& question : std::exchange(questions_, {})) {
    const auto session = Find(question.session);
    if (session == nullptr || session->over()) {
      question.promise.set_value(absl::NotFoundError(
          absl::StrCat("there is no session ", question.session.value, "; has it ended?")));
    } else {
      question.promise.set_value(session->Snapshot());
    }
  }
}

void CoordinatorState::Wake() {
  if (in_step_ || step_wanted_) return;
  step_wanted_ = true;
  timer_->StepSoon();
}

void CoordinatorState::Sweep() {
  std::erase_if(active_, [](const auto& s) { return s->over(); });
  queue_.RemoveOver();
}

void CoordinatorState::Admit() {
  const auto now = Clock::now();
  while (!queue_.empty() && Fits(active_.size() + 1)) {
    const std::shared_ptr<Session> session = queue_.TakeNext(active_);
    if (absl::Status s = session->Activate(config_, now); !s.ok()) {
      session->Fail(s);
      continue;
    }
    active_.push_back(session);
  }
  counters_.active.Set(static_cast<int64_t>(active_.size()));
  counters_.queued.Set(static_cast<int64_t>(queue_.size()));
}

void CoordinatorState::AddPart(const std::shared_ptr<Session>& session, int64_t rows) {
  const auto tokens = session->pending();
  Part part{session,
            static_cast<int32_t>(rows_.size()),
            static_cast<int32_t>(rows),
            !session->embeds() && rows == static_cast<int64_t>(tokens.size()),
            session->contexts() != nullptr,
            0,
            {}};
  tells_routes_ = tells_routes_ || (part.wants_logits && session->tells_routes());
  embeds_ = embeds_ || session->embeds();
  has_policies_ = has_policies_ || session->route_policy() != nullptr;
  // What reads states between two passes: looks copy them, stages are given them.
  const bool want_state = session->perspectives().has_value() || stages_read_states_;
  for (int64_t i = 0; i < rows; ++i) {
    rows_.push_back({session->state(), tokens[static_cast<size_t>(i)],
                     part.reads_along || (part.wants_logits && i + 1 == rows), session->route_policy(),
                     session->embeds(), want_state, session->row_adapter()});
    positions_.push_back(session->state()->position() + i);
  }
  session->BeginStep();
  parts_.push_back(std::move(part));
}

// Everybody who decodes gets a row; prompts share what is left.
void CoordinatorState::Plan() {
  parts_.clear();
  rows_.clear();
  positions_.clear();
  has_prefill_ = false;
  has_policies_ = false;
  tells_routes_ = false;
  embeds_ = false;
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
  PlanPrompts(prompts, room);
}

// In equal shares for the callers, of each for its prompts, in turns: what one leaves, the next ones get.
void CoordinatorState::PlanPrompts(const std::vector<std::shared_ptr<Session>>& prompts, int64_t room) {
  std::vector<std::vector<std::shared_ptr<Session>>> callers;
  for (const auto& session : prompts) {
    auto own = std::find_if(callers.begin(), callers.end(),
                            [&](const auto& c) { return c.front()->caller() == session->caller(); });
    (own == callers.end() ? callers.emplace_back() : *own).push_back(session);
  }
  ++next_prefill_;
  for (size_t i = 0; i < callers.size() && room > 0; ++i) {
    const auto& own = callers[(next_prefill_ + i) % callers.size()];
    int64_t left = Share(room, callers.size() - i);
    for (size_t j = 0; j < own.size() && left > 0; ++j) {
      // Not in step with the callers' turns, which with few rows would always meet the same prompt.
      const auto& session = own[(next_prefill_ / callers.size() + j) % own.size()];
      const auto pending = static_cast<int64_t>(session->pending().size());
      int64_t rows = std::min(Share(left, own.size() - j), pending);
      // The last one, from whose state perspectives begin, is a step's own.
      if (session->perspectives().has_value() && rows == pending && rows > 1) --rows;
      AddPart(session, rows);
      left -= rows;
      room -= rows;
      has_prefill_ = true;
    }
  }
}

// --- A step

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
  AddLooks();
  in_step_ = true;
  given_up_ = false;
  if (!tick_armed_) {
    tick_armed_ = true;
    timer_->TickAfter(options_.calls.timeout / 4);
  }
  const absl::Status begun = Timed([&] { return decoder_.Begin(rows_); });
  if (!begun.ok()) {
    if (!Recover(begun)) FailParts(begun);
    EndStep();
    return;
  }
  guess_.BeginStep();
  AnnounceRoutes();
  phase_ = Phase::kLayer;
  layer_ = 0;
  Run();
}

template <typename F>
bool CoordinatorState::Start(F&& part) {
  part_running_ = true;  // before it can be over
  try {
    if (!Timed([&] { return part([timer = timer_] { timer->PartDone(); }); })) return false;
  } catch (...) {
    part_running_ = false;  // what throws has started nothing
    throw;
  }
  part_running_ = false;
  return true;
}

void CoordinatorState::OnPartDone() {
  if (!part_running_) return;
  part_running_ = false;
  Run();
}

void CoordinatorState::Run() {
  while (true) {
    if (given_up_ ||
        std::all_of(parts_.begin(), parts_.end(), [](const Part& part) { return part.session->over(); })) {
      EndStep();
      return;
    }
    switch (phase_) {
      case Phase::kLayer:
        if (layer_ == config_.layers) {
          phase_ = Phase::kHidden;
          break;
        }
        phase_ = Phase::kExperts;
        ReadAhead(LayerId(static_cast<int32_t>(layer_)));
        if (!Start([&](const Decoder::Done& done) {
              return decoder_.StartLayer(LayerId(static_cast<int32_t>(layer_)), done);
            })) {
          return;
        }
        break;
      case Phase::kExperts:
        if (!RunLayer()) return;
        break;
      case Phase::kHidden:
        phase_ = Phase::kProject;
        stage_ = 0;
        if (!Start([&](const Decoder::Done& done) { return decoder_.StartHidden(done); })) return;
        break;
      case Phase::kProject:
        if (stage_ == 0) {
          if (absl::Status s = decoder_.status(); !s.ok()) {
            FailOrRepeat(s);
            break;
          }
          MakeTokenRows();
          if (embeds_ && !second_pass_) TakeHidden();
        }
        if (!RunStages(options_.project, token_rows_, Phase::kLogits)) return;
        break;
      case Phase::kLogits:
        phase_ = Phase::kDecide;
        stage_ = 0;
        if (!Start([&](const Decoder::Done& done) { return decoder_.StartLogits(done); })) return;
        break;
      case Phase::kDecide:
        if (stage_ == 0) {
          if (absl::Status s = TakeLogits(); !s.ok()) {
            FailOrRepeat(s);
            break;
          }
        }
        if (stage_ == 0 && !looks_.empty()) {
          ConcludeLooks();
          if (LookAgain()) break;
        }
        if (!RunStages(options_.decide, std::span(token_rows_).first(own_rows_), Phase::kEmit)) return;
        break;
      case Phase::kEmit:
        Timed([&] { Sample(); });
        Emit();
        return;
    }
  }
}

// The layer's own part is over; true if nothing is asked of experts.
bool CoordinatorState::RunLayer() {
  absl::StatusOr<std::vector<ExpertJob>> jobs = decoder_.TakeJobs();
  if (!jobs.ok()) {
    FailOrRepeat(jobs.status());
    return true;
  }
  const LayerId layer(static_cast<int32_t>(layer_++));
  phase_ = Phase::kLayer;
  if (jobs->empty()) {
    if (!config_.IsAttention(layer.value)) CountRoutes(layer);
    return true;
  }
  guess_.OnRoutes(layer, decoder_.routes());
  if (tells_routes_) KeepRoutes();
  calls_.Ask(*std::move(jobs));
  if (guess_.active()) {
    // Beside the experts, if they are not computed on this thread.
    Timed([&] {
      guess_.Guess(LayerId(static_cast<int32_t>(layer_)), decoder_,
                   [&](LayerId ahead, std::span<const ExpertId> experts) {
                     calls_.Prefetch(ahead, experts, Foresight::kGuess);
                   });
    });
  }
  AnnounceNext(layer);
  ArmWake();
  return calls_.idle();
}

// The decoder has computed the layer's experts itself. Without routes it will say what is wrong.
void CoordinatorState::CountRoutes(LayerId layer) {
  const std::span<const ExpertId> routes = Timed([&] { return decoder_.routes(); });
  if (routes.size() != rows_.size()) return;
  guess_.OnRoutes(layer, routes);
  for (const ExpertId expert : routes) calls_.Count(layer, expert, 1);
  if (tells_routes_) KeepRoutes();
}

// The pass has failed by `status`. Where another decoder takes over, what is to be computed is planned
// afresh; a second pass begins again, since the sessions are past the first one.
void CoordinatorState::FailOrRepeat(const absl::Status& status) {
  if (!Recover(status)) {
    FailParts(status);
  } else if (!second_pass_) {
    given_up_ = true;
  } else if (absl::Status begun = Timed([&] { return decoder_.Begin(rows_); }); begun.ok()) {
    guess_.BeginStep();
    phase_ = Phase::kLayer;
    layer_ = 0;
  } else {
    FailParts(begun);
  }
}

bool CoordinatorState::Recover(const absl::Status& error) {
  if (!decoder_.Recover(error)) return false;
  counters_.recoveries.Add(1);
  states_lost_ = true;
  return true;
}

// Sessions whose states were elsewhere go on from their tokens.
void CoordinatorState::RecomputeLostStates() {
  if (!std::exchange(states_lost_, false)) return;
  for (const auto& session : active_) {
    if (session->over() || session->state() == nullptr || session->state()->elsewhere() == nullptr) continue;
    if (absl::Status s = session->Recompute(config_); !s.ok()) session->Fail(s);
  }
}

// False: one of them goes on elsewhere.
bool CoordinatorState::RunStages(const std::vector<TokenStage*>& stages, std::span<TokenRow> rows,
                                 Phase next) {
  while (stage_ < stages.size() && !rows.empty()) {
    TokenStage& stage = *stages[stage_++];
    if (!Start([&](const TokenStage::Done& done) { return stage.Run(rows, done); })) return false;
  }
  phase_ = next;
  return true;
}

void CoordinatorState::Sample() {
  const auto draw = [this](int64_t begin, int64_t end) {
    for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
      TokenRow& row = token_rows_[i];
      if (row.known || row.choice.has_value() || !row.status.ok()) continue;
      row.choice = omni::Sample(row.logits, row.history, row.history.size(), *row.sampler);
    }
  };
  const auto rows = static_cast<int64_t>(own_rows_);
  if (options_.pool == nullptr) {
    draw(0, rows);
  } else {
    options_.pool->Run(rows, 1, draw);
  }
}

std::vector<Sampled> CoordinatorState::Alternatives(const Part& part, const TokenRow& row) {
  const int32_t count = part.session->alternatives();
  if (count == 0) return {};
  return Timed([&] { return Likeliest(row.logits, count); });
}

void CoordinatorState::Emit() {
  const auto now = Clock::now();
  // Before the tokens: a client that has its answer finds it counted. The times come after, they include the
  // hand-over.
  StepCounters& counters = has_prefill_ ? counters_.mixed : counters_.decode;
  counters.steps.Add(1);
  counters.hops.Add(step_hops_ + calls_.TakeHops());
  counters.rows.Add(static_cast<int64_t>(first_pass_rows_ + rows_.size()));
  for (size_t i = 0; i < parts_.size(); ++i) {
    Part& part = parts_[i];
    if (!part.session->decoding()) counters_.prompt_rows.Add(part.rows);
    part.session->OnComputed(part.rows);
    if (part.reads_along) FailIfUnread(part);
    if (!part.wants_logits) continue;
    const TokenRow& row = token_rows_[part.token_row];
    if (row.status.ok()) {
      counters_.tokens.Add(1);
      Count(row.notes);
      counters_.adapter_tokens.Add(part.session->adapter() != nullptr);
      part.session->OnToken(*row.choice, now, Alternatives(part, row), std::move(part.routes),
                            Timed([&] { return looks_.Confidence(i, row); }), row.notes);
    } else {
      part.session->Fail(row.status);
    }
  }
  counters.wall_ns.Add((Clock::now() - step_start_).count());
  counters.compute_ns.Add(step_compute_.count());
  EndStep();
}

void CoordinatorState::EndStep() {
  in_step_ = false;
  given_up_ = false;
  RecomputeLostStates();
  for (Part& part : parts_) part.session->EndStep();
  parts_.clear();
  looks_.Clear();
  calls_.GiveUp();
  calls_.TakeHops();
  Answer();
  Sweep();
  ReleaseLooks();
  counters_.active.Set(static_cast<int64_t>(active_.size()));
  counters_.queued.Set(static_cast<int64_t>(queue_.size()));
  if (active_.empty() && queue_.empty()) return;
  chained_ = true;
  step_start_ = Clock::now();
  Wake();
}

// --- Regions

void CoordinatorState::OnReply(const RegionReply& reply) {
  if (!calls_.OnReply(reply)) return;
  step_compute_ += reply.compute;
  if (calls_.idle()) Run();
}

void CoordinatorState::OnLost(RegionId region, const std::string& reason) {
  const bool waited = !calls_.idle();
  calls_.OnLost(region, reason);
  ArmWake();
  if (waited && calls_.idle()) Run();
}

void CoordinatorState::OnMoved(RegionId region, uint64_t epoch) {
  calls_.OnMoved(region, epoch);
  ArmWake();
}

void CoordinatorState::OnTick(Clock::time_point now) {
  tick_armed_ = false;
  if (!in_step_) return;
  tick_armed_ = true;
  timer_->TickAfter(options_.calls.timeout / 4);
  const bool waited = !calls_.idle();
  calls_.OnTick(now);
  ArmWake();
  if (waited && calls_.idle()) Run();
}

// One timer at a time, and none for each request: when it is over, it is set for whoever is then next.
void CoordinatorState::ArmWake() {
  if (wake_armed_) return;
  const std::optional<Clock::time_point> wake = calls_.WakeTime();
  if (!wake.has_value()) return;
  wake_armed_ = true;
  timer_->WakeAt(*wake);
}

void CoordinatorState::OnWake(Clock::time_point now) {
  wake_armed_ = false;
  if (!in_step_) return;
  calls_.Wake(now);
  ArmWake();
}

void CoordinatorState::OnOutput(const ExpertJob& job, const float* out) {
  Timed([&] { decoder_.AddExpertOutput(job, out); });
}

void CoordinatorState::OnFailed(const ExpertJob& job, const absl::Status& status) {
  counters_.failed_jobs.Add(1);
  for (int32_t row : job.rows) {
    if (Part* part = PartOf(row)) part->session->Fail(status);
  }
}

// --- Ends

void CoordinatorState::FailParts(const absl::Status& status) {
  for (Part& part : parts_) part.session->Fail(status);
}

void CoordinatorState::Abort(const absl::Status& status) {
  if (!shut_down_) LogSwarmAborted(static_cast<int64_t>(active_.size() + queue_.size()), status);
  for (auto& session : active_) session->Fail(status);
  for (auto& session : queue_) session->Fail(status);
  given_up_ = true;
  calls_.GiveUp();
  if (in_step_ && !part_running_) EndStep();
}

void CoordinatorState::Shutdown() {
  shut_down_ = true;
  const absl::Status status = absl::UnavailableError("the swarm is shutting down");
  for (auto& session : queue_) session->Fail(status);
  for (auto& session : active_) session->Cancel();
  // Sessions that keep their state end when the step does; for all others it is of no use any more.
  if (std::all_of(active_.begin(), active_.end(), [](const auto& s) { return s->over(); })) Abort(status);
}

}  // namespace omni
