#include <chrono>
#include <cstdio>
#include <filesystem>
#include <memory>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

#include "cli/output.h"
#include "cli/terminal.h"
#include "cli/verb.h"
#include "store/file/files.h"
#include "store/format/model_summary.h"
#include "store/model/find_model.h"
#include "store/pack/pack_writer.h"
#include "store/pack/synth_source.h"

namespace omni::cli {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr float kDefaultSlowRate = 0.0625f;

struct SynthArgs {
  std::string preset = "perspective-1t", out;
  int64_t layers = 0, experts = 0, seed = 1, format = 0;
  float delta = 0.10f, base = -1, member = -1, slow_rate = 0;  // -1, 0: not given, as format 0
  std::string route_from;                                      // empty: the preset's
  bool whole = false, json = false;
};

// Room for the model and, on top, for what the file system and the database add.
absl::Status CheckRoom(const std::string& out, int64_t bytes) {
  std::error_code error;
  fs::path parent = fs::absolute(out, error).lexically_normal().parent_path();
  const absl::StatusOr<int64_t> free = FreeBytes(parent.string());
  if (!free.ok()) return free.status();
  int64_t there = 0;  // what a stopped run left counts as room
  for (fs::recursive_directory_iterator it(parent, fs::directory_options::skip_permission_denied, error);
       !error && it != fs::recursive_directory_iterator(); it.increment(error)) {
    if (it.depth() == 0 &&
        !it->path().filename().string().starts_with(fs::path(out).filename().string() + ".tmp-")) {
      it.disable_recursion_pending();
      continue;
    }
    if (it->is_regular_file(error)) there += static_cast<int64_t>(it->file_size(error));
  }
  const int64_t needed = bytes + bytes / 100;
  if (*free + there >= needed) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat(out, ": needs ", HumanBytes(needed), ", and ", HumanBytes(*free + there),
                   " are free there; free some space, choose another disk, or make a "
                   "smaller model (--layers, --experts, --delta)"));
}

// What the flags say of routes and groups, and of the rest the preset.
absl::StatusOr<SynthRoutes> Routes(const SynthArgs& args) {
  const absl::StatusOr<ModelConfig> preset = Preset(args.preset);
  if (!preset.ok()) return preset.status();
  SynthRoutes routes = args.format == 1 ? SynthRoutes{} : RoutesOf(*preset);
  if (args.format == 1 &&
      (args.base > 0 || args.member > 0 || args.route_from == "ahead" || args.route_from == "address")) {
    return UsageError(
        "--format 1 has neither base and member tiles nor routes that are known before; leave it out, or "
        "leave out --base, --member and --route-from");
  }
  if (args.base >= 0) routes.base = args.base;
  if (args.member >= 0) routes.member = args.member;
  if (args.route_from == "token") routes.route_from = RouteFrom::kToken;
  if (args.route_from == "ahead") routes.route_from = RouteFrom::kAhead;
  if (args.route_from == "address") routes.route_from = RouteFrom::kAddress;
  if (routes.route_from == RouteFrom::kToken) {
    if (args.slow_rate > 0) {
      return UsageError(
          "--slow-rate does nothing where routers read the present token; give --route-from ahead or "
          "address, or leave it out");
    }
    routes.slow_rate = 0;
  } else if (args.slow_rate > 0 || routes.slow_rate == 0) {
    routes.slow_rate = args.slow_rate > 0 ? args.slow_rate : kDefaultSlowRate;
  }
  return routes;
}

absl::StatusOr<int> Synth(const SynthArgs& args) {
  const absl::StatusOr<SynthRoutes> routes = Routes(args);
  if (!routes.ok()) return routes.status();
  const absl::StatusOr<ModelConfig> config =
      SynthConfig(args.preset, args.layers, args.experts, args.delta, *routes);
  if (!config.ok()) return UsageError(std::string(config.status().message()));
  if (args.format == 2 && config->format() != 2) {
    return UsageError(absl::StrCat("nothing of ", args.preset,
                                   " needs format 2; give --route-from, --base or --member, or leave out "
                                   "--format"));
  }
  const int64_t bytes = SynthBytes(*config, args.whole);
  if (absl::Status s = CheckRoom(args.out, bytes); !s.ok()) return s;
  const std::unique_ptr<PackSource> source = SyntheticSource(*config, static_cast<uint64_t>(args.seed));
  StatusLine status(StderrCanErase());
  const auto start = Clock::now();
  const auto seconds = [&] { return std::chrono::duration<double>(Clock::now() - start).count(); };
  PackOptions options;
  options.whole = args.whole;
  options.resume_key =
      absl::StrCat("synth seed ", args.seed, args.whole ? " whole\n" : "\n", ToJson(*config));
  options.progress = [&](double share) {
    const double done = share * static_cast<double>(bytes), rate = done / std::max(seconds(), 1e-9);
    status.Show(absl::StrFormat("synth %s  %.1f %%  %s/s  %.0f s left", args.out, 100 * share,
                                HumanBytes(static_cast<int64_t>(rate)),
                                (static_cast<double>(bytes) - done) / rate));
  };
  if (absl::Status s = WriteModel(*source, args.out, options); !s.ok()) {
    return absl::Status(s.code(), absl::StrCat(s.message(), "; finished packs stay in ", args.out,
                                               ".tmp-*, and the same command goes on with them"));
  }
  status.Clear();
  const ParameterCount p = CountParameters(*config);
  const double rate = static_cast<double>(bytes) / seconds();
  const absl::StatusOr<ModelSummary> written = SummarizeModel(args.out);
  if (!written.ok()) return written.status();
  const int64_t unique = written->stats.unique_parameters, on_disk = written->stats.total_bytes;
  if (args.json) {
    PrintF(
        "{\"bytes\": %lld, \"bytes_on_disk\": %lld, \"seconds\": %.3f, \"bytes_per_s\": %.0f, "
        "\"parameters_nominal\": %lld, \"parameters_unique\": %lld, \"format\": %d}\n",
        static_cast<long long>(bytes), static_cast<long long>(on_disk), seconds(), rate,
        static_cast<long long>(p.total()), static_cast<long long>(unique), config->format());
  } else {
    PrintF(
        "%s: format %d, %s on disk, %s parameters of which %s differ (untrained), seed %lld, %.1f s, %s/s\n",
        args.out.c_str(), config->format(), HumanBytes(on_disk).c_str(), HumanCount(p.total()).c_str(),
        HumanCount(unique).c_str(), static_cast<long long>(args.seed), seconds(),
        HumanBytes(static_cast<int64_t>(rate)).c_str());
  }
  return kExitOk;
}

}  // namespace

void AddSynth(CLI::App& root, Invocation& invocation) {
  Verb verb(root, invocation, "synth",
            "Write a model of full size with seeded, untrained weights, to measure with",
            "  omni synth --out /data/1t                          # the whole preset: 38 GB\n"
            "  omni synth --format 1 --out /data/1t.format1        # the same weights, routed by the present "
            "token: 47 GB\n"
            "  omni synth --layers 8 --experts 16 --out /tmp/part  # its first layers, a smaller torus\n"
            "  omni synth --layers 8 --route-from ahead --base 0.25 --out /tmp/ahead\n"
            "  omni synth --whole --experts 32 --out /data/whole   # the same weights, every expert whole\n"
            "A run that was stopped goes on when the same command is given again.");
  auto args = std::make_shared<SynthArgs>();
  verb.Choice("--preset", args->preset, PresetNames(), "Of which configuration (default perspective-1t)");
  verb.Number("--layers", args->layers, {0, 1024}, "The first so many layers; 0: all");
  verb.Number("--experts", args->experts, {0, 1 << 16},
              "A torus of so many experts, a power of two; 0: the preset's");
  verb.Real("--delta", args->delta, {0, 1}, "Share of an expert's tiles that are its own");
  verb.Real("--base", args->base, {0, 1},
            "Share of an expert's tiles that all experts of a layer have (default: the preset's)");
  verb.Real("--member", args->member, {0, 1},
            "Share of an expert's tiles that the experts at one place of their regions have (default: the "
            "preset's)");
  verb.Choice("--route-from", args->route_from, {"token", "ahead", "address"},
              "What routers read: the present token, or the tokens before, and with address the token's "
              "member in the region (default: the preset's)");
  verb.Real(
      "--slow-rate", args->slow_rate, {0, 1},
      "How fast what is read of the tokens before follows them, with ahead and address (default 0.0625)");
  verb.Number("--format", args->format, {1, 2},
              "1: routed by the present token, and tiles either a region's or an expert's own, whatever the "
              "preset says; 2: refuse what format 1 can say (default: what the preset and the flags need)");
  verb.Number("--seed", args->seed, {0, INT64_MAX}, "What the weights follow from");
  verb.Bool("--whole", args->whole, "Store every expert whole: the same weights, without sharing");
  verb.Require(verb.Path("--out", args->out, "Directory to make; must not exist or be empty"));
  verb.Json(args->json);
  verb.Body([args] { return Synth(*args); });
}

}  // namespace omni::cli
