#include <memory>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <nlohmann/json.hpp>

#include "cli/output.h"
#include "cli/terminal.h"
#include "cli/verb.h"
#include "engine/base/json.h"
#include "store/format/model_summary.h"
#include "store/model/find_model.h"

namespace omni::cli {
namespace {

struct InspectArgs {
  std::string model;
  bool json = false;
};

nlohmann::json ToJsonObject(const ModelSummary& model) {
  const ModelStats& s = model.stats;
  const ParameterCount& p = s.parameters;
  return {
      {"config", nlohmann::json::parse(ToJson(model.config))},
      {"model_hash", model.model_hash},
      {"parameters",
       {{"nominal", p.total()},
        {"unique", s.unique_parameters},
        {"active_per_token", p.active()},
        {"shared", p.shared()},
        {"per_expert", p.per_expert},
        {"pdr", p.pdr},
        {"gqa", p.gqa},
        {"shared_ffn", p.shared_ffn},
        {"embedding", p.embedding},
        {"experts", p.experts}}},
      {"bytes",
       {{"total", s.total_bytes},
        {"shared", s.shared_bytes},
        {"tiles", s.tile_bytes},
        {"deltas", s.delta_db_bytes}}},
      {"regions",
       {{"count", s.regions}, {"keyframe_bytes", s.keyframe_bytes}, {"delta_bytes", s.delta_bytes}}},
      {"tiles", {{"total", s.tiles}, {"unique", s.unique_tiles}}},
      {"delta_ratio",
       {{"keyframe", s.keyframe_delta},
        {"neighbour_same_region", s.neighbour_delta_same_region},
        {"neighbour_other_region", s.neighbour_delta_other_region}}},
  };
}

void PrintTable(const ModelSummary& model) {
  const ModelConfig& c = model.config;
  const ModelStats& s = model.stats;
  const ParameterCount& p = s.parameters;
  const auto row = [](const char* name, const std::string& value) {
    PrintF("%-23s %s\n", name, value.c_str());
  };
  const auto share = [](double x) { return absl::StrFormat("%.1f %%", 100 * x); };
  row("preset", c.preset);
  row("model", model.model_hash);
  row("layers", absl::StrCat(c.layers, " (every ", c.attention_period, "th windowed attention, window ",
                             c.window, ")"));
  row("width", absl::StrCat("d ", c.d, ", r ", c.r, ", f ", c.f, ", heads ", c.heads, "/", c.kv_heads,
                            ", vocabulary ", c.vocab));
  row("experts", absl::StrCat(c.num_experts(), " (", c.lattice[0], "x", c.lattice[1], "x", c.lattice[2],
                              ") in ", c.num_regions(), " regions"));
  row("parameters nominal", HumanCount(p.total()));
  row("parameters unique", HumanCount(s.unique_parameters));
  row("active per token", HumanCount(p.active()));
  row("bytes total", HumanBytes(s.total_bytes));
  row("  shared weights", HumanBytes(s.shared_bytes));
  row("  expert tiles",
      absl::StrCat(HumanBytes(s.tile_bytes), " (", s.unique_tiles, " unique of ", s.tiles, ")"));
  row("  tile tables", HumanBytes(s.delta_db_bytes));
  if (s.regions > 0) {
    row("  per region of a layer", absl::StrCat(HumanBytes(s.keyframe_bytes / s.regions), " keyframe, ",
                                                HumanBytes(s.delta_bytes / s.regions), " deltas"));
  }
  row("delta to keyframe", share(s.keyframe_delta));
  row("delta to neighbour", absl::StrCat(share(s.neighbour_delta_same_region), " in the region, ",
                                         share(s.neighbour_delta_other_region), " across regions"));
}

absl::StatusOr<int> Inspect(const InspectArgs& args) {
  absl::StatusOr<std::string> path = FindModel(args.model);
  if (!path.ok()) return path.status();
  absl::StatusOr<ModelSummary> model = SummarizeModel(*path);
  if (!model.ok()) return model.status();
  if (args.json) {
    PrintF("%s\n", JsonText(ToJsonObject(*model), 2));
  } else {
    PrintTable(*model);
  }
  return kExitOk;
}

}  // namespace

void AddInspect(CLI::App& root, Invocation& invocation) {
  Verb verb(root, invocation, "inspect",
            "Say what a packed model is: sizes, parameters, how much experts share",
            "  omni inspect\n  omni inspect -m models/mini --json | jq .bytes");
  auto args = std::make_shared<InspectArgs>();
  verb.Model(args->model);
  verb.Json(args->json);
  verb.Body([args] { return Inspect(*args); });
}

}  // namespace omni::cli
