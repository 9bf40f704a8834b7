// Safety polytopes: where a hidden state may be.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <absl/status/status.h>

namespace omni {

inline constexpr int64_t kMostHalfSpaces = 4096, kMostPolytopes = 64;

// P = { y in R^d : n_j . y <= b_j + epsilon for every j }.
struct Polytope {
  std::string name;  // 1 .. 64 letters, digits, '.', '-' and '_'
  int64_t d = 0;
  float epsilon = 0;                // >= 0, in the hidden state's units
  std::vector<float> normals;       // n, [half-spaces, d] row-major, of length 1
  std::vector<float> bounds;        // b, [half-spaces]
  std::vector<std::string> labels;  // [half-spaces]: what each is there for, at most 255 bytes of UTF-8

  int64_t half_spaces() const { return static_cast<int64_t>(bounds.size()); }
  std::span<const float> normal(int64_t j) const { return {normals.data() + j * d, static_cast<size_t>(d)}; }
};

// Every count, name and number is as stated above; lengths of normals within 1e-5 of 1. Whether any point is
// inside is not asked here (safety_projection.h).
absl::Status CheckPolytope(const Polytope& polytope);

// v / |v| in double, rounded; false if the length is zero or not finite.
bool ScaleToUnit(std::span<float> v);

// Sum of a[i] * b[i] in double: 16 partial sums, element i to sum i mod 16, added pairwise (i with i + 8,
// then + 4, + 2, + 1). The same on every machine; so many keep the additions from waiting for each other.
double PreciseDot(const float* a, const float* b, int64_t n);

}  // namespace omni
