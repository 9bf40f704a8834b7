#include "actors/swarm.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <utility>

#include <absl/strings/str_cat.h>

#include "actors/coordinator.h"
#include "actors/messages.h"
#include "actors/session.h"
#include "actors/session_channel.h"
#include "engine/decode/worker_pool.h"

namespace omni {
namespace {

caf::actor_system_config& Configure(caf::actor_system_config& config) {
  config.set("scheduler.max-threads", 1);
  // One worker has nobody to steal from: after a short watch over its queue (the time in which a client may
  // come back) it sleeps until a message arrives.
  config.set("work-stealing.aggressive-poll-attempts", 100);
  config.set("work-stealing.moderate-poll-attempts", 20);
  config.set("work-stealing.moderate-sleep-duration", caf::timespan(std::chrono::microseconds(50)));
  config.set("work-stealing.relaxed-sleep-duration", caf::timespan(std::chrono::seconds(1)));
  return config;
}

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

struct Swarm::Impl {
  Impl(const ModelWeights& weights_in, ExpertSource& experts, const Tokenizer& tokenizer_in,
       SwarmOptions options_in)
      : options(std::move(options_in)),
        weights(weights_in),
        tokenizer(tokenizer_in),
        pool(options.threads),
        counters(weights.config),
        state(weights, pool, options.coordinator, counters),
        system(Configure(system_config)),
        coordinator(system.spawn(Coordinator, &state, weights.config.num_regions(),
                                 RegionState(weights.config, experts, pool, options.fault), &requests)) {}

  ~Impl() {
    caf::anon_send(coordinator, shutdown_atom_v);
    {
      std::unique_lock lock(callers_mutex);
      callers_left.wait(lock, [this] { return callers == 0; });
    }
    caf::anon_send_exit(coordinator, caf::exit_reason::user_shutdown);
    coordinator = nullptr;
    system.await_all_actors_done();
    requests.WaitForNone();
  }

  SwarmOptions options;
  const ModelWeights& weights;
  const Tokenizer& tokenizer;
  WorkerPool pool;
  SwarmCounters counters;
  CoordinatorState state;  // outlives every actor, and so do the buffers its jobs point into
  OpenRequests requests;
  caf::actor_system_config system_config;
  caf::actor_system system;
  caf::actor coordinator;

  std::atomic<uint64_t> next_session{1};
  std::mutex callers_mutex;
  std::condition_variable callers_left;
  int callers = 0;
};

Swarm::Swarm(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Swarm::~Swarm() = default;

absl::StatusOr<std::unique_ptr<Swarm>> Swarm::Start(const ModelWeights& weights, ExpertSource& experts,
                                                    const Tokenizer& tokenizer, const SwarmOptions& options) {
  SwarmOptions checked = options;
  if (checked.threads == 0)
    checked.threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  const CoordinatorOptions& c = checked.coordinator;
  if (checked.threads < 1)
    return absl::InvalidArgumentError(
        absl::StrCat("threads is ", checked.threads, ", but must be at least 1"));
  if (checked.max_context < 2) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_context is ", checked.max_context, ", but must be at least 2"));
  }
  if (c.max_active < 1 || c.max_active > c.max_rows || c.max_queued < 1 || c.prefill_rows_beside_decode < 1 ||
      checked.unread_tokens < 1 || c.job_attempts < 1 || c.job_timeout.count() < 4) {
    return absl::InvalidArgumentError(
        "swarm options: 1 <= max_active <= max_rows; max_queued, prefill_rows_beside_decode, unread_tokens "
        "and "
        "job_attempts at least 1; job_timeout at least 4 ms");
  }
  return std::unique_ptr<Swarm>(
      new Swarm(std::make_unique<Impl>(weights, experts, tokenizer, std::move(checked))));
}

absl::StatusOr<GenerateResult> Swarm::Generate(GenerateRequest request, const GenerateCallback& on_event) {
  Impl& impl = *impl_;
  if (absl::Status s = CheckRequest(request, impl.weights.config.vocab, impl.options.max_context); !s.ok())
    return s;
  struct Caller {
    Impl& impl;
    explicit Caller(Impl& i) : impl(i) {
      std::lock_guard lock(impl.callers_mutex);
      ++impl.callers;
    }
    ~Caller() {
      std::lock_guard lock(impl.callers_mutex);
      if (--impl.callers == 0) impl.callers_left.notify_all();
    }
  } caller(impl);

  const std::stop_token stop = request.cancel;
  const uint64_t id = impl.next_session.fetch_add(1, std::memory_order_relaxed);
  auto channel = std::make_shared<SessionChannel>(static_cast<size_t>(impl.options.unread_tokens));
  caf::anon_send(
      impl.coordinator, submit_atom_v,
      std::make_shared<Session>(id, std::move(request), impl.tokenizer, impl.options.max_context, channel));
  bool cancelled = false;
  while (true) {
    SessionChannel::Taken taken = channel->Take(cancelled ? std::stop_token() : stop);
    if (taken.resume) caf::anon_send(impl.coordinator, resume_atom_v, id);
    bool cancel = stop.stop_requested();
    for (const GenerateEvent& event : taken.events) {
      if (on_event && !cancel && !cancelled) cancel = !on_event(event);
    }
    if (taken.result.has_value()) return *std::move(taken.result);
    if (cancel && !cancelled) {
      cancelled = true;
      caf::anon_send(impl.coordinator, cancel_atom_v, id);
    }
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
  stats.failed_jobs = c.failed_jobs.Get();
  for (size_t ahead = 0; ahead < SwarmCounters::kAhead; ++ahead) {
    stats.predicted[ahead] = c.predicted[ahead].Get();
    stats.predicted_right[ahead] = c.predicted_right[ahead].Get();
  }
  stats.experts = c.experts;
  stats.expert_rows = Read(c.expert_rows);
  stats.region_requests = Read(c.region_requests);
  stats.region_compute_ns = Read(c.region_compute_ns);
  stats.threads = impl_->options.threads;
  return stats;
}

const SwarmOptions& Swarm::options() const { return impl_->options; }

}  // namespace omni
