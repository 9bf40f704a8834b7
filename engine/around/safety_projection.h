// The point of a polytope that is nearest to a given one.
//
// min |x - y| over n_j . x <= c_j, c = b + epsilon. Both methods work on the dual, min_{l >= 0}
// 1/2 l'Gl - s'l with G = N N' (made once) and s = N y - c: only s and the answer x = y - N'l touch vectors
// of width d.
//
//   Dykstra     cyclic projections with correction terms (Boyle and Dykstra 1986); of half-spaces the terms
//               are l_j n_j, so that a turn is l_j += max(-l_j, s_j / G_jj) (Hildreth 1957). Converges in the
//               limit: slowly where facets are nearly parallel.
//   active set  exact after finitely many steps (Goldfarb and Idnani 1983): the half-space that is violated
//               most enters; those whose multiplier would become negative leave.
//
// All sums are in double and in one order: the same bytes on every machine.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include <absl/status/statusor.h>

#include "engine/around/safety_polytope.h"
#include "kernels/op.h"

namespace omni {

enum class ProjectionMethod { kActiveSet, kDykstra };

struct Projection {
  bool inside = true;           // nothing was changed
  double distance = 0;          // that y was moved
  double violation = 0;         // before: the largest n_j . y - c_j, 0 if inside
  double residual = 0;          // after: the same; at most kInsideTolerance * |y|
  int64_t steps = 0;            // of the active set, or turns over all half-spaces
  std::vector<int32_t> active;  // half-spaces with a multiplier, ascending
};

// Thread-safe.
class Projector {
 public:
  // A point counts as inside up to this violation, times its length: what rounding to float32 can do.
  static constexpr double kInsideTolerance = 1e-6;

  // Refuses what CheckPolytope refuses, and an empty polytope, naming half-spaces that contradict each other.
  static absl::StatusOr<Projector> Make(Polytope polytope);

  const Polytope& polytope() const { return polytope_; }

  // y, [d], is moved to its projection if it is outside; inside it keeps every bit, and so a second
  // projection changes nothing. InvalidArgument: y has another width or is not finite; y is untouched.
  // Aborted: Dykstra's method had not converged after kMostTurns, or steps ran out; y is then where it had
  // got to.
  absl::StatusOr<Projection> Project(std::span<float> y, const kernels::Ops& ops = kernels::ActiveOps(),
                                     ProjectionMethod method = ProjectionMethod::kActiveSet) const;
  static constexpr int64_t kMostTurns = 200'000;

  // n_j . y - c_j of every half-space, in double.
  std::vector<double> Violations(std::span<const float> y) const;

 private:
  struct Solution {
    std::vector<double> multipliers;  // l, [half-spaces]
    int64_t steps = 0;
    bool converged = false;
    std::vector<int32_t> contradiction;  // half-spaces that leave no point, if they were found
  };
  explicit Projector(Polytope polytope) : polytope_(std::move(polytope)) {}

  double Bound(int64_t j) const;  // c_j
  const double* Gram(int64_t j) const { return gram_.data() + j * polytope_.half_spaces(); }
  bool Inside(std::span<const float> y, double length, const kernels::Ops& ops) const;
  Solution ActiveSet(std::vector<double> s, double tolerance) const;
  Solution Dykstra(std::vector<double> s, double tolerance) const;

  Polytope polytope_;
  std::vector<double> gram_;  // [half-spaces, half-spaces]
};

}  // namespace omni
