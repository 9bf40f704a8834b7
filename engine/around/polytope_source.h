// Which polytope a request asks for, and where it comes from.
#pragma once

#include <memory>
#include <string>

#include <absl/status/statusor.h>

#include "engine/around/safety_file.h"

namespace omni {

struct SafetyChoice {
  std::string polytope;  // by name; empty: none
  // Of PolytopeSet::Hash: no other polytope of that name will do. Empty: whichever there is.
  std::string hash;
  friend bool operator==(const SafetyChoice&, const SafetyChoice&) = default;
};

// A polytope as whoever has it keeps it, whatever becomes of the file that it is from.
struct HeldPolytope {
  std::shared_ptr<const Projector> projector;
  std::string hash;
};

// Thread-safe.
class PolytopeSource {
 public:
  virtual ~PolytopeSource() = default;
  // The one that is there now. InvalidArgument: there is none of that name, or none at all, and the message
  // says what there is; with a hash that cannot be had, FailedPrecondition.
  virtual absl::StatusOr<HeldPolytope> Take(const SafetyChoice& choice) = 0;
  absl::StatusOr<std::string> Hash(const SafetyChoice& choice);  // of that
};

// The same of a set that is known; null: there are none, because of `why`.
absl::StatusOr<HeldPolytope> TakePolytope(const std::shared_ptr<const PolytopeSet>& set,
                                          const absl::Status& why, const SafetyChoice& choice);

}  // namespace omni
