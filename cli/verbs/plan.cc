#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <system_error>

#include <absl/strings/str_cat.h>

#include "cli/device_flags.h"
#include "cli/output.h"
#include "cli/terminal.h"
#include "cli/verb.h"
#include "cli/verbs/plan_report.h"
#include "store/model/find_model.h"
#include "store/pack/synth_source.h"
#include "store/plan/machine.h"

namespace omni::cli {
namespace {

struct PlanArgs {
  std::string model, preset, disk;
  int64_t ram = 0, vram = 0, nodes = 0;  // 0: not given
  DeviceFlags device;
  float delta = -1;  // below 0: not given
  bool refresh = false, json = false;
};

constexpr float kDefaultDelta = 0.10f;

absl::Status DescribePacked(const std::string& given, PlanReport& report) {
  absl::StatusOr<std::string> path = FindModel(given);
  if (!path.ok()) return path.status();
  absl::StatusOr<SizedModel> model = ReadSizes(*path);
  if (!model.ok()) return model.status();
  report.model = report.disk_path = *path;
  report.packed = true;
  report.model_bytes = model->summary.stats.total_bytes;
  report.config = model->summary.config;
  report.sizes = model->sizes;
  return absl::OkStatus();
}

absl::Status DescribePreset(const PlanArgs& args, PlanReport& report) {
  const float delta = args.delta < 0 ? kDefaultDelta : args.delta;
  const absl::StatusOr<ModelConfig> preset = Preset(args.preset);
  if (!preset.ok()) return preset.status();
  absl::StatusOr<ModelConfig> config = SynthConfig(args.preset, 0, 0, delta, RoutesOf(*preset));
  if (!config.ok()) return UsageError(std::string(config.status().message()));
  std::error_code error;
  report.model = args.preset;
  report.disk_path = std::filesystem::read_symlink("/proc/self/exe", error).string();
  report.config = *config;
  report.sizes = ExpectedSizes(*config);
  report.model_bytes = SynthBytes(*config, /*whole=*/false);
  return absl::OkStatus();
}

// With --device cuda its memory that is free, unless --vram says less.
absl::Status DescribeDeviceHere(const DeviceFlags& flags, PlanReport& report) {
  const absl::StatusOr<DeviceChoice> choice = flags.Choice();
  if (!choice.ok()) return choice.status();
  if (choice->kind == DeviceChoice::Kind::kCpu) return absl::OkStatus();
  const absl::StatusOr<DevicesHere> here = FindDevices();
  if (here.ok() && static_cast<size_t>(choice->device) < here->devices.size()) {
    const kernels::device::Properties& device = here->devices[static_cast<size_t>(choice->device)];
    report.device = device.name;
    if (report.vram_bytes == 0) report.vram_bytes = device.free_bytes;
    return absl::OkStatus();
  }
  if (choice->kind == DeviceChoice::Kind::kAuto) return absl::OkStatus();
  if (!here.ok()) return here.status();
  return absl::UnavailableError(absl::StrCat("device ", choice->device, ": this machine has ",
                                             here->devices.size(), " CUDA devices that can be used"));
}

absl::StatusOr<int64_t> Budget(int64_t given) {
  if (given > 0) return given;
  const std::optional<int64_t> budget = Machine().DefaultBudget();
  if (budget) return std::max<int64_t>(1, *budget);
  return UsageError("this system does not tell how much memory is free; give a budget with --ram");
}

absl::StatusOr<int> Plan(const PlanArgs& args) {
  if (!args.preset.empty() && !args.model.empty())
    return UsageError("--model and --preset exclude each other");
  if (args.preset.empty() && args.delta >= 0) {
    return UsageError("--delta goes with --preset; a packed model has the delta it was made with");
  }
  const absl::StatusOr<int64_t> budget = Budget(args.ram);
  if (!budget.ok()) return budget.status();
  PlanReport report;
  const absl::Status described =
      args.preset.empty() ? DescribePacked(args.model, report) : DescribePreset(args, report);
  if (!described.ok()) return described;
  absl::StatusOr<MemoryPlan> plan = PlanMemory(report.sizes, *budget, /*sessions=*/1);
  if (!plan.ok())
    return absl::Status(plan.status().code(), absl::StrCat(report.model, ": ", plan.status().message()));
  report.plan = *plan;
  report.vram_bytes = args.vram;
  if (absl::Status s = DescribeDeviceHere(args.device, report); !s.ok()) return s;
  report.nodes = args.nodes;
  report.cpu_cache_bytes = Machine().CpuCacheBytes().value_or(0);
  report.machine_bytes = Machine().MemoryTotal().value_or(0);
  report.token = BytesPerToken(report.config, report.sizes);
  if (!args.disk.empty()) report.disk_path = args.disk;
  {
    StatusLine status(StderrCanErase());
    status.Show("measuring memory and disk, some seconds ...");
    const SpeedFile file = StateSpeedFile();
    report.memory = CurrentMemorySpeed(file, args.refresh);
    report.disk = CurrentDiskSpeed(file, report.disk_path, report.plan.tile_bytes, args.refresh);
  }
  if (!args.disk.empty() && !report.disk.ok()) return report.disk.status();
  Forecast(report);
  if (args.json) {
    PrintF("%s\n", ToJson(report).c_str());
  } else {
    Print(ToText(report));
  }
  return kExitOk;
}

}  // namespace

void AddPlan(CLI::App& root, Invocation& invocation) {
  Verb verb(root, invocation, "plan",
            "Say what of a model goes to VRAM, RAM and disk within a budget, and what speed to expect",
            "  omni plan -m /data/1t --ram 20G\n"
            "  omni plan --preset perspective-1t --delta 0.05 --ram 20G   # before it is made\n"
            "  omni plan --preset perspective-1t --ram 8G --nodes 4       # of a swarm\n"
            "  omni plan --json | jq .expected.local.tok_per_s\n"
            "Speeds are measured once, kept in the state directory, and measured again after 30 days.");
  auto args = std::make_shared<PlanArgs>();
  const auto model_typed = Verb::OnCommandLine(verb.Model(args->model));
  const auto preset_typed = Verb::OnCommandLine(
      verb.Choice("--preset", args->preset, PresetNames(), "Plan for this configuration instead of a model"));
  verb.Size("--ram", args->ram, "Memory budget, as 26G (default: three quarters of what is free)");
  verb.Size("--vram", args->vram, "Say what a GPU of so much memory would hold");
  args->device.AddDevice(verb);
  verb.Number("--nodes", args->nodes, {1, 100'000},
              "Say how so many nodes with this budget each would share it, and how many it takes");
  verb.Real("--delta", args->delta, {0, 1},
            "With --preset: share of an expert's tiles that are its own (0.10)");
  verb.Path("--disk", args->disk,
            "File or directory whose disk is measured (default: the model; with --preset, the program)");
  verb.Bool("--refresh", args->refresh, "Measure again, whatever is kept");
  verb.Json(args->json);
  verb.Body([args, model_typed, preset_typed] {
    // What comes from the environment gives way to the command line.
    if (!args->model.empty() && !args->preset.empty() && model_typed() != preset_typed())
      (model_typed() ? args->preset : args->model).clear();
    return Plan(*args);
  });
}

}  // namespace omni::cli
