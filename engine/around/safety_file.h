// Polytopes as bytes: docs/formats/polytopes.md.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "engine/around/safety_polytope.h"
#include "engine/around/safety_projection.h"

namespace omni {

struct PolytopeFile {
  std::string model_hash;  // of the model they were built with; empty: any of their width
  std::vector<Polytope> polytopes;
};

// The polytopes fit CheckPolytope and have one width and different names.
std::string WritePolytopes(const PolytopeFile& file);
// Refuses cut, altered and unknown bytes, and whatever CheckPolytope refuses.
absl::StatusOr<PolytopeFile> ReadPolytopes(std::string_view bytes);

// The polytopes of a file, ready to project onto; immutable, so that any thread may use one while another
// takes its place.
class PolytopeSet {
 public:
  // Of the bytes of the file `path`, which errors name. Refused is what ReadPolytopes and Projector::Make
  // refuse (an empty polytope).
  static absl::StatusOr<std::shared_ptr<const PolytopeSet>> Parse(std::string_view bytes,
                                                                  const std::string& path);
  static absl::StatusOr<std::shared_ptr<const PolytopeSet>> Make(PolytopeFile file);

  // FailedPrecondition: they are of another width or were built for another model.
  absl::Status Fits(int64_t d, std::string_view model_hash) const;

  const Projector* Find(std::string_view name) const;  // null: there is none of that name
  // 32 hex digits, the same for equal half-spaces and epsilon wherever they were read, and for no others;
  // empty: there is none of that name.
  const std::string& Hash(std::string_view name) const;
  // By name; the error for one that is not there says which there are.
  absl::Status Has(std::string_view name) const;
  const std::map<std::string, Projector, std::less<>>& projectors() const { return projectors_; }
  const std::string& first() const { return first_; }  // the name that stands first in the file
  const std::string& model_hash() const { return model_hash_; }

 private:
  std::map<std::string, Projector, std::less<>> projectors_;
  std::map<std::string, std::string, std::less<>> hashes_;  // by name
  std::string first_, model_hash_, path_;
  int64_t d_ = 0;
};

}  // namespace omni
