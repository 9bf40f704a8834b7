// Files of polytopes: what is accepted is written as the same bytes and can be projected onto, and nothing is
// made for bytes that are refused.
#include <cmath>
#include <vector>

#include "engine/around/safety_file.h"
#include "tests/fuzz/fuzz.h"

namespace omni::fuzz {

const int kRuns = 100000;

namespace {

Polytope Box(const std::string& name, int64_t d, float bound) {
  Polytope p;
  p.name = name;
  p.d = d;
  p.epsilon = 0.125f;
  for (int64_t i = 0; i < 2 * d; ++i) {
    std::vector<float> normal(static_cast<size_t>(d));
    normal[static_cast<size_t>(i / 2)] = i % 2 == 0 ? 1.0f : -1.0f;
    p.normals.insert(p.normals.end(), normal.begin(), normal.end());
    p.bounds.push_back(bound);
    p.labels.push_back("a side");
  }
  return p;
}

void Check(const std::string& bytes) {
  absl::StatusOr<PolytopeFile> file = ReadPolytopes(bytes);
  if (!file.ok()) return RequireReadable(file.status());
  Require(WritePolytopes(*file) == bytes, "a file is written as the bytes it was read from");
  const absl::StatusOr<std::shared_ptr<const PolytopeSet>> set = PolytopeSet::Make(*std::move(file));
  if (!set.ok()) return RequireReadable(set.status());
  for (const auto& [name, projector] : (*set)->projectors()) {
    Require((*set)->Hash(name).size() == 32, "a polytope has a hash");
    std::vector<float> y(static_cast<size_t>(projector.polytope().d));
    for (size_t i = 0; i < y.size(); ++i) y[i] = i % 2 == 0 ? 3.0f : -3.0f;
    const absl::StatusOr<Projection> moved = projector.Project(y);
    if (!moved.ok()) {
      RequireReadable(moved.status());
      continue;
    }
    for (float x : y) Require(std::isfinite(x), "a projection is finite");
    const std::vector<float> once = y;
    const absl::StatusOr<Projection> again = projector.Project(y);
    Require(again.ok() && again->inside && y == once, "projecting again changes nothing");
  }
}

}  // namespace

std::vector<std::string> Seeds() {
  return {WritePolytopes({"0123", {Box("general", 3, 1), Box("medical", 3, 2)}}),
          WritePolytopes({"", {Box("one", 1, 0)}}), WritePolytopes({"", {Box("empty", 2, -1)}})};
}

}  // namespace omni::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace omni;
  using namespace omni::fuzz;
  const std::string input(View(data, size));
  Check(input);
  Check(WithChecksum(input));
  return 0;
}
