#include "cli/stream_flags.h"

#include <optional>
#include <utility>

#include <absl/strings/str_cat.h>

#include "actors/counters.h"
#include "cli/sizes.h"
#include "store/model/budget.h"
#include "store/plan/memory_plan.h"

namespace omni::cli {

void StreamFlags::Add(Verb& verb) {
  verb.Size("--ram", ram,
            "Memory that the process may take, such as 20G; experts beyond it stay on disk and are read when "
            "needed "
            "(default: all in memory if three quarters of what is free hold it, else so much)");
  verb.Text("--io", io,
            "How experts are read: uring, pread, or auto, the first if the system allows it (default)");
  verb.Text("--cache-policy", policy, "Which experts stay in memory: torus (default), decayed or lru");
}

void StreamFlags::AddPrefetch(Verb& verb) {
  verb.Bool("--prefetch,!--no-prefetch", prefetch,
            "Read the experts that the next layers are guessed to need (default: on)");
}

absl::StatusOr<OpenOptions> StreamFlags::Options(const std::string& path) const {
  OpenOptions options;
  if (io == "uring") {
    options.reads.method = ReadMethod::kUring;
  } else if (io == "pread") {
    options.reads.method = ReadMethod::kPread;
  } else if (io != "auto") {
    return UsageError(absl::StrCat("--io: '", io, "' is neither auto, uring nor pread"));
  }
  if (policy == "lru") {
    options.cache.policy = PolicyKind::kLru;
  } else if (policy == "decayed") {
    options.cache.policy = PolicyKind::kDecayed;
  } else if (policy != "torus") {
    return UsageError(absl::StrCat("--cache-policy: '", policy, "' is neither torus, decayed nor lru"));
  }
  options.residency = residency;
  return FitToMemory(path, ram > 0 ? std::optional(ram) : std::nullopt, std::move(options));
}

int StreamFlags::PredictAhead(const OpenOptions& open) const {
  return prefetch && open.residency == Residency::kStreamed ? SwarmCounters::kAhead : 0;
}

std::string DescribeStreaming(const Model& model) {
  const MemoryPlan* plan = model.plan();
  if (model.cache() == nullptr || plan == nullptr) return {};
  return absl::StrCat("RAM ", SizeText(plan->ram_bytes), ": shared ", SizeText(plan->shared_bytes),
                      ", experts ", SizeText(plan->cache_bytes()), " of ",
                      SizeText(plan->unique_tiles * plan->tile_bytes), ", others from disk (",
                      model.cache()->description(), ")");
}

}  // namespace omni::cli
