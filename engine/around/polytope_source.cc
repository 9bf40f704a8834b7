#include "engine/around/polytope_source.h"

#include <utility>

#include <absl/strings/str_cat.h>

#include "engine/base/quoted.h"

namespace omni {

absl::StatusOr<std::string> PolytopeSource::Hash(const SafetyChoice& choice) {
  absl::StatusOr<HeldPolytope> held = Take(choice);
  if (!held.ok()) return held.status();
  return std::move(held->hash);
}

absl::StatusOr<HeldPolytope> TakePolytope(const std::shared_ptr<const PolytopeSet>& set,
                                          const absl::Status& why, const SafetyChoice& choice) {
  // What goes on with a polytope does so with none but that one; what is only asked for may be mistaken.
  const auto code =
      choice.hash.empty() ? absl::StatusCode::kInvalidArgument : absl::StatusCode::kFailedPrecondition;
  if (set == nullptr) {
    return absl::Status(code, absl::StrCat("safety: the polytope ", Quoted(choice.polytope),
                                           " is asked for, and there are none here: ", why.message()));
  }
  if (const absl::Status has = set->Has(choice.polytope); !has.ok())
    return absl::Status(code, absl::StrCat("safety: ", has.message()));
  const std::string& hash = set->Hash(choice.polytope);
  if (!choice.hash.empty() && choice.hash != hash) {
    return absl::FailedPreconditionError(
        absl::StrCat("safety: this goes on with the polytope ", Quoted(choice.polytope), " of hash ",
                     choice.hash, ", and the one of that name here is ", hash,
                     "; put the file of polytopes back that it began with, or begin anew"));
  }
  return HeldPolytope{{set, set->Find(choice.polytope)}, hash};
}

}  // namespace omni
