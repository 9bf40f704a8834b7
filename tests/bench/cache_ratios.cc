// How often each eviction policy finds a tile in memory, simulated tile by tile: no tile is read.
//
//     cache_ratios [--model MODEL_DIR --routes FILE] [--tokens N] [--json]
//
// Two models. "walk": perspective-1t's shape, a tenth of each expert's tiles its own, N tokens whose routes
// are drawn from the walk of store/cache/routing_trace.h; "walk_whole" is the same with nothing shared. With
// --model and --routes also "recorded": the tile tables of that packed model, and routes that it took (omni
// trace --routes). A cache holds a share of the different tiles. What is read in the first third of the
// tokens is not counted. All tiles of a model are equally long.
//
// JSON: {"tile_bytes": {MODEL: bytes}, "tokens": {MODEL: counted}, "results": [{
//   "model", "policy"      as above; lru, decayed, torus, optimum (Belady's: knows all that comes)
//   "cache_share"          of the bytes of all different tiles of the model
//   "slots"                tiles that the cache holds
//   "hit_rate"             share of the bytes used that were in the cache
//   "bytes_per_token"      read
//   "evictions_per_token"
//   "eviction_us"          processor time of all that the policy does, by evictions; not for optimum
// }]}
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <queue>
#include <string>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "store/cache/cache_policy.h"
#include "store/cache/routing_trace.h"
#include "store/format/tile.h"
#include "store/model/model.h"
#include "store/pack/synth_source.h"

namespace omni {
namespace {

constexpr uint32_t kNone = UINT32_MAX;

size_t Index(int64_t i) { return static_cast<size_t>(i); }

double ProcessorMicros() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) * 1e6 + static_cast<double>(t.tv_nsec) * 1e-3;
}

// Gives up the tile whose next use is furthest off, which no policy can better (Belady 1966).
class Optimum : public CachePolicy {
 public:
  Optimum(int64_t slots, const TileUsers& users, const RoutingTrace& trace)
      : users_(users),
        content_(Index(slots), kNone),
        next_use_(Index(slots)),
        steps_of_(Index(trace.places() * users.experts)),
        at_(steps_of_.size()) {
    uint32_t step = 0;
    for (int64_t t = 0; t < trace.tokens(); ++t) {
      for (int64_t p = 0; p < trace.places(); ++p) {
        steps_of_[Index(p * users.experts + trace.At(t, p))].push_back(++step);
      }
    }
  }

  void OnExpert(int64_t, int64_t) override { ++step_; }
  void OnFill(uint32_t slot, uint32_t content) override {
    content_[slot] = content;
    OnUse(slot);
  }
  void OnUse(uint32_t slot) override {
    uint32_t next = kNone;
    for (uint32_t i = users_.first[content_[slot]]; i < users_.first[content_[slot] + 1]; ++i) {
      const std::vector<uint32_t>& steps = steps_of_[users_.users[i]];
      size_t& at = at_[users_.users[i]];
      while (at < steps.size() && steps[at] <= step_) ++at;
      if (at < steps.size()) next = std::min(next, steps[at]);
    }
    next_use_[slot] = next;
    furthest_.push({next, slot});
  }
  void OnEvict(uint32_t slot) override { content_[slot] = kNone; }
  int64_t Victim(absl::FunctionRef<bool(uint32_t)> free_to_go) override {
    std::vector<std::pair<uint32_t, uint32_t>> kept;
    int64_t victim = -1;
    while (victim < 0 && !furthest_.empty()) {
      const auto top = furthest_.top();
      furthest_.pop();
      const auto [next, slot] = top;
      if (content_[slot] == kNone || next_use_[slot] != next) continue;  // of an earlier use
      kept.push_back(top);
      if (free_to_go(slot)) victim = slot;
    }
    for (const auto& entry : kept) furthest_.push(entry);
    return victim;
  }
  const char* name() const override { return "optimum"; }

 private:
  const TileUsers& users_;
  std::vector<uint32_t> content_, next_use_;                     // by slot
  std::vector<std::vector<uint32_t>> steps_of_;                  // by table: when it is used
  std::vector<size_t> at_;                                       // by table: the first step still to come
  std::priority_queue<std::pair<uint32_t, uint32_t>> furthest_;  // next use, slot
  uint32_t step_ = 0;
};

struct Workload {
  std::string name;
  ModelConfig config;
  TileContents contents;
  TileUsers users;
  RoutingTrace trace;
  std::vector<double> cache_shares;
  int64_t tile_bytes() const {
    const int64_t payload = TileLayout(config.d).payload();
    return PadTo(payload, payload >= (int64_t{64} << 10) ? 4096 : 64);
  }
  int64_t warm_up() const { return trace.tokens() / 3; }
};

// Equal tiles have equal identities.
template <typename Identity>
TileContents ContentsBy(const ModelConfig& config, Identity identity) {
  TileContents contents(config);
  contents.Allocate();
  for (int64_t table = 0; table < contents.numbers().tables(); ++table) {
    for (int64_t t = 0; t < contents.numbers().tiles(); ++t) {
      contents.Set(table, t, contents.NumberOf(identity(contents.numbers(), table, t)));
    }
  }
  return contents;
}

// What SyntheticSource makes of the config: the first tiles of an expert are its region's, the others its
// own.
Workload WalkModel(int64_t tokens, bool whole) {
  const ModelConfig config = *SynthConfig("perspective-1t", 0, 0, 0.1);
  const int64_t shared = TilesPerExpert(config) - (config.own_neurons + kTileNeurons - 1) / kTileNeurons;
  TileContents contents = ContentsBy(config, [&](const TableNumbers& numbers, int64_t table, int64_t t) {
    const ExpertId keyframe = config.ExpertOf(config.RegionOf(numbers.Expert(table)), 0);
    const int64_t owner = whole || t >= shared ? table : numbers.Number(numbers.Layer(table), keyframe);
    return Hash128{static_cast<uint64_t>(owner), static_cast<uint64_t>(t)};
  });
  TileUsers users = UsersOf(contents);
  return {whole ? "walk_whole" : "walk",
          config,
          std::move(contents),
          std::move(users),
          DrawTrace(config, tokens, 1),
          whole ? std::vector<double>{0.08} : std::vector<double>{0.08, 0.2, 0.4, 0.6}};
}

absl::StatusOr<Workload> RecordedModel(const std::string& path, const std::string& routes) {
  absl::StatusOr<RoutingTrace> trace = LoadTrace(routes);
  if (!trace.ok()) return trace.status();
  absl::StatusOr<Model> model = OpenModel(path);
  if (!model.ok()) return model.status();
  const ModelConfig config = model->weights().config;
  if (absl::Status s = CheckTrace(*trace, config, routes); !s.ok()) return s;
  // An open model keeps equal tiles once.
  absl::Status error;
  TileContents contents = ContentsBy(config, [&](const TableNumbers& numbers, int64_t table, int64_t t) {
    absl::StatusOr<ExpertTiles> tiles = model->experts().Acquire(numbers.Layer(table), numbers.Expert(table));
    if (!tiles.ok()) error = tiles.status();
    return Hash128{0, tiles.ok() ? reinterpret_cast<uintptr_t>(tiles->tiles[Index(t)]) : 0};
  });
  if (!error.ok()) return error;
  TileUsers users = UsersOf(contents);
  return Workload{"recorded",           config, std::move(contents), std::move(users), *std::move(trace),
                  {0.08, 0.2, 0.4, 0.6}};
}

struct Counts {
  int64_t uses = 0, reads = 0, evictions = 0;  // tiles
  double policy_us = 0;
};

// A cache of numbers instead of tiles: the tiles of the expert being computed stay until it is done.
Counts Simulate(CachePolicy& policy, int64_t slots, const Workload& model) {
  const int64_t tiles = model.contents.numbers().tiles();
  std::vector<uint32_t> slot_of(Index(model.contents.unique()), kNone), content(Index(slots), kNone);
  std::vector<uint32_t> pinned(Index(slots));  // the step that uses it
  std::vector<uint32_t> missing;
  uint32_t step = 0, filled = 0;
  Counts counts;
  for (int64_t t = 0; t < model.trace.tokens(); ++t) {
    if (t == model.warm_up()) counts = {};
    for (int64_t p = 0; p < model.trace.places(); ++p) {
      const int64_t expert = model.trace.At(t, p);
      const uint32_t* wanted = model.contents.Of(p * model.users.experts + expert);
      ++step;
      missing.clear();
      const double start = ProcessorMicros();
      policy.OnExpert(p, expert);
      for (int64_t i = 0; i < tiles; ++i) {
        const uint32_t slot = slot_of[wanted[i]];
        if (slot == kNone) {
          missing.push_back(wanted[i]);
        } else {
          pinned[slot] = step;
          policy.OnUse(slot);
        }
      }
      for (const uint32_t tile : missing) {
        if (slot_of[tile] != kNone) continue;  // an expert may have a tile twice
        ++counts.reads;
        uint32_t slot = filled;
        if (filled < slots) {
          ++filled;
        } else {
          slot = static_cast<uint32_t>(policy.Victim([&](uint32_t s) { return pinned[s] != step; }));
          policy.OnEvict(slot);
          slot_of[content[slot]] = kNone;
          ++counts.evictions;
        }
        content[slot] = tile;
        slot_of[tile] = slot;
        pinned[slot] = step;
        policy.OnFill(slot, tile);
      }
      counts.policy_us += ProcessorMicros() - start;
      counts.uses += tiles;
    }
  }
  return counts;
}

nlohmann::json Measure(const Workload& model, double share, CachePolicy& policy, int64_t slots) {
  const Counts counts = Simulate(policy, slots, model);
  const auto tokens = static_cast<double>(model.trace.tokens() - model.warm_up());
  nlohmann::json result = {
      {"model", model.name},
      {"policy", policy.name()},
      {"cache_share", share},
      {"slots", slots},
      {"hit_rate", 1 - static_cast<double>(counts.reads) / static_cast<double>(counts.uses)},
      {"bytes_per_token", static_cast<double>(counts.reads * model.tile_bytes()) / tokens},
      {"evictions_per_token", static_cast<double>(counts.evictions) / tokens}};
  if (result["policy"] != "optimum") {
    result["eviction_us"] = counts.policy_us / static_cast<double>(std::max<int64_t>(counts.evictions, 1));
  }
  return result;
}

void PrintResult(const nlohmann::json& r) {
  std::printf("%-11s %5.0f %% %8lld  %-8s %7.4f %11.3f", r["model"].get<std::string>().c_str(),
              100 * r["cache_share"].get<double>(), static_cast<long long>(r["slots"].get<int64_t>()),
              r["policy"].get<std::string>().c_str(), r["hit_rate"].get<double>(),
              r["bytes_per_token"].get<double>() / 1e6);
  if (r.contains("eviction_us")) std::printf(" %9.2f", r["eviction_us"].get<double>());
  std::printf("\n");
}

int Main(int argc, char** argv) {
  CLI::App app("Hit rates of the eviction policies, simulated", "cache_ratios");
  std::string path, routes;
  bool json = false;
  int64_t tokens = 300;
  CLI::Option* model_option = app.add_option("-m,--model", path, "Packed model directory");
  model_option->needs(app.add_option("--routes", routes, "Routes of that model")->needs(model_option));
  app.add_option("-n,--tokens", tokens, "Tokens of the walk")->check(CLI::Range(3, 1 << 16));
  app.add_flag("--json", json, "Print exactly one JSON object");
  CLI11_PARSE(app, argc, argv);

  std::vector<Workload> models;
  models.push_back(WalkModel(tokens, false));
  models.push_back(WalkModel(tokens, true));
  if (!path.empty()) {
    absl::StatusOr<Workload> recorded = RecordedModel(path, routes);
    if (!recorded.ok()) {
      std::fprintf(stderr, "cache_ratios: %s\n", std::string(recorded.status().message()).c_str());
      return 1;
    }
    models.push_back(*std::move(recorded));
  }
  nlohmann::json out = {{"results", nlohmann::json::array()}};
  if (!json) std::printf("model         cache    slots  policy   hit rate  MB a token  us an eviction\n");
  for (const Workload& model : models) {
    out["tile_bytes"][model.name] = model.tile_bytes();
    out["tokens"][model.name] = model.trace.tokens() - model.warm_up();
    for (double share : model.cache_shares) {
      // No fewer than one expert needs while it is computed.
      const int64_t slots =
          std::max(static_cast<int64_t>(share * static_cast<double>(model.contents.unique())),
                   model.contents.numbers().tiles());
      const auto measure = [&](CachePolicy& policy) {
        out["results"].push_back(Measure(model, share, policy, slots));
        if (!json) PrintResult(out["results"].back());
      };
      for (PolicyKind kind : {PolicyKind::kLru, PolicyKind::kDecayed, PolicyKind::kTorus}) {
        measure(*MakePolicy(kind, slots, model.users, model.config));
      }
      Optimum optimum(slots, model.users, model.trace);
      measure(optimum);
    }
  }
  if (json) std::printf("%s\n", out.dump().c_str());
  return 0;
}

}  // namespace
}  // namespace omni

int main(int argc, char** argv) { return omni::Main(argc, argv); }
