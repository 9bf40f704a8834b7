// What the page is told of a process, from a process that is made up.
#include "cluster/http/status_json.h"

#include <memory>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "cluster/process_figures.h"

namespace omni {
namespace {

using nlohmann::json;

ProcessFacts Facts() {
  ProcessFacts facts;
  facts.config = *Preset("mini");  // 8 layers, the 4th and the 8th without experts; 128 experts, 16 regions
  facts.model_hash = "abc";
  facts.node = "models/mini";
  facts.isa = "avx2";
  facts.max_context = 1000;
  return facts;
}

StatusMoment Moment() {
  const ModelConfig config = Facts().config;
  StatusMoment moment;
  SwarmStats& swarm = moment.now.swarm;
  swarm.experts = config.num_experts();
  swarm.expert_rows.resize(static_cast<size_t>(config.layers * swarm.experts));
  swarm.last_experts.assign(static_cast<size_t>(config.layers), -1);
  swarm.region_requests.resize(16);
  swarm.region_compute_ns.resize(16);
  swarm.threads = 2;
  return moment;
}

json Text(const StatusMoment& moment, const std::vector<int64_t>& before = {}, ProcessFacts facts = Facts()) {
  const std::string text = StatusJson(std::move(facts), "small", 16).Text(moment, before);
  EXPECT_EQ(text.find('\n'), std::string::npos) << "an event's data is one line";
  return json::parse(text);
}

TEST(StatusJson, SaysWhatIsServedByWhat) {
  StatusMoment moment = Moment();
  moment.ready = true;
  moment.connections = 3;
  moment.up = std::chrono::milliseconds(1500);
  moment.now.swarm.active = 2;
  moment.now.swarm.queued = 1;
  moment.now.swarm.tokens = 7;
  moment.now.swarm.prompt_rows = 9;
  const json status = Text(moment);
  EXPECT_EQ(status["up_ms"], 1500);
  EXPECT_EQ(status["model"]["name"], "small");
  EXPECT_EQ(status["model"]["lattice"], json({8, 4, 4}));
  EXPECT_EQ(status["model"]["region"], json({2, 2, 2}));
  EXPECT_EQ(status["process"]["ready"], true);
  EXPECT_EQ(status["process"]["threads"], 2);
  EXPECT_GT(status["process"]["resident_bytes"], 100'000);
  EXPECT_EQ(status["sessions"], json({{"active", 2}, {"waiting", 1}, {"begun", 0}, {"places", 16}}));
  EXPECT_EQ(status["tokens"]["prompt"], 9);
  EXPECT_EQ(status["tokens"]["answer"], 7);
  EXPECT_EQ(status["cache"], nullptr);
  EXPECT_EQ(status["plan"], nullptr);
  EXPECT_EQ(status["cluster"], nullptr);
  moment.ready = false;
  moment.why = "no coordinator \xff";
  EXPECT_EQ(Text(moment)["process"]["why"], "no coordinator \xEF\xBF\xBD");
}

TEST(StatusJson, EachExpertLayerSaysWhatItTookSinceTheMomentBefore) {
  StatusMoment moment = Moment();
  SwarmStats& swarm = moment.now.swarm;
  const auto rows = [&](size_t layer, size_t expert) -> int64_t& {
    return swarm.expert_rows[layer * static_cast<size_t>(swarm.experts) + expert];
  };
  rows(1, 5) = 10;
  const std::vector<int64_t> before = swarm.expert_rows;
  rows(1, 5) += 2;
  rows(1, 127) = 1;
  rows(4, 5) = 3;
  swarm.last_experts[1] = 127;
  const json status = Text(moment, before);
  ASSERT_EQ(status["layers"].size(), 6u);  // of eight two are attention's
  EXPECT_EQ(status["layers"][0], json({{"layer", 0}, {"last", -1}, {"taken", json::array()}}));
  EXPECT_EQ(status["layers"][1], json({{"layer", 1}, {"last", 127}, {"taken", {5, 2, 127, 1}}}));
  EXPECT_EQ(status["layers"][3], json({{"layer", 4}, {"last", -1}, {"taken", {5, 3}}}));
  EXPECT_EQ(status["experts"][5], 15);
  EXPECT_EQ(status["experts"][127], 1);
  for (const json& layer : Text(moment)["layers"]) EXPECT_TRUE(layer["taken"].empty());
}

TEST(StatusJson, OfAStreamedModelItSaysCacheDiskAndPlan) {
  ProcessFacts facts = Facts();
  facts.plan.emplace();
  facts.plan->ram_bytes = 1000;
  facts.plan->shared_bytes = 300;
  facts.plan->tile_bytes = 10;
  facts.plan->cache_tiles = 50;
  facts.unique_tiles = 90;
  facts.tile_bytes = 10;
  facts.reads = "io_uring";
  StatusMoment moment = Moment();
  moment.now.cache.emplace();
  moment.now.cache->hits = 4;
  moment.now.cache->misses = 2;
  moment.now.cache->read_bytes = 20;
  moment.now.cache->stall = std::chrono::milliseconds(3);
  moment.now.cache_bytes = 500;
  const json status = Text(moment, {}, facts);
  EXPECT_EQ(status["cache"]["bytes"], 500);
  EXPECT_EQ(status["cache"]["model_bytes"], 900);
  EXPECT_EQ(status["cache"]["hits"], 4);
  EXPECT_EQ(status["cache"]["misses"], 2);
  EXPECT_EQ(status["cache"]["read_bytes"], 20);
  EXPECT_EQ(status["cache"]["stall_ms"], 3);
  EXPECT_EQ(status["plan"]["cache_bytes"], 500);
  EXPECT_EQ(status["plan"]["session_bytes"], 200);  // what else there is of the budget
}

ClusterReport Report() {
  ClusterReport report;
  ClusterView& view = report.view;
  view.cluster.name = "omni";
  view.leader = {"a"};
  view.term = 7;
  for (const char* name : {"a", "b", "c", "d", "e"}) {
    NodeView node;
    node.id = {name};
    node.up = true;
    view.nodes.push_back(node);
  }
  view.nodes[0].self = true;
  view.nodes[2].up = false;
  view.nodes[3].record.draining = true;
  view.nodes[4].record.draining = true;
  view.regions.resize(16);
  view.regions[3].record = {{"b"}, {"a"}, {"e"}, {""}};
  view.regions[3].epoch = 9;
  PeerView peer;
  peer.node = {"b"};
  peer.suspect = true;
  peer.sent_bytes = 11;
  peer.rtt_p50 = std::chrono::microseconds(204);
  report.peers.push_back(peer);
  report.failovers = 1;
  report.hedges_won = 2;
  report.region_bytes.assign(16, 5);
  return report;
}

TEST(StatusJson, OfAClusterItSaysNodesPlacementAndWhatBefellIt) {
  StatusMoment moment = Moment();
  moment.now.cluster = std::make_shared<const ClusterReport>(Report());
  const json cluster = Text(moment)["cluster"];
  EXPECT_EQ(cluster["coordinator"], "a");
  ASSERT_EQ(cluster["nodes"].size(), 5u);
  std::vector<std::string> states;
  for (const json& node : cluster["nodes"]) states.push_back(node["state"]);
  EXPECT_THAT(states, ::testing::ElementsAre("up", "suspect", "down", "drained", "draining"));
  EXPECT_EQ(cluster["nodes"][1]["sent_bytes"], 11);
  EXPECT_EQ(cluster["nodes"][1]["rtt_p50_us"], 204);
  EXPECT_FALSE(cluster["nodes"][0].contains("sent_bytes"));
  EXPECT_EQ(cluster["regions"][3]["owner"], "b");
  EXPECT_EQ(cluster["regions"][3]["shadow"], "a");
  EXPECT_EQ(cluster["regions"][3]["target"], "e");
  EXPECT_EQ(cluster["regions"][3]["epoch"], 9);
  EXPECT_EQ(cluster["failovers"], 1);
  EXPECT_EQ(cluster["hedges_won"], 2);
}

TEST(StatusJson, AProcessThatServesNothingYetHasAStatus) {
  StatusMoment moment;  // no swarm: the counters are empty
  const json status = Text(moment);
  EXPECT_EQ(status["experts"], json::array());
  EXPECT_EQ(status["layers"].size(), 6u);
}

TEST(ProcessFigures, AreThoseOfThisProcess) {
  const ProcessFigures figures = ThisProcess();
  EXPECT_GT(figures.resident_bytes, 100'000);
  EXPECT_GT(figures.virtual_bytes, figures.resident_bytes);
  EXPECT_GT(figures.start_seconds, 1.7e9);
  EXPECT_GE(figures.threads, 1);
  EXPECT_GT(figures.most_files, 3);
  EXPECT_GE(CountOpenFiles(), 3);
  EXPECT_LT(CountOpenFiles(), figures.most_files);
}

TEST(StatusJson, TellsHowTasksGoAndNotWhatTheyAre) {
  StatusMoment moment = Moment();
  EXPECT_EQ(Text(moment)["tasks"], nullptr);
  TasksNow tasks;
  tasks.figures.counts.by_status[static_cast<size_t>(TaskStatus::kQueued)] = 3;
  tasks.figures.counts.failed = 2;
  tasks.figures.syncs = 9;
  tasks.figures.store = absl::UnavailableError("the disk is full");
  tasks.accepted = 5;
  TaskState task;
  task.id = "0123";
  task.status = TaskStatus::kFailed;
  task.caller = "anna";
  task.executor = "command";
  task.target = "sort";
  task.error = "invalid";
  task.message = "what only its caller may see";
  task.attempt = 2;
  task.updated = TaskTime(std::chrono::milliseconds(77));
  tasks.latest.push_back(task);
  moment.now.tasks = std::make_shared<const TasksNow>(tasks);
  const json said = Text(moment)["tasks"];
  EXPECT_EQ(said["queued"], 3);
  EXPECT_EQ(said["failed"], 2);
  EXPECT_EQ(said["accepted"], 5);
  EXPECT_EQ(said["syncs"], 9);
  EXPECT_EQ(said["store"], "the disk is full");
  ASSERT_EQ(said["latest"].size(), 1u);
  EXPECT_EQ(said["latest"][0]["status"], "failed");
  EXPECT_EQ(said["latest"][0]["target"], "sort");
  EXPECT_EQ(said["latest"][0]["updated_ms"], 77);
  EXPECT_EQ(said.dump().find(task.message), std::string::npos);
}

}  // namespace
}  // namespace omni
