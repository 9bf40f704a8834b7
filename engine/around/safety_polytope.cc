#include "engine/around/safety_polytope.h"

#include <algorithm>
#include <cmath>

#include <absl/strings/ascii.h>
#include <absl/strings/str_cat.h>

#include "engine/base/quoted.h"

namespace omni {
namespace {

absl::Status Wrong(const Polytope& p, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat("polytope '", p.name, "': ", what));
}

bool IsName(const std::string& name) {
  return !name.empty() && name.size() <= 64 && std::all_of(name.begin(), name.end(), [](unsigned char c) {
    return absl::ascii_isalnum(c) || c == '.' || c == '-' || c == '_';
  });
}

}  // namespace

double PreciseDot(const float* a, const float* b, int64_t n) {
  double sums[16] = {};
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    for (int64_t j = 0; j < 16; ++j) sums[j] += static_cast<double>(a[i + j]) * static_cast<double>(b[i + j]);
  }
  for (; i < n; ++i) sums[i % 16] += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  for (int64_t half = 8; half > 0; half /= 2) {
    for (int64_t j = 0; j < half; ++j) sums[j] += sums[j + half];
  }
  return sums[0];
}

bool ScaleToUnit(std::span<float> v) {
  const double length = std::sqrt(PreciseDot(v.data(), v.data(), static_cast<int64_t>(v.size())));
  if (!(length > 1e-30) || !std::isfinite(length)) return false;
  for (float& x : v) x = static_cast<float>(static_cast<double>(x) / length);
  return true;
}

absl::Status CheckPolytope(const Polytope& p) {
  if (!IsName(p.name)) {
    return absl::InvalidArgumentError(
        "polytope: its name must have 1 to 64 letters, digits, '.', '-' or '_'; name it so");
  }
  const int64_t m = p.half_spaces();
  if (p.d < 1) return Wrong(p, absl::StrCat("its width is ", p.d, ", but must be at least 1"));
  if (m < 1 || m > kMostHalfSpaces)
    return Wrong(p, absl::StrCat("it has ", m, " half-spaces; 1 to ", kMostHalfSpaces, " are allowed"));
  if (static_cast<int64_t>(p.normals.size()) != m * p.d || static_cast<int64_t>(p.labels.size()) != m)
    return Wrong(p,
                 absl::StrCat("its normals or labels are not those of ", m, " half-spaces of width ", p.d));
  if (!(p.epsilon >= 0) || !std::isfinite(p.epsilon))
    return Wrong(p, absl::StrCat("its epsilon is ", p.epsilon, ", but must be 0 or more"));
  for (int64_t j = 0; j < m; ++j) {
    const auto at = static_cast<size_t>(j);
    if (p.labels[at].size() > 255)
      return Wrong(p, absl::StrCat("the label of half-space ", j, " has more than 255 bytes"));
    if (!std::isfinite(p.bounds[at])) return Wrong(p, absl::StrCat("bound ", j, " is not finite"));
    const double length = std::sqrt(PreciseDot(p.normal(j).data(), p.normal(j).data(), p.d));
    if (!(std::abs(length - 1) <= 1e-5))
      return Wrong(
          p, absl::StrCat("normal ", j, " (", Quoted(p.labels[at]), ") has length ", length, ", not 1"));
  }
  return absl::OkStatus();
}

}  // namespace omni
