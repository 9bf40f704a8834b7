#include "actors/swarm.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <future>
#include <mutex>
#include <new>
#include <utility>

#include <absl/strings/str_cat.h>

#include "actors/coordinator.h"
#include "actors/messages.h"
#include "actors/session.h"
#include "engine/around/context_stage.h"
#include "engine/around/recall_stage.h"
#include "engine/around/safety_stage.h"
#include "engine/base/quoted.h"
#include "engine/base/threads.h"
#include "engine/decode/worker_pool.h"

namespace omni {
namespace {

StepStats Read(const StepCounters& c) {
  return {c.steps.Get(), c.rows.Get(), c.hops.Get(), std::chrono::nanoseconds(c.wall_ns.Get()),
          std::chrono::nanoseconds(c.compute_ns.Get())};
}

std::vector<int64_t> Read(const std::vector<Counter>& counters) {
  std::vector<int64_t> values;
  values.reserve(counters.size());
  for (const Counter& c : counters) values.push_back(c.Get());
  return values;
}

}  // namespace

double StepStats::ActorShare() const {
  return wall.count() > 0 ? static_cast<double>((wall - compute).count()) / static_cast<double>(wall.count())
                          : 0;
}
double StepStats::HopMicros() const {
  return hops > 0 ? static_cast<double>((wall - compute).count()) / 1e3 / static_cast<double>(hops) : 0;
}

namespace {

// What a session's handle needs of its swarm, and may outlive it with.
class Door {
 public:
  explicit Door(CoordinatorActor coordinator) : coordinator_(std::move(coordinator)) {}

  template <typename... T>
  void Send(T&&... message) {
    std::lock_guard lock(mutex_);
    if (coordinator_) caf::anon_send(coordinator_, std::forward<T>(message)...);
  }
  void Close() {
    std::lock_guard lock(mutex_);
    coordinator_ = nullptr;
  }

 private:
  std::mutex mutex_;
  CoordinatorActor coordinator_;
};

}  // namespace

struct SessionHandle::Impl {
  SessionId id;
  std::shared_ptr<SessionChannel> channel;
  std::function<void()> resume, cancel;
  bool over = false;

  SessionChannel::Taken Seen(SessionChannel::Taken taken) {
    if (taken.resume) resume();
    over = over || taken.result.has_value();
    return taken;
  }
};

SessionHandle::SessionHandle(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
SessionHandle::~SessionHandle() {
  if (!impl_->over) Cancel();
  impl_->channel->Leave();
}
SessionId SessionHandle::id() const { return impl_->id; }
SessionChannel::Taken SessionHandle::Poll() { return impl_->Seen(impl_->channel->Poll()); }
SessionChannel::Taken SessionHandle::Wait(const std::stop_token& stop) {
  return impl_->Seen(impl_->channel->Take(stop));
}
void SessionHandle::Cancel() { impl_->cancel(); }
std::unique_ptr<SessionHandle> SessionHandle::OfAnother(std::shared_ptr<SessionChannel> channel,
                                                        std::function<void()> resume,
                                                        std::function<void()> cancel) {
  return std::unique_ptr<SessionHandle>(new SessionHandle(
      std::make_unique<Impl>(Impl{SessionId(0), std::move(channel), std::move(resume), std::move(cancel)})));
}

namespace {

CoordinatorOptions Filled(CoordinatorOptions options, WorkerPool& pool, SafetyStage& safety,
                          RecallStage& recall, ContextStage& contexts) {
  options.pool = &pool;
  options.project.insert(options.project.begin(), &safety);
  options.decide.insert(options.decide.begin(), {&recall, &contexts});
  return options;
}

}  // namespace

struct Swarm::Impl {
  Impl(ActorSystem& actors, const ModelWeights& weights_in, ExpertSource& experts,
       const Tokenizer& tokenizer_in, SwarmOptions options_in, std::unique_ptr<WorkerPool> pool_in,
       ChosenDecoder chosen_in)
      : options(std::move(options_in)),
        weights(weights_in),
        tokenizer(tokenizer_in),
        pool(std::move(pool_in)),
        counters(weights.config),
        chosen(std::move(chosen_in)),
        safety(pool.get(), chosen.decoder->ops()),
        recall(tokenizer, pool.get(), chosen.decoder->ops()),
        contexts(pool.get(), chosen.decoder->ops()),
        state(weights.config, *chosen.decoder, Filled(options.coordinator, *pool, safety, recall, contexts),
              counters),
        coordinator(Spawn(actors, experts)),
        door(std::make_shared<Door>(coordinator)) {}

  CoordinatorActor Spawn(ActorSystem& actors, ExpertSource& experts) {
    outstanding.Add();
    return actors.system().spawn(Coordinator, &state, weights.config.num_regions(),
                                 RegionState(weights.config, experts, *pool, RequesterId(), options.runner),
                                 &outstanding, options.make_link);
  }

  ~Impl() {
    door->Send(shutdown_atom_v);
    {
      std::unique_lock lock(callers_mutex);
      callers_left.wait(lock, [this] { return callers == 0; });
    }
    door->Close();
    caf::anon_send_exit(coordinator, caf::exit_reason::user_shutdown);
    coordinator = nullptr;
    outstanding.WaitForNone();
  }

  SwarmOptions options;
  const ModelWeights& weights;
  const Tokenizer& tokenizer;
  std::unique_ptr<WorkerPool> pool;
  SwarmCounters counters;
  ChosenDecoder chosen;
  SafetyStage safety;
  RecallStage recall;
  ContextStage contexts;
  CoordinatorState state;
  Outstanding outstanding;  // all of the above outlives its actors
  CoordinatorActor coordinator;
  std::shared_ptr<Door> door;

  // Made when a session first asks for a memory of contexts. May throw std::bad_alloc.
  std::shared_ptr<const ContextCode> Code() {
    std::lock_guard lock(code_mutex);
    if (code == nullptr) code = std::make_shared<const ContextCode>(weights.config.d, weights.config.vocab);
    return code;
  }
  std::mutex code_mutex;
  std::shared_ptr<const ContextCode> code;

  std::atomic<uint64_t> next_session{1};
  std::mutex callers_mutex;
  std::condition_variable callers_left;
  int callers = 0;  // blocked in Generate or Snapshot
};

namespace {

// Counts a blocked caller.
class Caller {
 public:
  Caller(std::mutex& mutex, std::condition_variable& left, int& count)
      : mutex_(mutex), left_(left), count_(count) {
    std::lock_guard lock(mutex_);
    ++count_;
  }
  ~Caller() {
    std::lock_guard lock(mutex_);
    if (--count_ == 0) left_.notify_all();
  }
  Caller(const Caller&) = delete;
  Caller& operator=(const Caller&) = delete;

 private:
  std::mutex& mutex_;
  std::condition_variable& left_;
  int& count_;
};

}  // namespace

Swarm::Swarm(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Swarm::~Swarm() = default;

absl::StatusOr<std::unique_ptr<Swarm>> Swarm::Start(ActorSystem& actors, const ModelWeights& weights,
                                                    ExpertSource& experts, const Tokenizer& tokenizer,
                                                    const SwarmOptions& options) {
  SwarmOptions checked = options;
  if (checked.threads == 0) checked.threads = DefaultThreads();
  const CoordinatorOptions& c = checked.coordinator;
  if (checked.threads < 1)
    return absl::InvalidArgumentError(
        absl::StrCat("threads is ", checked.threads, ", but must be at least 1"));
  if (checked.max_context < 2) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_context is ", checked.max_context, ", but must be at least 2"));
  }
  if (c.max_active < 1 || c.max_active > c.max_rows || c.max_queued < 1 || c.prefill_rows_beside_decode < 1 ||
      checked.unread_tokens < 1 || c.calls.attempts < 1 || c.calls.timeout.count() < 4) {
    return absl::InvalidArgumentError(
        "swarm options: 1 <= max_active <= max_rows; max_queued, prefill_rows_beside_decode, unread_tokens "
        "and "
        "calls.attempts at least 1; calls.timeout at least 4 ms");
  }
  try {
    auto pool = std::make_unique<WorkerPool>(checked.threads);
    if (!pool->status().ok()) return pool->status();
    absl::StatusOr<ChosenDecoder> chosen = ChooseDecoder(weights, experts, *pool, checked.device, c.max_rows);
    if (!chosen.ok()) return chosen.status();
    auto impl = std::make_unique<Impl>(actors, weights, experts, tokenizer, std::move(checked),
                                       std::move(pool), *std::move(chosen));
    return std::unique_ptr<Swarm>(new Swarm(std::move(impl)));
  } catch (const std::exception& e) {
    return absl::ResourceExhaustedError(absl::StrCat("the swarm cannot be started: ", e.what()));
  }
}

absl::StatusOr<std::unique_ptr<SessionHandle>> Swarm::Submit(GenerateRequest request, SubmitOptions options) {
  Impl& impl = *impl_;
  if (absl::Status s =
          CheckRequest(request, impl.weights.config.vocab, impl.options.max_context, options.from.get());
      !s.ok()) {
    return s;
  }
  SessionExtras extras;
  if (!request.safety.polytope.empty()) {
    absl::StatusOr<HeldPolytope> held =
        impl.options.polytopes != nullptr
            ? impl.options.polytopes->Take(request.safety)
            : TakePolytope(nullptr, absl::NotFoundError("this swarm was started without any"),
                           request.safety);
    if (!held.ok()) return held.status();
    request.safety.hash = std::move(held->hash);
    extras.polytope = std::move(held->projector);
  }
  if (!request.memory.scope.empty()) {
    if (impl.options.memories == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat("memory scope ", Quoted(request.memory.scope),
                                                     ": this swarm was started without a memory"));
    }
    absl::StatusOr<HeldMemory> held = impl.options.memories->Hold(request.caller, request.memory);
    if (!held.ok()) return held.status();
    request.memory.version = std::move(held->version);
    extras.stored = std::move(held->memory);
  }
  if (!request.adapter.name.empty()) {
    absl::StatusOr<std::shared_ptr<const ReadyAdapter>> held =
        impl.options.adapters != nullptr
            ? impl.options.adapters->Take(request.adapter)
            : NoAdapter(request.adapter, absl::NotFoundError("this swarm was started without any"));
    if (!held.ok()) return held.status();
    extras.adapter = *std::move(held);
    request.adapter.hash = extras.adapter->hash();
  }
  if (request.context_memory) {
    try {
      extras.code = impl.Code();
    } catch (const std::bad_alloc&) {
      return absl::ResourceExhaustedError("no memory for the tokens' vectors, which contexts are kept by");
    }
  }
  const SessionId id(impl.next_session.fetch_add(1, std::memory_order_relaxed));
  auto channel = std::make_shared<SessionChannel>(static_cast<size_t>(impl.options.unread_tokens),
                                                  std::move(options.notify));
  impl.door->Send(submit_atom_v,
                  std::make_shared<Session>(id, std::move(request), impl.tokenizer, impl.options.max_context,
                                            channel, std::move(options.from), std::move(extras)));
  const std::shared_ptr<Door>& door = impl.door;
  return std::unique_ptr<SessionHandle>(new SessionHandle(std::make_unique<SessionHandle::Impl>(
      SessionHandle::Impl{id, std::move(channel), [door, id] { door->Send(resume_atom_v, id.value); },
                          [door, id] { door->Send(cancel_atom_v, id.value); }})));
}

absl::StatusOr<GenerateResult> Swarm::Generate(GenerateRequest request, const GenerateCallback& on_event,
                                               SnapshotPtr from) {
  const Caller caller(impl_->callers_mutex, impl_->callers_left, impl_->callers);
  const std::stop_token stop = request.cancel;
  absl::StatusOr<std::unique_ptr<SessionHandle>> handle =
      Submit(std::move(request), {std::move(from), nullptr});
  if (!handle.ok()) return handle.status();
  bool cancelled = false;
  absl::Status thrown;
  while (true) {
    SessionChannel::Taken taken = (*handle)->Wait(cancelled ? std::stop_token() : stop);
    bool cancel = stop.stop_requested();
    for (const GenerateEvent& event : taken.events) {
      if (!on_event || cancel || cancelled) continue;
      try {
        cancel = !on_event(event);
      } catch (const std::exception& e) {
        thrown = absl::InternalError(absl::StrCat("the receiver of the text failed: ", e.what()));
        cancel = true;
      }
    }
    if (taken.result.has_value()) {
      if (!thrown.ok()) return thrown;
      return *std::move(taken.result);
    }
    if (cancel && !cancelled) {
      cancelled = true;
      (*handle)->Cancel();
    }
  }
}

absl::StatusOr<SnapshotPtr> Swarm::Snapshot(SessionId session) {
  const Caller caller(impl_->callers_mutex, impl_->callers_left, impl_->callers);
  auto question = std::make_shared<SnapshotQuestion>();
  question->session = session;
  std::future<absl::StatusOr<SnapshotPtr>> answer = question->promise.get_future();
  impl_->door->Send(snapshot_atom_v, SnapshotQuestionPtr(std::move(question)));
  try {
    return answer.get();
  } catch (const std::future_error&) {  // nobody is left to answer
    return absl::UnavailableError("the swarm is shutting down");
  }
}

SwarmStats Swarm::Stats() const {
  const SwarmCounters& c = impl_->counters;
  SwarmStats stats;
  stats.decode = Read(c.decode);
  stats.mixed = Read(c.mixed);
  stats.active = c.active.Get();
  stats.queued = c.queued.Get();
  stats.sessions = c.sessions.Get();
  stats.restarts = c.restarts.Get();
  stats.retries = c.retries.Get();
  stats.timeouts = c.timeouts.Get();
  stats.moves = c.moves.Get();
  stats.failed_jobs = c.failed_jobs.Get();
  stats.prompt_rows = c.prompt_rows.Get();
  stats.tokens = c.tokens.Get();
  stats.safety_tokens = c.safety_tokens.Get();
  stats.safety_projected = c.safety_projected.Get();
  stats.context_tokens = c.context_tokens.Get();
  stats.context_recalled = c.context_recalled.Get();
  stats.memory_asked = c.memory_asked.Get();
  stats.memory_recalled = c.memory_recalled.Get();
  stats.adapter_tokens = c.adapter_tokens.Get();
  for (size_t ahead = 0; ahead < SwarmCounters::kAhead; ++ahead) {
    stats.predicted[ahead] = c.predicted[ahead].Get();
    stats.predicted_right[ahead] = c.predicted_right[ahead].Get();
  }
  stats.experts = c.experts;
  stats.expert_rows = Read(c.expert_rows);
  stats.last_experts = Read(c.last_experts);
  stats.region_requests = Read(c.region_requests);
  stats.region_compute_ns = Read(c.region_compute_ns);
  stats.threads = impl_->options.threads;
  stats.recoveries = c.recoveries.Get();
  if (impl_->chosen.device != nullptr) stats.device = impl_->chosen.device->Report();
  return stats;
}

const SwarmOptions& Swarm::options() const { return impl_->options; }

}  // namespace omni
