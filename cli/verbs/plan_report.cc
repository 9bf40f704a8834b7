#include "cli/verbs/plan_report.h"

#include <algorithm>
#include <ctime>
#include <utility>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <nlohmann/json.hpp>

#include "cli/sizes.h"
#include "engine/base/json.h"

namespace omni::cli {
namespace {

constexpr size_t kLocalRow = 1;  // of PlanReport::expected
constexpr int64_t kLittleSpan = int64_t{256}
                                << 20;  // so much a disk or its host may keep in a cache of its own

std::string RateText(double rate) {
  if (rate <= 0) return "unknown";
  return absl::StrFormat("%.*f", rate < 10 ? 2 : rate < 100 ? 1 : 0, rate);
}

std::string SpeedText(double bytes_per_s) { return absl::StrFormat("%.2f GB/s", bytes_per_s / 1e9); }
std::string ShareText(double share) { return absl::StrFormat("%.0f %%", 100 * share); }

std::string DayText(int64_t time) {
  const auto t = static_cast<std::time_t>(time);
  std::tm local{};
  char text[16] = "at some time";
  if (localtime_r(&t, &local) != nullptr) std::strftime(text, sizeof text, "%Y-%m-%d", &local);
  return text;
}

// "  NAME   SIZE   NOTE"
void Row(std::string& text, const std::string& name, const std::string& value, const std::string& note = "") {
  std::string line = absl::StrFormat("  %-18s %10s   %s", name, value, note);
  line.erase(line.find_last_not_of(' ') + 1);
  absl::StrAppend(&text, line, "\n");
}

Expectation ExpectationOf(const PlanReport& report, const std::string& name, double hits) {
  const auto missed = static_cast<int64_t>(static_cast<double>(report.token.experts) * (1 - hits));
  return {name, hits, missed,
          ExpectedRate(report.token, hits, report.speeds(), report.config.has_slow_state())};
}

// The rate with local routing of other sizes, memory or speeds; 0 if unknown.
double LocalRate(const PlanReport& report, const ModelConfig& config, const ModelSizes& sizes,
                 int64_t ram_bytes, const TierSpeeds& speeds) {
  const absl::StatusOr<MemoryPlan> plan = PlanMemory(sizes, ram_bytes, 1);
  if (!plan.ok()) return 0;
  return ExpectedRate(report.token, ExpectedHits(config, sizes, *plan, kLocal), speeds,
                      config.has_slow_state());
}

void TryChanges(PlanReport& report) {
  const double now = report.expected[kLocalRow].rate;
  if (now <= 0) return;
  const ModelConfig& c = report.config;
  const ModelSizes& sizes = report.sizes;
  const int64_t ram = report.plan.ram_bytes;
  const TierSpeeds speeds = report.speeds();
  const auto add = [&](const std::string& what, double rate) {
    if (rate > 0) report.changes.push_back({what, rate});
  };
  if (ram < INT64_MAX / 2) {
    add(absl::StrCat("twice the RAM budget (", SizeText(2 * ram), ")"),
        LocalRate(report, c, sizes, 2 * ram, speeds));
  }
  if (speeds.disk_bytes_per_s > 0) {
    add("a disk twice as fast",
        LocalRate(report, c, sizes, ram, {speeds.ram_bytes_per_s, 2 * speeds.disk_bytes_per_s}));
  }
  add("memory twice as fast",
      LocalRate(report, c, sizes, ram, {2 * speeds.ram_bytes_per_s, speeds.disk_bytes_per_s}));
  ModelConfig half_config = c;
  half_config.own_neurons = c.own_neurons / 2;
  ModelSizes half = sizes;
  const double layers = static_cast<double>(sizes.tables) / static_cast<double>(c.num_experts());
  half.unique_tiles -= static_cast<int64_t>(layers * static_cast<double>(c.num_experts() - c.num_regions()) *
                                            OwnTiles(c, sizes) / 2);
  add(absl::StrFormat("half the delta (%.3f), a model made so", report.delta() / 2),
      LocalRate(report, half_config, half, ram, speeds));
  std::stable_sort(report.changes.begin(), report.changes.end(),
                   [](const Change& a, const Change& b) { return a.rate > b.rate; });
}

// What the device's decoder does with so much memory (DeviceSettings::ExpertsAt).
struct VramPlan {
  enum class Experts { kResident, kStreamed, kNone } experts = Experts::kNone;
  int64_t first_bytes = 0;    // shared weights and one session's state
  int64_t expert_bytes = 0;   // all tiles, or two buffers of an expert
  int64_t missing_bytes = 0;  // of kNone
};

VramPlan PlanVram(const PlanReport& report) {
  constexpr int64_t kSessionsBeside = 4;  // resident experts leave room for so many
  const MemoryPlan& p = report.plan;
  VramPlan v;
  v.first_bytes = p.shared_bytes + p.session_bytes;
  const int64_t all = p.unique_tiles * p.tile_bytes, two = 2 * report.sizes.tiles_per_expert * p.tile_bytes;
  if (v.first_bytes + (kSessionsBeside - 1) * p.session_bytes + all <= report.vram_bytes) {
    v.experts = VramPlan::Experts::kResident;
    v.expert_bytes = all;
  } else if (v.first_bytes + two <= report.vram_bytes) {
    v.experts = VramPlan::Experts::kStreamed;
    v.expert_bytes = two;
  } else {
    v.missing_bytes = v.first_bytes + two - report.vram_bytes;
  }
  return v;
}

const char* NameOf(VramPlan::Experts experts) {
  return experts == VramPlan::Experts::kResident   ? "resident"
         : experts == VramPlan::Experts::kStreamed ? "streamed"
                                                   : "none";
}

void AppendVram(const PlanReport& report, std::string& text) {
  if (report.vram_bytes == 0) {
    absl::StrAppend(&text, "VRAM   none: the CPU computes (--device cuda, or --vram, plans for a GPU)\n");
    return;
  }
  absl::StrAppend(&text, "VRAM   ", SizeText(report.vram_bytes), " of ",
                  report.device.empty() ? "a GPU" : report.device, ", with some MiB for a batch's rows\n");
  const VramPlan v = PlanVram(report);
  if (v.experts == VramPlan::Experts::kNone) {
    Row(text, "shared and state", SizeText(v.first_bytes),
        absl::StrCat("do not fit with two experts; ", SizeText(v.missing_bytes),
                     " more would do: the CPU computes"));
    return;
  }
  Row(text, "shared weights", SizeText(report.plan.shared_bytes));
  Row(text, "session state", SizeText(report.plan.session_bytes), "one session");
  if (v.experts == VramPlan::Experts::kResident) {
    Row(text, "expert tiles", SizeText(v.expert_bytes), "all of them, if all are in RAM");
  } else {
    Row(text, "two experts", SizeText(v.expert_bytes), "the others come from RAM when they are needed");
  }
}

void AppendMemory(const PlanReport& report, std::string& text) {
  const MemoryPlan& p = report.plan;
  absl::StrAppend(&text, "RAM    budget ", SizeText(p.ram_bytes));
  if (report.machine_bytes > 0) {
    absl::StrAppend(&text, p.ram_bytes > report.machine_bytes ? ", more than" : " of", " this machine's ",
                    SizeText(report.machine_bytes));
  }
  absl::StrAppend(&text, "\n");
  Row(text, "shared weights", SizeText(p.shared_bytes));
  Row(text, "tile index", SizeText(p.index_bytes));
  Row(text, "session state", SizeText(p.session_bytes), "one session");
  Row(text, "program", SizeText(p.other_bytes), "with its buffers");
  Row(text, "expert cache", SizeText(p.cache_bytes()),
      absl::StrCat(p.cache_tiles, " of ", p.unique_tiles, " tiles (",
                   ShareText(static_cast<double>(p.cache_tiles) / static_cast<double>(p.unique_tiles)), ")"));
  if (const int64_t left = p.ram_bytes - p.used_bytes();
      left >= p.tile_bytes && p.cache_tiles == p.unique_tiles) {
    Row(text, "not needed", SizeText(left));
  }
  absl::StrAppend(&text, "Disk   ", report.packed ? "" : "expected ", SizeText(report.model_bytes), "\n");
  Row(text, "expert tiles", SizeText(p.unique_tiles * p.tile_bytes),
      p.cache_tiles == p.unique_tiles ? "all kept in RAM once read" : "read when the cache lacks them");
}

void AppendNodes(const PlanReport& report, std::string& text) {
  if (report.nodes == 0) return;
  const NodesPlan n = PlanNodes(report.plan, report.nodes);
  const auto fewest = [](int64_t nodes) {
    return nodes == INT64_MAX ? std::string("none") : absl::StrCat(nodes, nodes == 1 ? " node" : " nodes");
  };
  absl::StrAppend(&text, "Swarm  of ", fewest(n.nodes), " with this budget each\n");
  Row(text, "for experts", SizeText(n.nodes * n.room_bytes),
      absl::StrCat(SizeText(n.room_bytes), " on each; all of them are ", SizeText(n.all_bytes)));
  Row(text, "in memory", ShareText(n.share()), n.share() < 1 ? "the rest is read from nodes' disks" : "");
  Row(text, "none from disk", fewest(n.enough), "would do");
  Row(text, "with shadows", fewest(n.enough_with_shadows), "so that a lost node is not missed");
}

void AppendToken(const PlanReport& report, std::string& text) {
  const TokenBytes& t = report.token;
  absl::StrAppend(&text, "\nRead by a token\n");
  Row(text, "shared weights", SizeText(t.shared), "RAM");
  Row(text, "experts", SizeText(t.experts),
      absl::StrCat("RAM, or disk on a miss; one expert in each of ",
                   report.sizes.tables / report.config.num_experts(), " layers"));
  Row(text, "recurrent state", SizeText(t.recurrent), "RAM, and written back");
  Row(text, "keys and values", SizeText(t.keys_values), "RAM, with the window full");
}

void AppendSpeeds(const PlanReport& report, std::string& text) {
  absl::StrAppend(&text, "\nMeasured\n");
  if (report.memory.ok()) {
    const MemorySpeed& m = report.memory->speed;
    Row(text, "memory", SpeedText(m.bytes_per_s),
        absl::StrCat("read by ", m.threads, m.threads == 1 ? " thread, " : " threads, ",
                     DayText(report.memory->time)));
  } else {
    Row(text, "memory", "unknown", std::string(report.memory.status().message()));
  }
  if (!report.disk.ok()) {
    Row(text, "disk", "unknown", std::string(report.disk.status().message()));
    return;
  }
  const DiskSpeed& d = report.disk->speed;
  Row(text, "disk, random", SpeedText(d.random_bytes_per_s),
      absl::StrCat(SizeText(d.block_bytes), " blocks, ", d.reads_in_flight, " at a time, ",
                   d.direct ? "O_DIRECT" : "no O_DIRECT: maybe the cache's speed", ", ",
                   DayText(report.disk->time)));
  Row(text, "disk, in sequence", SpeedText(d.sequential_bytes_per_s),
      absl::StrCat("read from ", report.disk_path, ", ", SizeText(d.span_bytes),
                   d.span_bytes < kLittleSpan ? ": too little to be sure of, see --disk" : ""));
}

void AppendExpected(const PlanReport& report, std::string& text) {
  absl::StrAppend(
      &text, "\n",
      absl::StrFormat("%-20s %10s %12s %9s\n", "Expected, routing", "cache hits", "disk a token", "tok/s"));
  for (const Expectation& e : report.expected) {
    absl::StrAppend(&text, absl::StrFormat("  %-18s %10s %12s %9s\n", e.name, ShareText(e.hits),
                                           SizeText(e.disk_bytes), RateText(e.rate)));
  }
  absl::StrAppend(
      &text,
      "  hot: all in RAM. local: 30 % the last token's expert, 40 % a hop away on the torus, 15 % two,\n"
      "  15 % any other. uniform: any. A model, not a measurement: a simulated cache (least recently used\n"
      "  goes first), then RAM at 80 % of its speed and disk ",
      report.config.has_slow_state() ? "meanwhile: routes are known before.\n"
                                     : "one after the other, nothing read ahead.\n");
  if (report.in_cpu_cache()) {
    absl::StrAppend(
        &text,
        "\nAll of it may stay in the processor's cache, so tokens may be several times faster than this.\n");
    return;
  }
  if (report.changes.empty()) return;
  const double now = report.expected[kLocalRow].rate;
  const Change& best = report.changes.front();
  if (best.rate < 1.01 * now) {
    absl::StrAppend(&text, "\nNo single change tried would gain 1 %.\n");
    return;
  }
  absl::StrAppend(&text,
                  absl::StrFormat("\nHelps most: %s: %s to %s tok/s expected (local), %+.0f %%\n", best.what,
                                  RateText(now), RateText(best.rate), 100 * (best.rate / now - 1)));
}

}  // namespace

double NodesPlan::share() const {
  if (all_bytes == 0) return 1;
  return std::min(
      1.0, static_cast<double>(nodes) * static_cast<double>(room_bytes) / static_cast<double>(all_bytes));
}

NodesPlan PlanNodes(const MemoryPlan& plan, int64_t nodes) {
  NodesPlan n;
  n.nodes = nodes;
  n.room_bytes = std::max<int64_t>(0, plan.ram_bytes - (plan.used_bytes() - plan.cache_bytes()));
  n.all_bytes = plan.unique_tiles * plan.tile_bytes;
  const auto fewest = [&](int64_t bytes) {
    if (bytes == 0) return int64_t{1};
    return n.room_bytes == 0 ? INT64_MAX : (bytes + n.room_bytes - 1) / n.room_bytes;
  };
  n.enough = fewest(n.all_bytes);
  // A shadow is another node than the owner.
  n.enough_with_shadows = std::max<int64_t>(2, fewest(2 * n.all_bytes));
  return n;
}

double PlanReport::delta() const {
  return OwnTiles(config, sizes) / static_cast<double>(sizes.tiles_per_expert);
}

bool PlanReport::in_cpu_cache() const {
  return plan.shared_bytes + plan.session_bytes + plan.cache_bytes() < cpu_cache_bytes;
}

TierSpeeds PlanReport::speeds() const {
  return {memory.ok() ? memory->speed.bytes_per_s : 0, disk.ok() ? disk->speed.random_bytes_per_s : 0};
}

void Forecast(PlanReport& report) {
  const auto hits = [&](const Locality& locality) {
    return ExpectedHits(report.config, report.sizes, report.plan, locality);
  };
  report.expected = {ExpectationOf(report, "hot", 1), ExpectationOf(report, "local", hits(kLocal)),
                     ExpectationOf(report, "uniform", hits(Uniform(report.config)))};
  TryChanges(report);
}

std::string ToText(const PlanReport& report) {
  std::string text = absl::StrFormat(
      "%s, %s, delta %.3f\n\n", report.model,
      report.packed ? "packed" : "a preset: no files, sizes follow from its configuration", report.delta());
  AppendVram(report, text);
  AppendMemory(report, text);
  AppendNodes(report, text);
  AppendToken(report, text);
  AppendSpeeds(report, text);
  AppendExpected(report, text);
  return text;
}

std::string ToJson(const PlanReport& report) {
  using Json = nlohmann::json;
  const MemoryPlan& p = report.plan;
  const TokenBytes& t = report.token;
  Json json = {{"model", report.model},
               {"packed", report.packed},
               {"in_cpu_cache", report.in_cpu_cache()},
               {"delta", report.delta()},
               {"ram",
                {{"budget_bytes", p.ram_bytes},
                 {"shared_bytes", p.shared_bytes},
                 {"index_bytes", p.index_bytes},
                 {"session_bytes", p.session_bytes},
                 {"other_bytes", p.other_bytes},
                 {"cache_bytes", p.cache_bytes()},
                 {"cache_tiles", p.cache_tiles},
                 {"needed_tiles", p.needed_tiles},
                 {"unique_tiles", p.unique_tiles},
                 {"tile_bytes", p.tile_bytes}}},
               {"disk", {{"model_bytes", report.model_bytes}, {"tile_bytes", p.unique_tiles * p.tile_bytes}}},
               {"bytes_per_token",
                {{"shared", t.shared},
                 {"experts", t.experts},
                 {"recurrent", t.recurrent},
                 {"keys_values", t.keys_values}}},
               {"expected", Json::object()},
               {"changes", Json::array()}};
  json["vram"] = {{"used", false}, {"given_bytes", report.vram_bytes}};
  if (report.vram_bytes > 0) {
    const VramPlan v = PlanVram(report);
    json["vram"] = {{"used", v.experts != VramPlan::Experts::kNone},
                    {"given_bytes", report.vram_bytes},
                    {"device", report.device.empty() ? Json() : Json(report.device)},
                    {"experts", NameOf(v.experts)},
                    {"shared_and_state_bytes", v.first_bytes},
                    {"expert_bytes", v.expert_bytes},
                    {"missing_bytes", v.missing_bytes}};
  }
  json["swarm"] = Json();
  if (report.nodes > 0) {
    const NodesPlan n = PlanNodes(p, report.nodes);
    const auto fewest = [](int64_t nodes) { return nodes == INT64_MAX ? Json() : Json(nodes); };
    json["swarm"] = {{"nodes", n.nodes},
                     {"room_bytes_per_node", n.room_bytes},
                     {"expert_bytes", n.all_bytes},
                     {"share_in_memory", n.share()},
                     {"nodes_without_disk", fewest(n.enough)},
                     {"nodes_with_shadows", fewest(n.enough_with_shadows)}};
  }
  json["measured"]["memory"] = Json();
  json["measured"]["disk"] = Json();
  if (report.memory.ok()) {
    const MemorySpeed& m = report.memory->speed;
    json["measured"]["memory"] = {{"bytes_per_s", m.bytes_per_s},
                                  {"threads", m.threads},
                                  {"buffer_bytes", m.buffer_bytes},
                                  {"time", report.memory->time}};
  }
  if (report.disk.ok()) {
    const DiskSpeed& d = report.disk->speed;
    json["measured"]["disk"] = {{"path", report.disk_path},
                                {"random_bytes_per_s", d.random_bytes_per_s},
                                {"sequential_bytes_per_s", d.sequential_bytes_per_s},
                                {"block_bytes", d.block_bytes},
                                {"reads_in_flight", d.reads_in_flight},
                                {"span_bytes", d.span_bytes},
                                {"direct", d.direct},
                                {"time", report.disk->time}};
  }
  for (const Expectation& e : report.expected) {
    json["expected"][e.name] = {{"hit_share", e.hits},
                                {"disk_bytes_per_token", e.disk_bytes},
                                {"tok_per_s", e.rate > 0 ? Json(e.rate) : Json()}};
  }
  for (const Change& change : report.changes) {
    json["changes"].push_back({{"change", change.what},
                               {"tok_per_s", change.rate},
                               {"gain", change.rate / report.expected[kLocalRow].rate - 1}});
  }
  return JsonText(json, 2);
}

}  // namespace omni::cli
