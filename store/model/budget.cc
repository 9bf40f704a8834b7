#include "store/model/budget.h"

#include <utility>

#include <absl/strings/str_cat.h>

#include "engine/base/log.h"
#include "engine/model/session_state.h"
#include "store/format/model_files.h"
#include "store/plan/memory_plan.h"

namespace omni {
namespace {

constexpr int64_t kUnknownBudget = int64_t{4} << 30;  // where the system does not say what is free

absl::Status EnoughToStream(const std::string& path, int64_t budget, int64_t sessions) {
  absl::StatusOr<ModelFiles> files = ReadModelFiles(path);
  if (!files.ok()) return files.status();
  absl::StatusOr<std::vector<PackHeader>> packs = ReadPackHeaders(*files);
  if (!packs.ok()) return packs.status();
  const absl::Status planned = PlanMemory(SizesOf(*files, *packs), budget, sessions).status();
  if (planned.ok()) return planned;
  return absl::Status(planned.code(),
                      absl::StrCat(files->dir, ": ", planned.message(),
                                   " (the budget is three quarters of the memory that is free: end other "
                                   "programs, or give a budget with --ram)"));
}

}  // namespace

absl::StatusOr<OpenOptions> FitToMemory(const std::string& path, std::optional<int64_t> ram_bytes,
                                        OpenOptions options, const Machine& machine) {
  if (ram_bytes.has_value()) {
    if (const std::optional<int64_t> free = machine.FreeMemory(); free.has_value() && *ram_bytes > *free) {
      LogWarning(
          "budget_above_free",
          "a budget of {ram_bytes} bytes for {path}, of which {free_bytes} are free: the system may end the "
          "program when it has taken those",
          {{"ram_bytes", *ram_bytes}, {"path", path}, {"free_bytes", *free}});
    }
    options.residency = Residency::kStreamed;
    options.ram_bytes = ram_bytes;
    return options;
  }
  const std::optional<int64_t> budget = machine.DefaultBudget();
  absl::StatusOr<int64_t> needed = WholeModelBytes(path, options);
  if (!needed.ok()) return needed.status();
  const bool asked = options.residency == Residency::kStreamed;
  if (budget.has_value() && *needed > *budget) options.residency = Residency::kStreamed;
  options.ram_bytes = budget;
  if (options.residency == Residency::kWhole) return options;
  if (!budget.has_value()) {
    options.ram_bytes = kUnknownBudget;
  } else if (absl::Status s = EnoughToStream(path, *budget, options.sessions); !s.ok()) {
    return s;
  }
  if (!asked) {
    LogWarning("model_streamed",
               "{path} takes {needed_bytes} bytes and three quarters of the free memory are {ram_bytes}: its "
               "experts "
               "are read from disk when they are needed",
               {{"path", path}, {"needed_bytes", *needed}, {"ram_bytes", *budget}});
  }
  return options;
}

}  // namespace omni
