#include "engine/around/safety_projection.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>

#include "engine/base/quoted.h"

namespace omni {
namespace {

constexpr double kNone = std::numeric_limits<double>::infinity();
// Of a normal's squared length, what may be left of it beside the active ones and still be nothing: normals
// at angles below 3e-7 are as good as parallel.
constexpr double kDependent = 1e-13;
// Half-spaces that contradict each other by 1e-2 do so no more once their normals are rounded to float32:
// they meet a million times as far out. A point farther than so many of the largest bounds is there by
// rounding.
constexpr double kFarthest = 1e4;
// Within so much of its bound, times the length of y, a half-space is looked at in double: far more than the
// products in float are wrong by.
constexpr double kUnsure = 1e-4;
constexpr int kMostRounds = 12;  // a round starts where the last one's rounding left the point

// The active half-spaces' part of the Gram matrix, factored as L L'.
class Factor {
 public:
  // r = (L L')^-1 g
  void Solve(const std::vector<double>& g, std::vector<double>& r) const {
    const size_t n = g.size();
    r = g;
    for (size_t i = 0; i < n; ++i) {
      for (size_t k = 0; k < i; ++k) r[i] -= At(i, k) * r[k];
      r[i] /= At(i, i);
    }
    for (size_t i = n; i-- > 0;) {
      for (size_t k = i + 1; k < n; ++k) r[i] -= At(k, i) * r[k];
      r[i] /= At(i, i);
    }
  }
  // One row more: g are its products with the others, `left` what is its own (the Schur complement).
  void Append(const std::vector<double>& g, double left) {
    const size_t n = g.size();
    const size_t begin = rows_.size();
    rows_.insert(rows_.end(), g.begin(), g.end());
    rows_.push_back(std::sqrt(left));
    double* row = rows_.data() + begin;
    for (size_t i = 0; i < n; ++i) {
      for (size_t k = 0; k < i; ++k) row[i] -= At(i, k) * row[k];
      row[i] /= At(i, i);
    }
  }
  void Clear() { rows_.clear(); }

 private:
  double At(size_t i, size_t k) const { return rows_[i * (i + 1) / 2 + k]; }
  std::vector<double> rows_;  // lower triangle, by rows
};

}  // namespace

double Projector::Bound(int64_t j) const {
  return static_cast<double>(polytope_.bounds[static_cast<size_t>(j)]) +
         static_cast<double>(polytope_.epsilon);
}

std::vector<double> Projector::Violations(std::span<const float> y) const {
  std::vector<double> s(static_cast<size_t>(polytope_.half_spaces()));
  for (int64_t j = 0; j < polytope_.half_spaces(); ++j)
    s[static_cast<size_t>(j)] = PreciseDot(polytope_.normal(j).data(), y.data(), polytope_.d) - Bound(j);
  return s;
}

// Nearly every half-space is told apart in float; the others in double.
bool Projector::Inside(std::span<const float> y, double length, const kernels::Ops& ops) const {
  const double allowed = kInsideTolerance * length, unsure = kUnsure * length;
  for (int64_t j = 0; j < polytope_.half_spaces(); ++j) {
    const double about =
        static_cast<double>(ops.dot(polytope_.normal(j).data(), y.data(), polytope_.d)) - Bound(j);
    if (about < -unsure) continue;
    if (about > unsure) return false;
    if (PreciseDot(polytope_.normal(j).data(), y.data(), polytope_.d) - Bound(j) > allowed) return false;
  }
  return true;
}

Projector::Solution Projector::ActiveSet(std::vector<double> s, double tolerance) const {
  const auto m = static_cast<size_t>(polytope_.half_spaces());
  Solution out;
  out.multipliers.assign(m, 0);
  std::vector<double>& l = out.multipliers;
  std::vector<size_t> active;
  Factor factor;
  std::vector<double> g, r;
  const auto refactor = [&] {
    factor.Clear();
    std::vector<double> row, solved;
    for (size_t i = 0; i < active.size(); ++i) {
      const double* gram = Gram(static_cast<int64_t>(active[i]));
      row.clear();
      for (size_t k = 0; k < i; ++k) row.push_back(gram[active[k]]);
      factor.Solve(row, solved);
      double left = gram[active[i]];
      for (size_t k = 0; k < i; ++k) left -= row[k] * solved[k];
      factor.Append(row, std::max(left, kDependent));
    }
  };
  const auto most = static_cast<int64_t>(20 * m + 100);
  while (true) {
    const size_t p = static_cast<size_t>(std::max_element(s.begin(), s.end()) - s.begin());
    if (s[p] <= tolerance) {
      out.converged = true;
      return out;
    }
    const double* gram = Gram(static_cast<int64_t>(p));
    for (bool entered = false; !entered;) {
      if (++out.steps > most) return out;
      g.clear();
      for (size_t k : active) g.push_back(gram[k]);
      factor.Solve(g, r);
      double left = gram[p];
      for (size_t i = 0; i < g.size(); ++i) left -= g[i] * r[i];
      const bool moves = left > kDependent;
      const double whole = moves ? s[p] / left : kNone;
      double first = kNone;
      size_t leaves = 0;
      for (size_t i = 0; i < active.size(); ++i) {
        if (r[i] <= 1e-12) continue;
        const double at = l[active[i]] / r[i];
        if (at < first) {
          first = at;
          leaves = i;
        }
      }
      const double step = std::min(whole, first);
      if (step == kNone) {
        out.contradiction.push_back(static_cast<int32_t>(p));
        for (size_t i = 0; i < active.size(); ++i) {
          if (r[i] < -1e-9) out.contradiction.push_back(static_cast<int32_t>(active[i]));
        }
        std::sort(out.contradiction.begin(), out.contradiction.end());
        return out;
      }
      for (size_t i = 0; i < active.size(); ++i) l[active[i]] = std::max(0.0, l[active[i]] - step * r[i]);
      l[p] += step;
      if (moves) {
        for (size_t j = 0; j < m; ++j) s[j] -= step * gram[j];
        for (size_t i = 0; i < active.size(); ++i) {
          const double* other = Gram(static_cast<int64_t>(active[i]));
          const double back = step * r[i];
          for (size_t j = 0; j < m; ++j) s[j] += back * other[j];
        }
      }
      if (whole <= first) {
        factor.Append(g, left);
        active.push_back(p);
        entered = true;
      } else {
        l[active[leaves]] = 0;
        active.erase(active.begin() + static_cast<int64_t>(leaves));
        refactor();
      }
    }
  }
}

Projector::Solution Projector::Dykstra(std::vector<double> s, double tolerance) const {
  const auto m = static_cast<size_t>(polytope_.half_spaces());
  Solution out;
  out.multipliers.assign(m, 0);
  while (out.steps < kMostTurns) {
    ++out.steps;
    double moved = 0;
    for (size_t j = 0; j < m; ++j) {
      const double* gram = Gram(static_cast<int64_t>(j));
      const double step = std::max(-out.multipliers[j], s[j] / gram[j]);
      if (step == 0) continue;
      out.multipliers[j] += step;
      for (size_t i = 0; i < m; ++i) s[i] -= step * gram[i];
      moved = std::max(moved, std::abs(step));
    }
    // The last steps of a slow convergence are small long before it is there.
    if (moved <= 1e-4 * tolerance && *std::max_element(s.begin(), s.end()) <= tolerance) {
      out.converged = true;
      return out;
    }
  }
  return out;
}

absl::StatusOr<Projector> Projector::Make(Polytope polytope) {
  if (absl::Status s = CheckPolytope(polytope); !s.ok()) return s;
  Projector projector(std::move(polytope));
  const Polytope& p = projector.polytope_;
  const int64_t m = p.half_spaces();
  projector.gram_.resize(static_cast<size_t>(m * m));
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j <= i; ++j) {
      const double product = PreciseDot(p.normal(i).data(), p.normal(j).data(), p.d);
      projector.gram_[static_cast<size_t>(i * m + j)] = product;
      projector.gram_[static_cast<size_t>(j * m + i)] = product;
    }
  }
  // Is there a point nearest to zero?
  const std::vector<float> zero(static_cast<size_t>(p.d));
  const std::vector<double> s = projector.Violations(zero);
  const double worst = *std::max_element(s.begin(), s.end());
  if (worst <= 0) return projector;
  const Solution solution = projector.ActiveSet(s, 1e-9 * worst);
  if (!solution.contradiction.empty()) {
    std::vector<std::string> named;
    for (size_t i = 0; i < std::min<size_t>(solution.contradiction.size(), 6); ++i) {
      const int32_t j = solution.contradiction[i];
      named.push_back(absl::StrCat(j, " (", Quoted(p.labels[static_cast<size_t>(j)]), ")"));
    }
    if (solution.contradiction.size() > named.size()) named.emplace_back("others");
    return absl::InvalidArgumentError(
        absl::StrCat("polytope '", p.name, "' is empty: half-spaces ", absl::StrJoin(named, ", "),
                     " leave no point that fulfils them all; raise their bounds or epsilon"));
  }
  if (!solution.converged) {
    return absl::InvalidArgumentError(absl::StrCat("polytope '", p.name, "': no point inside was found in ",
                                                   solution.steps,
                                                   " steps; its half-spaces are too nearly parallel"));
  }
  // The point that was found, looked at itself: where half-spaces contradict each other by a combination that
  // rounding hides, multipliers grow until they seem to leave a point, and there is none.
  std::vector<double> point(static_cast<size_t>(p.d));
  for (int64_t j = 0; j < m; ++j) {
    const double l = solution.multipliers[static_cast<size_t>(j)];
    for (int64_t i = 0; l > 0 && i < p.d; ++i)
      point[static_cast<size_t>(i)] -= l * static_cast<double>(p.normal(j)[static_cast<size_t>(i)]);
  }
  double length = 0, largest_bound = 1;
  for (double x : point) length += x * x;
  length = std::sqrt(length);
  for (int64_t j = 0; j < m; ++j) largest_bound = std::max(largest_bound, std::abs(projector.Bound(j)));
  for (int64_t j = 0; j < m; ++j) {
    double over = -projector.Bound(j);
    for (int64_t i = 0; i < p.d; ++i)
      over += static_cast<double>(p.normal(j)[static_cast<size_t>(i)]) * point[static_cast<size_t>(i)];
    if (over <= kInsideTolerance * length && length <= kFarthest * largest_bound) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("polytope '", p.name, "' is empty: no point nearer than ", kFarthest,
                     " times its largest bound fulfils all half-spaces, half-space ", j, " ('",
                     p.labels[static_cast<size_t>(j)], "') among them; raise their bounds or epsilon"));
  }
  return projector;
}

absl::StatusOr<Projection> Projector::Project(std::span<float> y, const kernels::Ops& ops,
                                              ProjectionMethod method) const {
  const Polytope& p = polytope_;
  if (static_cast<int64_t>(y.size()) != p.d) {
    return absl::InvalidArgumentError(absl::StrCat("polytope '", p.name, "' has width ", p.d,
                                                   ", the hidden state ", y.size(),
                                                   "; build it for this model: omni safety build"));
  }
  double length = std::sqrt(PreciseDot(y.data(), y.data(), p.d));
  if (!std::isfinite(length)) {
    return absl::InvalidArgumentError(
        absl::StrCat("polytope '", p.name, "': the hidden state is not finite, and has no projection"));
  }
  Projection result;
  if (Inside(y, length, ops)) return result;
  result.inside = false;
  const std::vector<float> from(y.begin(), y.end());
  std::vector<double> x(y.size()), sum(static_cast<size_t>(p.half_spaces()));
  const auto m = static_cast<size_t>(p.half_spaces());
  std::vector<double> s(m);
  std::vector<bool> precise(m);
  const auto make_precise = [&](size_t j) {
    const auto at = static_cast<int64_t>(j);
    s[j] = PreciseDot(p.normal(at).data(), y.data(), p.d) - Bound(at);
    precise[j] = true;
  };
  for (int round = 0; round < kMostRounds; ++round) {
    // In double where it counts: what is far inside stays in float, unless it turns out to be active.
    double worst = -std::numeric_limits<double>::infinity();
    for (size_t j = 0; j < m; ++j) {
      const auto at = static_cast<int64_t>(j);
      s[j] = static_cast<double>(ops.dot(p.normal(at).data(), y.data(), p.d)) - Bound(at);
      precise[j] = false;
      if (s[j] >= -kUnsure * length) make_precise(j);
      worst = std::max(worst, s[j]);
    }
    if (round == 0) result.violation = worst;
    if (worst <= kInsideTolerance * length) {
      result.residual = std::max(0.0, worst);
      for (size_t i = 0; i < y.size(); ++i) {
        const double moved = static_cast<double>(y[i]) - static_cast<double>(from[i]);
        result.distance += moved * moved;
      }
      result.distance = std::sqrt(result.distance);
      for (size_t j = 0; j < sum.size(); ++j) {
        if (sum[j] > 0) result.active.push_back(static_cast<int32_t>(j));
      }
      return result;
    }
    // Closer than the answer is asked to be, as long as doubles can tell.
    const bool exact = method == ProjectionMethod::kActiveSet;
    const double tolerance = (exact ? 1e-11 : 1e-9) * std::max(length, worst);
    Solution solution;
    for (bool again = true; again;) {
      solution = exact ? ActiveSet(s, tolerance) : Dykstra(s, tolerance);
      result.steps += solution.steps;
      again = false;
      for (size_t j = 0; j < m; ++j) {
        if (solution.multipliers[j] == 0 || precise[j]) continue;
        make_precise(j);
        again = true;
      }
    }
    for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<double>(y[i]);
    for (int64_t j = 0; j < p.half_spaces(); ++j) {
      const double l = solution.multipliers[static_cast<size_t>(j)];
      if (l == 0) continue;
      sum[static_cast<size_t>(j)] += l;
      const float* n = p.normal(j).data();
      for (size_t i = 0; i < x.size(); ++i) x[i] -= l * static_cast<double>(n[i]);
    }
    for (size_t i = 0; i < x.size(); ++i) y[i] = static_cast<float>(x[i]);
    length = std::sqrt(PreciseDot(y.data(), y.data(), p.d));
    if (!solution.converged) break;
  }
  return absl::AbortedError(absl::StrCat("polytope '", p.name, "': the projection has not converged after ",
                                         result.steps, " steps; its half-spaces are too nearly parallel"));
}

}  // namespace omni
