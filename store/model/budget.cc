#include "store/model/budget.h"

#include <utility>

#include <absl/strings/str_cat.h>

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
    options.residency = Residency::kStreamed;
    options.ram_bytes = ram_bytes;
    return options;
  }
  const std::optional<int64_t> budget = machine.DefaultBudget();
  absl::StatusOr<int64_t> needed = WholeModelBytes(path, options);
  if (!needed.ok()) return needed.status();
  if (budget.has_value() && *needed > *budget) options.residency = Residency::kStreamed;
  options.ram_bytes = budget;
  if (options.residency == Residency::kWhole) return options;
  if (!budget.has_value()) {
    options.ram_bytes = kUnknownBudget;
  } else if (absl::Status s = EnoughToStream(path, *budget, options.sessions); !s.ok()) {
    return s;
  }
  return options;
}

}  // namespace omni
