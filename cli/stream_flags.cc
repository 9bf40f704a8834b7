#include "cli/stream_flags.h"

#include <optional>
#include <utility>

#include <absl/strings/str_cat.h>

#include "actors/counters.h"
#include "cli/sizes.h"
#include "cli/terminal.h"
#include "store/model/budget.h"
#include "store/model/find_model.h"
#include "store/plan/memory_plan.h"

namespace omni::cli {

void StreamFlags::Add(Verb& verb) {
  all_.Add(verb.Size(
      "--ram", ram,
      "Memory that the process may take, such as 20G; experts beyond it stay on disk and are read when "
      "needed "
      "(default: all in memory if three quarters of what is free hold it, else so much)"));
  for (const CLI::Option* option :
       {verb.Choice("--io", io, {"auto", "uring", "pread"},
                    "How experts are read from disk; auto: with io_uring if the system allows it "
                    "(default)"),
        verb.Choice("--cache-policy", policy, {"torus", "decayed", "lru"},
                    "Which experts stay in memory (default torus)")}) {
    all_.Add(option);
    for_streamed_models_.Add(option);
  }
}

void StreamFlags::AddPrefetch(Verb& verb) {
  const CLI::Option* option =
      verb.Bool("--prefetch,!--no-prefetch", prefetch,
                "Read the experts that the next layers are guessed to need (default: on)");
  all_.Add(option);
  for_streamed_models_.Add(option);
}

// From the environment such a flag is meant for whatever model is streamed.
absl::Status StreamFlags::RefuseForWholeModel() const {
  if (const std::string name = for_streamed_models_.First(); !name.empty()) {
    return UsageError(
        absl::StrCat(name,
                     " does nothing here: the model fits in memory, so nothing is read from disk "
                     "while it is used; leave it out, or give --ram to stream the model"));
  }
  return absl::OkStatus();
}

absl::StatusOr<OpenOptions> StreamFlags::Options(const std::string& path) const {
  OpenOptions options;
  if (io == "uring") {
    options.reads.method = ReadMethod::kUring;
  } else if (io == "pread") {
    options.reads.method = ReadMethod::kPread;
  }
  if (policy == "lru") {
    options.cache.policy = PolicyKind::kLru;
  } else if (policy == "decayed") {
    options.cache.policy = PolicyKind::kDecayed;
  }
  options.residency = residency;
  absl::StatusOr<OpenOptions> fitted =
      FitToMemory(path, ram > 0 ? std::optional(ram) : std::nullopt, std::move(options));
  if (fitted.ok() && fitted->residency == Residency::kWhole) {
    if (absl::Status s = RefuseForWholeModel(); !s.ok()) return s;
  }
  return fitted;
}

absl::StatusOr<OpenedModel> StreamFlags::Open(const std::string& given) const {
  absl::StatusOr<std::string> path = FindModel(given);
  if (!path.ok()) return path.status();
  absl::StatusOr<OpenOptions> options = Options(*path);
  if (!options.ok()) return options.status();
  absl::StatusOr<Model> model = OpenModel(*path, *options);
  if (!model.ok()) return model.status();
  if (model->cache() != nullptr && StderrIsTerminal()) Note(DescribeStreaming(*model));
  return OpenedModel{*std::move(path), *std::move(model)};
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
