#include "cluster/http/status_json.h"

#include <algorithm>
#include <utility>

#include "cluster/process_figures.h"
#include "engine/base/json.h"

namespace omni {
namespace {

using Json = nlohmann::ordered_json;

double Millis(std::chrono::nanoseconds t) { return std::chrono::duration<double, std::milli>(t).count(); }
int64_t SinceEpoch(std::chrono::system_clock::time_point t) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(t.time_since_epoch()).count();
}

Json ServedModelPart(const ProcessFacts& facts, const std::string& name) {
  const ModelConfig& c = facts.config;
  const ParameterCount parameters = CountParameters(c);
  return {{"name", name},
          {"preset", c.preset},
          {"hash", facts.model_hash},
          {"layers", c.layers},
          {"lattice", c.lattice},
          {"region", c.region},
          {"parameters", parameters.total()},
          {"active_parameters", parameters.active()},
          {"context", facts.max_context}};
}

// Of each expert layer: the expert that was asked last, and which were since the moment before, each with its
// rows.
Json LayersPart(const ModelConfig& config, const SwarmStats& stats, const std::vector<int64_t>& before) {
  Json layers = Json::array();
  const auto experts = static_cast<size_t>(stats.experts);
  for (int64_t l = 0; l < config.layers; ++l) {
    if (config.IsAttention(l)) continue;
    const auto layer = static_cast<size_t>(l);
    Json taken = Json::array();
    for (size_t e = 0; e < experts; ++e) {
      const size_t at = layer * experts + e;
      if (at >= before.size() || at >= stats.expert_rows.size()) break;
      if (const int64_t rows = stats.expert_rows[at] - before[at]; rows > 0) {
        taken.push_back(e);
        taken.push_back(rows);
      }
    }
    layers.push_back({{"layer", l},
                      {"last", layer < stats.last_experts.size() ? stats.last_experts[layer] : -1},
                      {"taken", std::move(taken)}});
  }
  return layers;
}

std::vector<int64_t> RowsByExpert(const SwarmStats& stats) {
  std::vector<int64_t> rows(static_cast<size_t>(stats.experts));
  if (rows.empty()) return rows;
  for (size_t i = 0; i < stats.expert_rows.size(); ++i) rows[i % rows.size()] += stats.expert_rows[i];
  return rows;
}

Json RegionsPart(const SwarmStats& stats) {
  Json compute = Json::array();
  for (const int64_t ns : stats.region_compute_ns) compute.push_back(ns / 1'000'000);
  return {{"requests", stats.region_requests}, {"compute_ms", std::move(compute)}};
}

Json CachePart(const ProcessFacts& facts, const ProcessStatus& now) {
  if (!now.cache.has_value()) return nullptr;
  const CacheStats& c = *now.cache;
  return {{"bytes", now.cache_bytes},
          {"model_bytes", facts.unique_tiles * facts.tile_bytes},
          {"tile_bytes", facts.tile_bytes},
          {"hits", c.hits},
          {"joined", c.joined},
          {"misses", c.misses},
          {"evicted", c.evicted},
          {"guessed", c.guessed},
          {"guessed_used", c.guessed_used},
          {"read_bytes", c.read_bytes},
          {"failed", c.failed},
          {"waiting", c.waiting},
          {"stall_ms", Millis(c.stall)},
          {"reads", facts.reads}};
}

Json PlanPart(const std::optional<MemoryPlan>& plan) {
  if (!plan.has_value()) return nullptr;
  return {{"ram_bytes", plan->ram_bytes},          {"shared_bytes", plan->shared_bytes},
          {"index_bytes", plan->index_bytes},      {"session_bytes", plan->bytes_for_sessions()},
          {"sessions", plan->sessions_that_fit()}, {"other_bytes", plan->other_bytes},
          {"cache_bytes", plan->cache_bytes()}};
}

const char* StateOf(const NodeView& node, bool suspect, bool owns) {
  if (!node.up) return node.gone ? "gone" : "down";
  if (suspect) return "suspect";
  if (node.record.draining) return owns ? "draining" : "drained";
  return "up";
}

Json NodePart(const ClusterReport& report, const NodeView& node) {
  const auto peer = std::find_if(report.peers.begin(), report.peers.end(),
                                 [&](const PeerView& p) { return p.node == node.id; });
  const bool owns =
      std::any_of(report.view.regions.begin(), report.view.regions.end(), [&](const RegionView& region) {
        const RegionRecord& r = region.record;
        return r.owner == node.id || r.shadow == node.id || r.target == node.id;
      });
  const bool has_peer = peer != report.peers.end();
  Json json = {{"node", node.id.value},
               {"address", node.record.address},
               {"self", node.self},
               {"state", StateOf(node, has_peer && peer->suspect, owns)},
               {"offered_bytes", node.record.offered_bytes},
               {"missing_bytes", node.holdings.missing_bytes},
               {"fetched_bytes", node.holdings.fetched_bytes},
               {"error", node.holdings.error},
               {"protocol", node.protocol},
               {"program", node.program}};
  if (has_peer) {
    json["sent_bytes"] = peer->sent_bytes;
    json["received_bytes"] = peer->received_bytes;
    json["requests"] = peer->requests;
    json["rtt_p50_us"] = Millis(peer->rtt_p50) * 1e3;
    json["rtt_p99_us"] = Millis(peer->rtt_p99) * 1e3;
  }
  return json;
}

Json ClusterPart(const ClusterReport* report) {
  if (report == nullptr) return nullptr;
  const ClusterView& view = report->view;
  Json nodes = Json::array(), regions = Json::array();
  for (const NodeView& node : view.nodes) nodes.push_back(NodePart(*report, node));
  for (size_t r = 0; r < view.regions.size(); ++r) {
    const RegionRecord& record = view.regions[r].record;
    regions.push_back({{"owner", record.owner.value},
                       {"shadow", record.shadow.value},
                       {"target", record.target.value},
                       {"pinned", record.pinned.value},
                       {"epoch", view.regions[r].epoch},
                       {"bytes", r < report->region_bytes.size() ? report->region_bytes[r] : 0}});
  }
  return {{"name", view.cluster.name},
          {"coordinator", view.leader.value},
          {"term", view.term},
          {"nodes", std::move(nodes)},
          {"regions", std::move(regions)},
          {"failovers", report->failovers},
          {"migrations", report->migrations},
          {"migrations_cancelled", report->migrations_cancelled},
          {"hedges_sent", report->hedges_sent},
          {"hedges_won", report->hedges_won},
          {"hedges_lost", report->hedges_lost},
          {"rerouted", report->rerouted},
          {"refused", report->refused}};
}

// Who handed a task in sees what it is; here is only how it goes.
Json TasksPart(const TasksNow* now) {
  if (now == nullptr) return nullptr;
  const TaskCounts& counts = now->figures.counts;
  const auto live = [&](TaskStatus status) { return counts.by_status[static_cast<size_t>(status)]; };
  Json latest = Json::array();
  for (const TaskState& task : now->latest) {
    latest.push_back({{"id", task.id},
                      {"status", TaskStatusName(task.status)},
                      {"caller", task.caller},
                      {"executor", task.executor},
                      {"target", task.target},
                      {"attempt", task.attempt},
                      {"node", task.node},
                      {"error", task.error},
                      {"children", task.children},
                      {"children_over", task.children_over},
                      {"created_ms", task.created.time_since_epoch().count()},
                      {"updated_ms", task.updated.time_since_epoch().count()}});
  }
  return {{"scheduled", live(TaskStatus::kScheduled)},
          {"queued", live(TaskStatus::kQueued)},
          {"running", live(TaskStatus::kRunning)},
          {"waiting", live(TaskStatus::kWaiting)},
          {"succeeded", counts.succeeded},
          {"failed", counts.failed},
          {"cancelled", counts.cancelled},
          {"accepted", now->accepted},
          {"attempts", counts.attempts},
          {"lost", counts.lost},
          {"syncs", now->figures.syncs},
          {"watches", now->watches},
          {"draining", now->figures.draining},
          {"store", std::string(now->figures.store.message())},
          {"latest", std::move(latest)}};
}

}  // namespace

StatusJson::StatusJson(ProcessFacts facts, std::string name, int64_t slots)
    : facts_(std::move(facts)), name_(std::move(name)), slots_(slots) {}

std::string StatusJson::Text(const StatusMoment& moment, const std::vector<int64_t>& before) const {
  const SwarmStats& swarm = moment.now.swarm;
  const ProcessFigures process = ThisProcess();
  const Json json = {
      {"time_ms", SinceEpoch(moment.time)},
      {"up_ms", Millis(moment.up)},
      {"model", ServedModelPart(facts_, name_)},
      {"process",
       {{"version", OMNI_VERSION},
        {"node", facts_.node},
        {"isa", facts_.isa},
        {"threads", swarm.threads},
        {"ready", moment.ready},
        {"why", moment.why},
        {"connections", moment.connections},
        {"resident_bytes", process.resident_bytes},
        {"cpu_s", process.cpu_seconds}}},
      {"sessions",
       {{"active", swarm.active}, {"waiting", swarm.queued}, {"begun", swarm.sessions}, {"places", slots_}}},
      {"tokens",
       {{"prompt", swarm.prompt_rows},
        {"answer", swarm.tokens},
        {"steps", swarm.decode.steps + swarm.mixed.steps}}},
      {"experts", RowsByExpert(swarm)},
      {"layers", LayersPart(facts_.config, swarm, before)},
      {"regions", RegionsPart(swarm)},
      {"faults",
       {{"restarts", swarm.restarts},
        {"retries", swarm.retries},
        {"timeouts", swarm.timeouts},
        {"moves", swarm.moves},
        {"failed_jobs", swarm.failed_jobs}}},
      {"cache", CachePart(facts_, moment.now)},
      {"plan", PlanPart(facts_.plan)},
      {"cluster", ClusterPart(moment.now.cluster.get())},
      {"tasks", TasksPart(moment.now.tasks.get())}};
  return JsonText(json);
}

std::string EventsJson(const std::vector<RecentEvent>& events) {
  Json json = Json::array();
  for (const RecentEvent& event : events) {
    json.push_back({{"number", event.number},
                    {"time_ms", SinceEpoch(event.time)},
                    {"level", LogLevelName(event.level)},
                    {"event", event.event},
                    {"message", event.message}});
  }
  return JsonText(json);
}

}  // namespace omni
