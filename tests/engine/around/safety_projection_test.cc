#include "engine/around/safety_projection.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/testing/random_model.h"

namespace omni {
namespace {

using ::testing::HasSubstr;
using testing::Random;

using Vector = std::vector<float>;

Polytope Empty(int64_t d, float epsilon = 0) {
  Polytope p;
  p.name = "test";
  p.d = d;
  p.epsilon = epsilon;
  return p;
}

void Add(Polytope& p, Vector normal, float bound) {
  ASSERT_TRUE(ScaleToUnit(normal));
  p.normals.insert(p.normals.end(), normal.begin(), normal.end());
  p.bounds.push_back(bound);
  p.labels.push_back("h" + std::to_string(p.labels.size()));
}

Vector RandomVector(int64_t d, Random& random, float size = 1) {
  Vector v(static_cast<size_t>(d));
  for (float& x : v) x = size * random.Normal();
  return v;
}

double Length(const Vector& v) { return std::sqrt(PreciseDot(v.data(), v.data(), std::ssize(v))); }

double Distance(const Vector& a, const Vector& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i)
    sum += std::pow(static_cast<double>(a[i]) - static_cast<double>(b[i]), 2);
  return std::sqrt(sum);
}

double Worst(const Projector& projector, const Vector& y) {
  const std::vector<double> s = projector.Violations(y);
  return *std::max_element(s.begin(), s.end());
}

// Around the origin or around a point beside it; bounded if there are enough half-spaces.
Polytope RandomPolytope(int64_t d, int64_t m, Random& random) {
  Polytope p = Empty(d, 0.01f);
  const Vector centre = RandomVector(d, random, random.Uniform(0, 2));
  for (int64_t j = 0; j < m; ++j) {
    Vector n = RandomVector(d, random);
    ScaleToUnit(n);
    Add(p, n, static_cast<float>(PreciseDot(n.data(), centre.data(), d)) + random.Uniform(0.05f, 2));
  }
  return p;
}

// The projection by trying every set of half-spaces: the equations of each in long double by elimination, and
// the nearest of the points that fulfil all.
class EverySet {
 public:
  explicit EverySet(const Polytope& p) : p_(p) {}

  std::optional<std::vector<long double>> Nearest(const Vector& y) {
    y_ = &y;
    best_ = std::numeric_limits<long double>::infinity();
    answer_.reset();
    std::vector<int64_t> set;
    Try(set, 0);
    return answer_;
  }

 private:
  using Real = long double;
  Real Product(int64_t i, int64_t j) const {
    Real sum = 0;
    for (int64_t k = 0; k < p_.d; ++k)
      sum += static_cast<Real>(p_.normal(i)[static_cast<size_t>(k)]) *
             static_cast<Real>(p_.normal(j)[static_cast<size_t>(k)]);
    return sum;
  }
  Real Over(int64_t j, const std::vector<Real>& x) const {
    Real sum = -(static_cast<Real>(p_.bounds[static_cast<size_t>(j)]) + static_cast<Real>(p_.epsilon));
    for (int64_t k = 0; k < p_.d; ++k)
      sum += static_cast<Real>(p_.normal(j)[static_cast<size_t>(k)]) * x[static_cast<size_t>(k)];
    return sum;
  }

  void Try(std::vector<int64_t>& set, int64_t from) {
    Check(set);
    if (std::ssize(set) == p_.d) return;
    for (int64_t j = from; j < p_.half_spaces(); ++j) {
      set.push_back(j);
      Try(set, j + 1);
      set.pop_back();
    }
  }

  void Check(const std::vector<int64_t>& set) {
    const size_t n = set.size();
    std::vector<Real> x(y_->begin(), y_->end());
    std::vector<std::vector<Real>> a(n, std::vector<Real>(n + 1));
    for (size_t i = 0; i < n; ++i) {
      for (size_t j = 0; j < n; ++j) a[i][j] = Product(set[i], set[j]);
      a[i][n] = Over(set[i], x);
    }
    for (size_t i = 0; i < n; ++i) {
      size_t pivot = i;
      for (size_t k = i; k < n; ++k) {
        if (std::abs(a[k][i]) > std::abs(a[pivot][i])) pivot = k;
      }
      if (std::abs(a[pivot][i]) < 1e-14L) return;
      std::swap(a[i], a[pivot]);
      for (size_t k = 0; k < n; ++k) {
        if (k == i) continue;
        const Real factor = a[k][i] / a[i][i];
        for (size_t c = i; c <= n; ++c) a[k][c] -= factor * a[i][c];
      }
    }
    for (size_t i = 0; i < n; ++i) {
      const Real l = a[i][n] / a[i][i];
      if (l < 0) return;
      for (int64_t k = 0; k < p_.d; ++k)
        x[static_cast<size_t>(k)] -= l * static_cast<Real>(p_.normal(set[i])[static_cast<size_t>(k)]);
    }
    Real size = 0, distance = 0;
    for (size_t k = 0; k < x.size(); ++k) {
      size += x[k] * x[k];
      distance += (x[k] - (*y_)[k]) * (x[k] - (*y_)[k]);
    }
    for (int64_t j = 0; j < p_.half_spaces(); ++j) {
      if (Over(j, x) > 1e-9L * (1 + std::sqrt(size))) return;
    }
    if (distance >= best_) return;
    best_ = distance;
    answer_ = x;
  }

  const Polytope& p_;
  const Vector* y_ = nullptr;
  Real best_ = 0;
  std::optional<std::vector<Real>> answer_;
};

// What is asked of every point; the projected point.
Vector Check(const Projector& projector, const Vector& y) {
  Vector x = y;
  const absl::StatusOr<Projection> done = projector.Project(x);
  EXPECT_TRUE(done.ok()) << done.status();
  if (!done.ok()) return x;
  if (Worst(projector, y) <= 0) {
    EXPECT_TRUE(done->inside);
  }
  if (done->inside) {
    EXPECT_EQ(std::memcmp(x.data(), y.data(), x.size() * sizeof(float)), 0);
    EXPECT_EQ(done->distance, 0);
  } else {
    EXPECT_NEAR(done->distance, Distance(x, y), 1e-9 * Length(y));
    EXPECT_FALSE(done->active.empty());
  }
  EXPECT_LE(Worst(projector, x), 1e-4 * Length(y));
  Vector again = x;
  const absl::StatusOr<Projection> second = projector.Project(again);
  EXPECT_TRUE(second.ok() && second->inside) << second.status();
  EXPECT_EQ(std::memcmp(x.data(), again.data(), x.size() * sizeof(float)), 0);
  return x;
}

void CheckAgainstEverySet(const Polytope& polytope, const Projector& projector, const Vector& y) {
  const Vector x = Check(projector, y);
  const auto exact = EverySet(polytope).Nearest(y);
  ASSERT_TRUE(exact.has_value());
  double apart = 0;
  for (size_t i = 0; i < x.size(); ++i)
    apart += std::pow(static_cast<double>(static_cast<long double>(x[i]) - (*exact)[i]), 2);
  // Of what it was moved by, beside what float32 can say of a point of this length.
  EXPECT_LE(std::sqrt(apart), 1e-3 * Distance(x, y) + 2e-6 * std::max(Length(x), Length(y)));
}

TEST(SafetyProjection, RandomPointsAreProjectedExactly) {
  Random random(1);
  for (int polytopes = 0; polytopes < 300; ++polytopes) {
    const int64_t d = 1 + random.Below(4), m = 1 + random.Below(9);  // of few half-spaces most are unbounded
    const Polytope polytope = RandomPolytope(d, m, random);
    const absl::StatusOr<Projector> projector = Projector::Make(polytope);
    ASSERT_TRUE(projector.ok()) << projector.status();
    for (int points = 0; points < 40; ++points)
      CheckAgainstEverySet(polytope, *projector, RandomVector(d, random, random.Uniform(0.1f, 6)));
  }
}

TEST(SafetyProjection, AHundredThousandPointsOfManyKinds) {
  Random random(2);
  int inside = 0, points = 0;
  for (int polytopes = 0; polytopes < 100; ++polytopes) {
    const int64_t d = 2 + random.Below(40), m = 1 + random.Below(60);
    const absl::StatusOr<Projector> projector = Projector::Make(RandomPolytope(d, m, random));
    ASSERT_TRUE(projector.ok()) << projector.status();
    for (int i = 0; i < 200; ++i) {
      const float size = std::pow(10.0f, random.Uniform(-3, 6));  // far, too
      const Vector y = RandomVector(d, random, size);
      const Vector on_facets = Check(*projector, y);
      // Just within and just beyond the boundary where that landed.
      Vector within = on_facets, beyond = on_facets;
      for (size_t k = 0; k < y.size(); ++k) {
        within[k] *= 1 - 1e-5f;
        beyond[k] += 1e-5f * (y[k] - on_facets[k]);
      }
      Check(*projector, within);
      Check(*projector, beyond);
      const Vector near = Check(*projector, RandomVector(d, random, 0.05f));
      inside += Worst(*projector, near) <= 0;
      Vector corner = on_facets;  // along the normals of all that is active there
      for (int64_t j = 0; j < m; ++j) {
        if (std::abs(projector->Violations(on_facets)[static_cast<size_t>(j)]) > 1e-4) continue;
        for (size_t k = 0; k < corner.size(); ++k) corner[k] += projector->polytope().normal(j)[k];
      }
      Check(*projector, corner);
      points += 5;
      if (::testing::Test::HasFailure()) FAIL() << "polytope " << polytopes << ", point " << i;
    }
  }
  EXPECT_GE(points, 100'000);
  EXPECT_GT(inside, 1000);
}

TEST(SafetyProjection, NearlyParallelFacets) {
  Random random(3);
  for (float angle : {1e-1f, 1e-2f, 1e-3f, 1e-4f, 1e-5f, 1e-6f, 0.0f}) {
    for (int polytopes = 0; polytopes < 20; ++polytopes) {
      const int64_t d = 2 + random.Below(3);
      Polytope polytope = Empty(d);
      const Vector base = RandomVector(d, random);
      for (int j = 0; j < 5; ++j) {
        Vector n = base;
        for (float& x : n) x += angle * random.Normal();
        Add(polytope, n, random.Uniform(0.5f, 0.6f));
      }
      const absl::StatusOr<Projector> projector = Projector::Make(polytope);
      ASSERT_TRUE(projector.ok()) << projector.status();
      for (int points = 0; points < 20; ++points) {
        Check(*projector, RandomVector(d, random, 5));
        if (angle >= 1e-4f) CheckAgainstEverySet(polytope, *projector, RandomVector(d, random, 5));
        if (::testing::Test::HasFailure()) FAIL() << "angle " << angle;
      }
    }
  }
}

TEST(SafetyProjection, DykstraAgreesWithTheActiveSet) {
  Random random(4);
  const kernels::Ops& ops = kernels::ActiveOps();
  for (int polytopes = 0; polytopes < 60; ++polytopes) {
    const int64_t d = 2 + random.Below(60), m = 1 + random.Below(50);
    const absl::StatusOr<Projector> projector = Projector::Make(RandomPolytope(d, m, random));
    ASSERT_TRUE(projector.ok());
    for (int points = 0; points < 20; ++points) {
      const Vector y = RandomVector(d, random, 3);
      Vector exact = y, dykstra = y;
      ASSERT_TRUE(projector->Project(exact).ok());
      const absl::StatusOr<Projection> done = projector->Project(dykstra, ops, ProjectionMethod::kDykstra);
      ASSERT_TRUE(done.ok()) << done.status();
      EXPECT_LE(Distance(exact, dykstra), 1e-4 * Distance(exact, y) + 2e-6 * Length(y));
      EXPECT_LE(done->residual, Projector::kInsideTolerance * Length(dykstra));
    }
  }
}

TEST(SafetyProjection, TheSameBytesWithEveryInstructionSet) {
  Random random(5);
  const absl::StatusOr<Projector> projector = Projector::Make(RandomPolytope(100, 70, random));
  ASSERT_TRUE(projector.ok());
  for (int points = 0; points < 200; ++points) {
    const Vector y = RandomVector(100, random, random.Uniform(0.01f, 2));
    Vector want = y;
    ASSERT_TRUE(projector->Project(want, *kernels::OpsFor(kernels::Isa::kScalar)).ok());
    for (kernels::Isa isa : kernels::kAllIsas) {
      const kernels::Ops* ops = kernels::OpsFor(isa);
      if (ops == nullptr) continue;
      Vector got = y;
      ASSERT_TRUE(projector->Project(got, *ops).ok());
      EXPECT_EQ(std::memcmp(want.data(), got.data(), want.size() * sizeof(float)), 0)
          << kernels::IsaName(isa);
    }
  }
}

TEST(SafetyProjection, AnEmptyPolytopeIsRefusedWithTheHalfSpacesThatContradict) {
  Polytope slab = Empty(3);
  Add(slab, {0, 1, 0}, 5);
  Add(slab, {1, 0, 0}, -1);
  Add(slab, {-1, 0, 0}, 0.5f);
  const absl::StatusOr<Projector> refused = Projector::Make(slab);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(refused.status().message()),
              HasSubstr("'test' is empty: half-spaces 1 ('h1'), 2 ('h2')"));
  slab.epsilon = 0.3f;  // each gives way: there is a slab of 0.1
  EXPECT_TRUE(Projector::Make(slab).ok());

  // Three lines that leave no triangle; any two of them meet.
  Polytope triangle = Empty(2);
  Add(triangle, {1, 0}, -1);
  Add(triangle, {-0.5f, 0.8660254f}, -1);
  Add(triangle, {-0.5f, -0.8660254f}, -1);
  EXPECT_THAT(std::string(Projector::Make(triangle).status().message()), HasSubstr("is empty"));
}

TEST(SafetyProjection, RandomEmptyPolytopesAreRefused) {
  Random random(6);
  for (int i = 0; i < 5000; ++i) {
    const int64_t d = 1 + random.Below(20);
    Polytope p = RandomPolytope(d, 1 + random.Below(20), random);
    // A convex combination of half-spaces, turned round and put out of reach.
    Vector sum(static_cast<size_t>(d));
    double bound = 0;
    for (int64_t j = 0; j < p.half_spaces(); ++j) {
      const float weight = random.Uniform(0.1f, 1);
      for (size_t k = 0; k < sum.size(); ++k) sum[k] += weight * p.normal(j)[k];
      bound += static_cast<double>(weight) *
               (static_cast<double>(p.bounds[static_cast<size_t>(j)]) + static_cast<double>(p.epsilon));
    }
    const double length = Length(sum);
    if (length < 0.1) continue;
    for (float& x : sum) x = -x;
    Add(p, sum, static_cast<float>(-bound / length - 0.1 / length) - p.epsilon - 0.01f);
    EXPECT_FALSE(Projector::Make(p).ok()) << i;
  }
}

TEST(SafetyProjection, WhatIsNotFiniteOrOfAnotherWidthIsRefused) {
  Random random(7);
  const absl::StatusOr<Projector> projector = Projector::Make(RandomPolytope(4, 3, random));
  ASSERT_TRUE(projector.ok());
  Vector y = {1, std::numeric_limits<float>::quiet_NaN(), 0, 0};
  EXPECT_THAT(std::string(projector->Project(y).status().message()), HasSubstr("not finite"));
  Vector narrow = {1, 2};
  EXPECT_THAT(std::string(projector->Project(narrow).status().message()), HasSubstr("width 4"));
}

}  // namespace
}  // namespace omni
