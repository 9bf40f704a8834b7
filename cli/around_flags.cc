#include "cli/around_flags.h"

#include <absl/strings/str_cat.h>

#include "cli/perspective_flag.h"

namespace omni::cli {

void AroundFlags::Add(Verb& verb) {
  AddPerspectives(verb, perspectives);
  verb.Text("--safety", safety,
            "Project hidden states onto this polytope before their logits are computed (omni safety build "
            "makes one)");
  polytopes_flag_ = verb.Path("--polytopes", polytopes,
                              "The file that --safety is in (default: polytopes.omni beside the model)");
  file_.Add(polytopes_flag_);
  verb.Text("--adapter", adapter, "Adapt the model by what omni adapt has learned under this name");
  verb.Bool("--context-memory", context_memory,
            "Remember the text so far: what followed in like places has a say in the next token");
  verb.Text("--memory-scope", memory_scope,
            "Ask this scope of omni memory where perspectives disagree and no two name the same token");
  memory_flag_ = verb.Path("--memory", memory,
                           "Folder of the memory that --memory-scope is in (default: omni memory's)");
  folder_.Add(memory_flag_);
}

absl::Status AroundFlags::Check() const {
  if (!file_.First().empty() && safety.empty())
    return UsageError("--polytopes does nothing without --safety, which says the polytope's name");
  if (!folder_.First().empty() && memory_scope.empty())
    return UsageError("--memory does nothing without --memory-scope, which says whose memory is asked");
  const bool majority = perspectives.has_value() && perspectives->use == PerspectiveUse::kMajority;
  if (!memory_scope.empty() && !majority) {
    return UsageError(
        "--memory-scope does nothing without --perspectives of use=majority: it is asked where they disagree "
        "and no two name the same token");
  }
  return absl::OkStatus();
}

absl::Status AroundFlags::RefuseAtServer() const {
  const std::string flag = FirstBesideAdapter();
  if (flag.empty()) return absl::OkStatus();
  return UsageError(absl::StrCat(
      flag, " is not asked of a server by this verb; leave it out, or ask a cluster (--cluster)"));
}

std::string AroundFlags::FirstBesideAdapter() const {
  if (perspectives.has_value()) return "--perspectives";
  if (!safety.empty()) return "--safety";
  if (!memory_scope.empty()) return "--memory-scope";
  return context_memory ? "--context-memory" : "";
}

}  // namespace omni::cli
