// Polytopes of random half-spaces that zero is inside of.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/around/polytope_source.h"
#include "engine/around/safety_file.h"
#include "tests/testing/random_model.h"

namespace omni::testing {

// The smaller the bound, the more is outside.
inline Polytope RandomPolytope(std::string name, int64_t d, int64_t half_spaces, float bound, uint64_t seed) {
  Random random(seed);
  Polytope p;
  p.name = std::move(name);
  p.d = d;
  for (int64_t j = 0; j < half_spaces; ++j) {
    std::vector<float> normal(static_cast<size_t>(d));
    for (float& x : normal) x = random.Normal();
    ScaleToUnit(normal);
    p.normals.insert(p.normals.end(), normal.begin(), normal.end());
    p.bounds.push_back(bound);
    p.labels.push_back("half-space");
  }
  return p;
}

inline std::string PolytopeBytes(std::vector<Polytope> polytopes, std::string model_hash = "") {
  return WritePolytopes({std::move(model_hash), std::move(polytopes)});
}

// A set that does not change.
class FixedPolytopes final : public PolytopeSource {
 public:
  explicit FixedPolytopes(const std::string& bytes) : set_(*PolytopeSet::Parse(bytes, "polytopes")) {}
  absl::StatusOr<HeldPolytope> Take(const SafetyChoice& choice) override {
    return TakePolytope(set_, absl::OkStatus(), choice);
  }

 private:
  std::shared_ptr<const PolytopeSet> set_;
};

}  // namespace omni::testing
