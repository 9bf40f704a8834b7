#include "cli/around_flags.h"

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
  verb.Bool("--context-memory", context_memory,
            "Remember the text so far: what followed in like places has a say in the next token");
}

absl::Status AroundFlags::Check() const {
  if (file_.First().empty() || !safety.empty()) return absl::OkStatus();
  return UsageError("--polytopes does nothing without --safety, which says the polytope's name");
}

std::string AroundFlags::First() const {
  if (perspectives.has_value()) return "--perspectives";
  if (!safety.empty()) return "--safety";
  return context_memory ? "--context-memory" : "";
}

}  // namespace omni::cli
