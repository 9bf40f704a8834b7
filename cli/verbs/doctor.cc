#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <absl/strings/str_join.h>
#include <nlohmann/json.hpp>

#include "cli/device_flags.h"
#include "cli/output.h"
#include "cli/sizes.h"
#include "cli/terminal.h"
#include "cli/verb.h"
#include "engine/base/json.h"
#include "engine/decode/device_library.h"
#include "kernels/cpu.h"
#include "kernels/op.h"
#include "store/file/files.h"
#include "store/model/find_model.h"
#include "store/plan/disk_speed.h"
#include "store/plan/machine.h"
#include "store/plan/memory_plan.h"
#include "store/plan/speeds.h"

namespace omni::cli {
namespace {

struct DoctorArgs {
  std::string model;
  bool json = false;
};

// slow: works, but a change would make it faster. bad: something will fail.
enum class Verdict { kOk, kSlow, kBad, kUnknown };

const char* VerdictText(Verdict verdict) {
  switch (verdict) {
    case Verdict::kOk:
      return "ok";
    case Verdict::kSlow:
      return "slow";
    case Verdict::kBad:
      return "bad";
    case Verdict::kUnknown:
      break;
  }
  return "unknown";
}

struct Finding {
  std::string check;
  Verdict verdict = Verdict::kUnknown;
  std::string found;
  std::string cure;  // what to do; empty if nothing
};

Finding Unknown(const std::string& check) {
  return {check, Verdict::kUnknown, "this system does not tell", ""};
}

constexpr int64_t kMebibyte = 1 << 20;
constexpr double kSlowDisk =
    0.5e9;  // bytes a second: a full-size token that misses half its tiles takes over a second
constexpr int64_t kFewFiles = 1024, kTooFewFiles = 256;  // pack files, the database's 512, connections
constexpr int64_t kLittleLocked = 8 * kMebibyte;         // the buffers that reads in flight go to
constexpr int64_t kLittleRoom = 64 * kMebibyte;          // for what is kept in the state directory

Finding Kernels() {
  using kernels::Isa;
  const kernels::Cpu& cpu = kernels::ThisCpu();
  const Isa active = kernels::ActiveOps().isa, best = kernels::BestOps(cpu).isa;
  std::vector<std::string> there;
  const std::pair<bool, const char*> parts[] = {{cpu.avx2, "AVX2"},        {cpu.avx_vnni, "AVX-VNNI"},
                                                {cpu.avx512bw, "AVX-512"}, {cpu.avx512vnni, "VNNI"},
                                                {cpu.avx512vbmi, "VBMI"},  {cpu.amx_int8, "AMX"}};
  for (const auto& [has, name] : parts) {
    if (has) there.push_back(name);
  }
  const std::string has = there.empty() ? "none of AVX2 and up known" : absl::StrJoin(there, " ");
  Finding finding{"kernels", Verdict::kOk, "", ""};
  if (active != best) {
    finding.verdict = Verdict::kSlow;
    finding.found =
        absl::StrCat(kernels::IsaName(active), ", because OMNI_ISA asks for it; the CPU has ", has);
    finding.cure = absl::StrCat("unset OMNI_ISA to use ", kernels::IsaName(best));
    return finding;
  }
  finding.found = absl::StrCat(kernels::IsaName(active), ", the best for this CPU (", has, ")");
  if (best == Isa::kScalar) {
    finding.verdict = Verdict::kSlow;
    finding.cure = "use a CPU with AVX2 or better";
  } else if (best != Isa::kAmx && cpu.amx_int8) {
    finding.verdict = Verdict::kSlow;
    finding.cure =
        "the CPU has AMX, but the system does not grant it: a newer kernel or virtual machine would";
  }
  return finding;
}

Finding Cores(const Machine& machine) {
  const CpuShare share = machine.Cpu();
  Finding finding{"cores", Verdict::kOk, "", ""};
  finding.found = absl::StrCat(share.allowed, " usable of ", share.on, ", ",
                               machine.CpuModel().value_or("unknown model"));
  if (share.quota) {
    absl::StrAppendFormat(&finding.found, "; control group %s allows the time of %.4g", share.quota->group,
                          share.quota->cores);
  }
  const int threads = share.Threads();
  absl::StrAppend(&finding.found, "; ", threads, threads == 1 ? " thread computes" : " threads compute",
                  " unless -t says otherwise");
  if (share.allowed < share.on) {
    finding.verdict = Verdict::kSlow;
    finding.cure = "this process is bound to some cores (taskset or a container); allow it the others";
  } else if (threads < share.allowed || (share.quota && share.quota->cores < threads)) {
    finding.verdict = Verdict::kSlow;
    finding.cure = "raise the control group's quota (cpu.max, or a container's --cpus)";
  }
  return finding;
}

Finding Memory(const Machine& machine) {
  const std::optional<int64_t> total = machine.MemoryTotal(), free = machine.FreeMemory();
  if (!total || !free) return Unknown("memory");
  return {"memory", Verdict::kOk,
          absl::StrCat(SizeText(*total), ", of which ", SizeText(*free), " are free for a new program"), ""};
}

Finding Cgroup(const Machine& machine) {
  const std::optional<ControlGroups::Limit> limit = machine.CgroupMemory();
  if (!limit) return {"memory limit", Verdict::kOk, "no limit of a control group found", ""};
  return {"memory limit", Verdict::kOk,
          absl::StrCat("control group ", limit->group, ": ", SizeText(limit->most), ", ",
                       SizeText(limit->in_use), " in use by all in it"),
          ""};
}

Finding HugePages(const Machine& machine) {
  const std::optional<std::string> mode = machine.TransparentHugePages();
  if (!mode) return Unknown("huge pages");
  if (*mode != "never") return {"huge pages", Verdict::kOk, "transparent: " + *mode, ""};
  return {"huge pages", Verdict::kSlow, "transparent: never",
          "as root: echo madvise > /sys/kernel/mm/transparent_hugepage/enabled"};
}

Finding IoUring(const Machine& machine) {
  const int error = ProbeIoUring();
  if (error == 0) return {"io_uring", Verdict::kOk, "allowed", ""};
  Finding finding{"io_uring", Verdict::kSlow, absl::StrCat("refused: ", std::strerror(error)), ""};
  const int disabled = machine.IoUringDisabled().value_or(0);
  if (disabled > 0) {
    absl::StrAppend(&finding.found, ", by kernel.io_uring_disabled = ", disabled);
    finding.cure = "as root: sysctl kernel.io_uring_disabled=0";
  } else if (machine.SeccompFilter().value_or(false)) {
    absl::StrAppend(&finding.found, ", by a seccomp filter (a container's, as a rule)");
    finding.cure =
        "start the container with a seccomp profile that allows io_uring_setup, _enter and _register";
  } else if (error == ENOSYS) {
    finding.cure = "use a kernel of 5.6 or later, built with io_uring";
  } else if (error == ENOMEM) {
    finding.cure = "raise the limit of locked memory (ulimit -l)";
  } else {
    finding.cure = "ask who runs this system what forbids it (a security module, or a virtual kernel)";
  }
  return finding;
}

std::string LimitText(int64_t bytes) { return bytes == INT64_MAX ? "unlimited" : SizeText(bytes); }

Finding LockedMemory() {
  const std::optional<int64_t> limit = LockedMemoryLimit();
  if (!limit) return Unknown("locked memory");
  if (*limit >= kLittleLocked) return {"locked memory", Verdict::kOk, LimitText(*limit), ""};
  return {"locked memory", Verdict::kSlow, LimitText(*limit),
          "ulimit -l unlimited, or LimitMEMLOCK= in the service's unit"};
}

Finding OpenFiles() {
  const std::optional<int64_t> limit = OpenFilesLimit();
  if (!limit) return Unknown("open files");
  Finding finding{"open files", Verdict::kOk, *limit == INT64_MAX ? "unlimited" : absl::StrCat(*limit), ""};
  if (*limit < kFewFiles) {
    finding.verdict = *limit < kTooFewFiles ? Verdict::kBad : Verdict::kSlow;
    finding.cure = absl::StrCat("ulimit -n ", kFewFiles, " or more: a large model has many files");
  }
  return finding;
}

Finding Gpu(const Machine& machine) {
  const bool device = machine.NvidiaDevice().value_or(false), driver = FindsCudaDriver();
  const std::string there = device && driver ? "NVIDIA device and CUDA driver found"
                            : device         ? "NVIDIA device found, but no CUDA driver (libcuda.so.1)"
                            : driver         ? "CUDA driver found, but no NVIDIA device"
                                             : "none found";
  const absl::StatusOr<DevicesHere> here = FindDevices();
  if (!here.ok()) {
    const bool of_use = device && driver;
    return {"GPU", of_use ? Verdict::kSlow : Verdict::kOk,
            absl::StrCat(there, "; the CPU computes: ", here.status().message()),
            of_use ? absl::StrCat("build the target omni_cuda_library, and put ", kDeviceLibrary,
                                  " beside omni or into ../lib/omni")
                   : ""};
  }
  if (here->devices.empty())
    return {"GPU", Verdict::kOk, absl::StrCat(there, "; ", here->library, " finds no device to use"), ""};
  std::vector<std::string> found;
  for (const kernels::device::Properties& p : here->devices) {
    found.push_back(absl::StrCat(found.size(), ": ", p.name, ", compute capability ", p.major, ".", p.minor,
                                 ", ", SizeText(p.free_bytes), " of ", SizeText(p.memory_bytes), " free"));
  }
  return {"GPU", Verdict::kOk,
          absl::StrCat(absl::StrJoin(found, "; "), "; by ", here->library, ", with --device cuda"), ""};
}

// How much of the model the memory that is free now would hold.
Finding PlanOf(const SizedModel& model, const Machine& machine) {
  const std::optional<int64_t> budget = machine.DefaultBudget();
  if (!budget) {
    return {"model", Verdict::kUnknown, "how much memory is free for it is unknown",
            "give --ram to omni plan"};
  }
  const absl::StatusOr<MemoryPlan> plan = PlanMemory(model.sizes, *budget, /*sessions=*/1);
  if (!plan.ok()) {
    return {"model", Verdict::kBad, std::string(plan.status().message()),
            "free memory, or use a smaller model"};
  }
  const std::string name = absl::StrCat(SizeText(model.summary.stats.total_bytes), ", ");
  if (plan->cache_tiles == plan->unique_tiles) {
    return {"model", Verdict::kOk, absl::StrCat(name, "fits in ", SizeText(*budget), " of RAM as a whole"),
            ""};
  }
  const double share = static_cast<double>(plan->cache_tiles) / static_cast<double>(plan->unique_tiles);
  return {
      "model", Verdict::kSlow,
      absl::StrFormat("%s%.0f %% of its expert tiles fit in %s of RAM", name, 100 * share, SizeText(*budget)),
      "more RAM; omni plan says what would help most"};
}

// Of a model that stays in memory the disk is read once: then no speed is too slow.
Finding Disk(const std::string& path, int64_t stride, bool fits) {
  const absl::StatusOr<Dated<DiskSpeed>> dated =
      CurrentDiskSpeed(StateSpeedFile(), path, stride, /*refresh=*/true);
  if (!dated.ok()) return {"disk", Verdict::kUnknown, std::string(dated.status().message()), ""};
  const DiskSpeed& speed = dated->speed;
  Finding finding{"disk", Verdict::kOk, "", ""};
  finding.found =
      absl::StrFormat("reads %s blocks at %.2f GB/s, %.2f in sequence, %s", SizeText(speed.block_bytes),
                      speed.random_bytes_per_s / 1e9, speed.sequential_bytes_per_s / 1e9,
                      speed.direct ? "with O_DIRECT" : "without O_DIRECT (maybe the cache's speed)");
  if (fits) return finding;
  if (!speed.direct) {
    finding.verdict = Verdict::kSlow;
    finding.cure = "put the model on a file system with O_DIRECT (ext4, xfs, btrfs)";
  } else if (speed.random_bytes_per_s < kSlowDisk) {
    finding.verdict = Verdict::kSlow;
    finding.cure = "the model does not fit in memory: put it on an NVMe disk";
  }
  return finding;
}

Finding Room(const std::string& path) {
  const absl::StatusOr<int64_t> free = FreeBytes(path);
  if (!free.ok()) return {"disk room", Verdict::kUnknown, std::string(free.status().message()), ""};
  Finding finding{"disk room", Verdict::kOk, absl::StrCat(SizeText(*free), " free on the disk of ", path),
                  ""};
  if (*free < kLittleRoom) {
    finding.verdict = Verdict::kSlow;
    finding.cure = "free some space: another model would not fit";
  }
  return finding;
}

nlohmann::json ToJsonObject(const std::vector<Finding>& findings, bool bad, const std::string& model) {
  nlohmann::json json = {{"ok", !bad}, {"checks", nlohmann::json::array()}};
  json["model"] = model.empty() ? nlohmann::json() : nlohmann::json(model);
  for (const Finding& f : findings) {
    json["checks"].push_back(
        {{"check", f.check}, {"verdict", VerdictText(f.verdict)}, {"found", f.found}, {"do", f.cure}});
  }
  return json;
}

absl::StatusOr<int> Doctor(const DoctorArgs& args) {
  std::string model;
  if (!args.model.empty()) {
    absl::StatusOr<std::string> path = FindModel(args.model);
    if (!path.ok()) return path.status();
    model = *std::move(path);
  }
  StatusLine status(StderrCanErase());
  status.Show(model.empty() ? "looking around ..." : "looking around and measuring the disk ...");
  const Machine machine;
  std::vector<Finding> findings = {Kernels(),       Cores(machine),     Memory(machine),
                                   Cgroup(machine), HugePages(machine), IoUring(machine),
                                   LockedMemory(),  OpenFiles(),        Gpu(machine)};
  if (!model.empty()) {
    const absl::StatusOr<SizedModel> sized = ReadSizes(model);
    if (sized.ok()) {
      findings.push_back(PlanOf(*sized, machine));
      const bool fits = findings.back().verdict == Verdict::kOk;
      findings.push_back(Disk(model, sized->sizes.tile_stride, fits));
    } else {
      findings.push_back({"model", Verdict::kBad, std::string(sized.status().message()),
                          "omni verify says whether it is damaged"});
    }
    findings.push_back(Room(model));
  }
  status.Clear();
  bool bad = false;
  for (const Finding& f : findings) bad = bad || f.verdict == Verdict::kBad;
  if (args.json) {
    const nlohmann::json json = ToJsonObject(findings, bad, model);
    PrintF("%s\n", JsonText(json, 2));
  } else {
    for (const Finding& f : findings) {
      PrintF("%-8s %-13s  %s\n", VerdictText(f.verdict), f.check.c_str(), f.found.c_str());
      if (!f.cure.empty()) PrintF("%22s  -> %s\n", "", f.cure.c_str());
    }
    if (model.empty()) PrintF("\nWith -m DIR: also whether that model fits, and how fast its disk is.\n");
  }
  return bad ? kExitFailure : kExitOk;
}

}  // namespace

void AddDoctor(CLI::App& root, Invocation& invocation) {
  Verb verb(root, invocation, "doctor",
            "Check this machine: CPU, memory, limits, disk; each finding with what to do about it",
            "  omni doctor\n"
            "  omni doctor -m /data/1t\n"
            "  omni doctor --json | jq '.checks[] | select(.verdict != \"ok\")'\n"
            "ok: nothing to do. slow: works, a change would make it faster. bad: something will fail (exit "
            "code 1).");
  auto args = std::make_shared<DoctorArgs>();
  verb.Path("-m,--model", args->model, "Packed model directory: check also whether it fits, and its disk");
  verb.Json(args->json);
  verb.Body([args] { return Doctor(*args); });
}

}  // namespace omni::cli
