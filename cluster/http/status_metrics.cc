#include "cluster/http/status_metrics.h"

#include <chrono>
#include <string>
#include <utility>

#include "cluster/process_figures.h"

namespace omni {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;
using Labels = std::vector<ClientMetric::Label>;

double Seconds(std::chrono::nanoseconds t) { return std::chrono::duration<double>(t).count(); }

class Families {
 public:
  // Begins a family; what follows by Add is of it.
  Families& Counter(const char* name, const char* help) { return Begin(name, help, MetricType::Counter); }
  Families& Gauge(const char* name, const char* help) { return Begin(name, help, MetricType::Gauge); }
  template <typename T>
  Families& Add(T value, Labels labels = {}) {
    ClientMetric metric;
    metric.label = std::move(labels);
    const bool counter = all_.back().type == MetricType::Counter;
    (counter ? metric.counter.value : metric.gauge.value) = static_cast<double>(value);
    all_.back().metric.push_back(std::move(metric));
    return *this;
  }
  std::vector<MetricFamily> Take() { return std::move(all_); }

 private:
  Families& Begin(const char* name, const char* help, MetricType type) {
    all_.push_back({name, help, type, {}});
    return *this;
  }
  std::vector<MetricFamily> all_;
};

void AddProcess(const ProcessFacts& facts, Families& f) {
  f.Gauge("omni_build_info", "1; the labels say which program this is and what it computes with.")
      .Add(1, {{"version", OMNI_VERSION}, {"isa", facts.isa}});
  f.Gauge("omni_model_info", "1; the labels say which model is served.")
      .Add(1, {{"preset", facts.config.preset}, {"hash", facts.model_hash}});
  const ProcessFigures process = ThisProcess();
  f.Gauge("process_resident_memory_bytes", "Memory of the process that is in RAM.")
      .Add(process.resident_bytes);
  f.Gauge("process_virtual_memory_bytes", "Address space of the process.").Add(process.virtual_bytes);
  f.Counter("process_cpu_seconds_total", "CPU time of the process, of user and system.")
      .Add(process.cpu_seconds);
  f.Gauge("process_start_time_seconds", "When the process was started, since 1970.")
      .Add(process.start_seconds);
  f.Gauge("process_open_fds", "Files and sockets that are open.").Add(CountOpenFiles());
  f.Gauge("process_max_fds", "Files and sockets that may be open.").Add(process.most_files);
  f.Gauge("process_threads", "Threads of the process.").Add(process.threads);
}

void AddSwarm(const SwarmStats& s, Families& f) {
  f.Counter("omni_sessions_total", "Sessions that the swarm has begun.").Add(s.sessions);
  f.Gauge("omni_sessions_active", "Sessions in the present step.").Add(s.active);
  f.Gauge("omni_sessions_queued", "Sessions that wait for their first step.").Add(s.queued);
  f.Counter("omni_steps_total", "Steps of the swarm, of any number of sessions.")
      .Add(s.decode.steps + s.mixed.steps);
  f.Counter("omni_step_seconds_total", "Time within steps, by steps that only decode and those with prompts.")
      .Add(Seconds(s.decode.wall), {{"kind", "decode"}})
      .Add(Seconds(s.mixed.wall), {{"kind", "mixed"}});
  f.Counter("omni_compute_seconds_total", "Of the time within steps, that of decoder, experts and sampler.")
      .Add(Seconds(s.decode.compute), {{"kind", "decode"}})
      .Add(Seconds(s.mixed.compute), {{"kind", "mixed"}});
  f.Counter("omni_rows_total", "Rows computed: tokens of prompts and of answers.")
      .Add(s.decode.rows + s.mixed.rows);
  f.Counter("omni_tokens_total", "Tokens of prompts computed and of answers drawn, for all clients.")
      .Add(s.prompt_rows, {{"of", "prompt"}})
      .Add(s.tokens, {{"of", "answer"}});
  f.Counter("omni_safety_tokens_total", "Tokens drawn with a polytope, by whether it moved the hidden state.")
      .Add(s.safety_projected, {{"moved", "true"}})
      .Add(s.safety_tokens - s.safety_projected, {{"moved", "false"}});
  f.Counter("omni_adapter_tokens_total", "Tokens drawn with an adapter.").Add(s.adapter_tokens);
  f.Counter("omni_context_tokens_total",
            "Tokens drawn with a memory of contexts, by whether it had a say in them.")
      .Add(s.context_recalled, {{"recalled", "true"}})
      .Add(s.context_tokens - s.context_recalled, {{"recalled", "false"}});
  f.Counter("omni_memory_tokens_total",
            "Tokens for which a memory was asked, perspectives having disagreed, by whether it chose them.")
      .Add(s.memory_recalled, {{"recalled", "true"}})
      .Add(s.memory_asked - s.memory_recalled, {{"recalled", "false"}});

  f.Counter("omni_region_requests_total", "Requests sent to each region of the torus.");
  for (size_t r = 0; r < s.region_requests.size(); ++r)
    f.Add(s.region_requests[r], {{"region", std::to_string(r)}});
  f.Counter("omni_region_compute_seconds_total", "Time in which each region has computed.");
  for (size_t r = 0; r < s.region_compute_ns.size(); ++r)
    f.Add(Seconds(std::chrono::nanoseconds(s.region_compute_ns[r])), {{"region", std::to_string(r)}});
  if (s.experts > 0) {
    std::vector<int64_t> rows(static_cast<size_t>(s.experts));
    for (size_t i = 0; i < s.expert_rows.size(); ++i) rows[i % rows.size()] += s.expert_rows[i];
    f.Counter("omni_expert_rows_total", "Rows that went to each expert, in all layers.");
    for (size_t e = 0; e < rows.size(); ++e) f.Add(rows[e], {{"expert", std::to_string(e)}});
  }
  f.Counter("omni_region_restarts_total", "Regions begun afresh.").Add(s.restarts);
  f.Counter("omni_region_retries_total", "Requests to a region that were sent again.").Add(s.retries);
  f.Counter("omni_region_timeouts_total", "Requests to a region that had no answer in time.").Add(s.timeouts);
  f.Counter("omni_region_moves_total", "Times that another answers for a region.").Add(s.moves);
  f.Counter("omni_failed_jobs_total", "Requests to a region that failed for good.").Add(s.failed_jobs);
  f.Counter("omni_route_guesses_total", "Rows whose expert was guessed, by expert layers ahead.")
      .Add(s.predicted[0], {{"ahead", "1"}})
      .Add(s.predicted[1], {{"ahead", "2"}});
  f.Counter("omni_route_guesses_right_total", "Of these, the guesses that were right.")
      .Add(s.predicted_right[0], {{"ahead", "1"}})
      .Add(s.predicted_right[1], {{"ahead", "2"}});
}

void AddDevice(const SwarmStats& s, Families& f) {
  if (!s.device.has_value() && !s.runner.has_value()) return;
  const std::string name = s.device.has_value() ? s.device->name : s.runner->name;
  f.Gauge("omni_device_info", "1; the labels say which device computes, and where it has a model's experts.")
      .Add(1, {{"name", name}, {"experts", s.device.has_value() ? s.device->experts : "outside"}});
  f.Gauge("omni_device_memory_used_bytes", "Memory of the device that is taken.")
      .Add(s.runner.has_value() ? s.runner->memory_used : s.device->memory_used);
  f.Gauge("omni_device_memory_cap_bytes", "Memory of the device that may be taken.")
      .Add(s.device.has_value() ? s.device->memory_cap : s.runner->memory_cap);
  const bool lost = (s.device.has_value() && s.device->lost) || (s.runner.has_value() && s.runner->lost);
  f.Gauge("omni_device_lost", "1 if the device was given up, and the CPU computes.").Add(lost ? 1 : 0);
  f.Counter("omni_device_streamed_bytes_total", "Bytes of experts copied to the device.")
      .Add((s.device.has_value() ? s.device->bytes_streamed : 0) +
           (s.runner.has_value() ? s.runner->bytes_streamed : 0));
  if (s.device.has_value()) {
    f.Gauge("omni_device_graphs", "Graphs of a token that were recorded.").Add(s.device->graphs);
    f.Counter("omni_device_passes_total", "Passes of the model, by what computed them.")
        .Add(s.device->passes, {{"by", "device"}})
        .Add(s.device->fallbacks, {{"by", "cpu"}});
    f.Counter("omni_device_recoveries_total", "Steps begun again since the device was lost.")
        .Add(s.recoveries);
  }
  if (s.runner.has_value()) {
    f.Gauge("omni_device_experts_held", "Experts of the node's regions in the device's memory.")
        .Add(s.runner->held);
    f.Counter("omni_device_expert_jobs_total", "Rows' worth of one expert, by what computed them.")
        .Add(s.runner->jobs, {{"by", "device"}})
        .Add(s.runner->fallbacks, {{"by", "cpu"}});
  }
}

void AddCache(const ProcessFacts& facts, const ProcessStatus& now, Families& f) {
  if (facts.plan.has_value()) {
    const MemoryPlan& plan = *facts.plan;
    f.Gauge("omni_memory_budget_bytes", "What the process may take of memory.").Add(plan.ram_bytes);
    f.Gauge("omni_memory_plan_bytes", "What of the budget is for what.")
        .Add(plan.shared_bytes, {{"part", "shared"}})
        .Add(plan.index_bytes, {{"part", "index"}})
        .Add(plan.bytes_for_sessions(), {{"part", "sessions"}})
        .Add(plan.cache_bytes(), {{"part", "experts"}})
        .Add(plan.other_bytes, {{"part", "other"}});
  }
  if (!now.cache.has_value()) return;
  const CacheStats& c = *now.cache;
  f.Gauge("omni_cache_capacity_bytes", "What the cache of experts may take now.").Add(now.cache_bytes);
  f.Counter("omni_cache_requests_total", "Experts asked for, by whether all their tiles were there.")
      .Add(c.ready_requests, {{"ready", "true"}})
      .Add(c.requests - c.ready_requests, {{"ready", "false"}});
  f.Counter("omni_cache_tiles_total", "Tiles asked for: there, being read already, or to be read.")
      .Add(c.hits, {{"found", "hit"}})
      .Add(c.joined, {{"found", "joined"}})
      .Add(c.misses, {{"found", "miss"}});
  f.Counter("omni_cache_bytes_total", "Bytes of the tiles asked for, by where they were.")
      .Add((c.hits + c.joined) * facts.tile_bytes, {{"tier", "memory"}})
      .Add(c.misses * facts.tile_bytes, {{"tier", "disk"}});
  f.Counter("omni_cache_guessed_tiles_total", "Tiles read for a guess.").Add(c.guessed);
  f.Counter("omni_cache_guessed_tiles_used_total", "Of these, the tiles that were then used.")
      .Add(c.guessed_used);
  f.Counter("omni_cache_evicted_tiles_total", "Tiles given up for others.").Add(c.evicted);
  f.Counter("omni_cache_failed_tiles_total", "Tiles that could not be read or were damaged.").Add(c.failed);
  f.Gauge("omni_cache_waiting_requests", "Requests that wait for room or tiles now.").Add(c.waiting);
  f.Counter("omni_disk_read_bytes_total", "Bytes of tiles read from disk.").Add(c.read_bytes);
  f.Counter("omni_disk_stall_seconds_total", "Time with at least one request waiting for tiles.")
      .Add(Seconds(c.stall));
}

void AddNodes(const ClusterReport& report, Families& f) {
  f.Gauge("omni_node_up", "1 if the node is connected.");
  for (const NodeView& node : report.view.nodes) f.Add(node.up ? 1 : 0, {{"node", node.id.value}});
  f.Gauge("omni_node_offered_bytes", "Memory that the node offers for experts.");
  for (const NodeView& node : report.view.nodes) f.Add(node.record.offered_bytes, {{"node", node.id.value}});
  f.Gauge("omni_node_missing_bytes", "Bytes of tiles that the node has yet to fetch.");
  for (const NodeView& node : report.view.nodes)
    f.Add(node.holdings.missing_bytes, {{"node", node.id.value}});
  f.Counter("omni_node_fetched_bytes_total", "Bytes of tiles that the node fetched from others.");
  for (const NodeView& node : report.view.nodes)
    f.Add(node.holdings.fetched_bytes, {{"node", node.id.value}});
  f.Gauge("omni_node_regions", "Regions of the torus, by who has them and as what.");
  for (const NodeView& node : report.view.nodes) {
    int64_t owned = 0, shadowed = 0, coming = 0;
    for (const RegionView& region : report.view.regions) {
      owned += region.record.owner == node.id;
      shadowed += region.record.shadow == node.id;
      coming += region.record.target == node.id;
    }
    f.Add(owned, {{"node", node.id.value}, {"as", "owner"}})
        .Add(shadowed, {{"node", node.id.value}, {"as", "shadow"}})
        .Add(coming, {{"node", node.id.value}, {"as", "target"}});
  }
}

void AddLinks(const std::vector<PeerView>& peers, Families& f) {
  const auto each = [&](auto value) {
    for (const PeerView& peer : peers) f.Add(value(peer), {{"node", peer.node.value}});
  };
  f.Counter("omni_link_sent_bytes_total", "Bytes sent to a node.");
  each([](const PeerView& p) { return p.sent_bytes; });
  f.Counter("omni_link_received_bytes_total", "Bytes received from a node.");
  each([](const PeerView& p) { return p.received_bytes; });
  f.Counter("omni_link_requests_total", "Requests sent to a node, of one region each.");
  each([](const PeerView& p) { return p.requests; });
  f.Counter("omni_link_answers_total", "Answers of a node: round trips.");
  each([](const PeerView& p) { return p.answers; });
  f.Counter("omni_link_refused_total", "Requests that a node refused, since its epoch was another.");
  each([](const PeerView& p) { return p.refused; });
  f.Counter("omni_link_connections_total", "Connections made with a node.");
  each([](const PeerView& p) { return p.connections; });
  f.Gauge("omni_link_suspect", "1 if a node is silent for longer than its answers take.");
  each([](const PeerView& p) { return p.suspect ? 1 : 0; });
  f.Gauge("omni_link_round_trip_median_seconds", "Median of a node's latest round trips.");
  each([](const PeerView& p) { return Seconds(p.rtt_p50); });
  f.Gauge("omni_link_round_trip_p99_seconds", "99th percentile of a node's latest round trips.");
  each([](const PeerView& p) { return Seconds(p.rtt_p99); });
}

void AddCluster(const ClusterReport* report, Families& f) {
  f.Gauge("omni_cluster_coordinates", "1 if this process coordinates a cluster.")
      .Add(report != nullptr ? 1 : 0);
  if (report == nullptr) return;
  f.Gauge("omni_cluster_term", "The term in which it leads.").Add(report->view.term);
  f.Counter("omni_cluster_failovers_total", "Regions whose owner was replaced since it was gone.")
      .Add(report->failovers);
  f.Counter("omni_cluster_migrations_total", "Regions moved.").Add(report->migrations);
  f.Counter("omni_cluster_migrations_cancelled_total", "Moves of regions that were given up.")
      .Add(report->migrations_cancelled);
  f.Counter("omni_cluster_hedges_total", "Requests asked of a second node, by whose answer came first.")
      .Add(report->hedges_won, {{"first", "second"}})
      .Add(report->hedges_lost, {{"first", "owner"}});
  f.Counter("omni_cluster_hedges_sent_total", "Requests asked of a second node.").Add(report->hedges_sent);
  f.Counter("omni_cluster_hedges_withheld_total", "Second requests beyond what --hedge allows.")
      .Add(report->hedges_withheld);
  f.Counter("omni_cluster_rerouted_requests_total", "Requests that went to another than the owner at once.")
      .Add(report->rerouted);
  f.Counter("omni_cluster_refused_epochs_total", "Requests refused by nodes, since their epoch was another.")
      .Add(report->refused);
  AddNodes(*report, f);
  AddLinks(report->peers, f);
}

void AddTasks(const TasksNow* now, Families& f) {
  if (now == nullptr) return;
  const TaskCounts& counts = now->figures.counts;
  f.Gauge("omni_tasks", "Tasks that are not over, by how far they are.");
  for (const TaskStatus status :
       {TaskStatus::kScheduled, TaskStatus::kQueued, TaskStatus::kRunning, TaskStatus::kWaiting})
    f.Add(counts.by_status[static_cast<size_t>(status)], {{"status", TaskStatusName(status)}});
  f.Counter("omni_tasks_accepted_total", "Tasks that were handed in and accepted.").Add(now->accepted);
  f.Counter("omni_tasks_over_total", "Tasks that ended, by how.")
      .Add(counts.succeeded, {{"status", TaskStatusName(TaskStatus::kSucceeded)}})
      .Add(counts.failed, {{"status", TaskStatusName(TaskStatus::kFailed)}})
      .Add(counts.cancelled, {{"status", TaskStatusName(TaskStatus::kCancelled)}});
  f.Counter("omni_task_attempts_total", "Attempts at tasks that were begun.").Add(counts.attempts);
  f.Counter("omni_task_attempts_lost_total",
            "Of these, the attempts whose executor was not heard of in time.")
      .Add(counts.lost);
  f.Counter("omni_task_refused_tokens_total", "Reports of executors that had lost their tasks.")
      .Add(counts.refused_tokens);
  f.Counter("omni_task_syncs_total", "Times that the disk was waited for.").Add(now->figures.syncs);
  f.Counter("omni_task_writes_total", "Records that were written.").Add(now->figures.writes);
  f.Gauge("omni_task_watches", "Streams of events that are open.").Add(now->watches);
  f.Gauge("omni_task_store_failed", "1 while the store takes no writes.")
      .Add(now->figures.store.ok() ? 0 : 1);
}

}  // namespace

std::vector<MetricFamily> StatusMetrics(const ProcessFacts& facts, const ProcessStatus& now,
                                        int64_t moments) {
  Families f;
  AddProcess(facts, f);
  AddSwarm(now.swarm, f);
  AddDevice(now.swarm, f);
  AddCache(facts, now, f);
  AddCluster(now.cluster.get(), f);
  AddTasks(now.tasks.get(), f);
  f.Counter("omni_status_moments_total", "Moments of the status made for watchers.").Add(moments);
  return f.Take();
}

}  // namespace omni
