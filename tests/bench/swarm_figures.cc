#include "tests/bench/swarm_figures.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>

namespace omni::bench {

double Micros(std::chrono::nanoseconds t) { return static_cast<double>(t.count()) / 1e3; }
double Millis(std::chrono::nanoseconds t) { return static_cast<double>(t.count()) / 1e6; }

double Median(std::vector<double> values) { return Quantile(std::move(values), 0.5); }

double Quantile(std::vector<double> values, double share) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[std::min(values.size() - 1, static_cast<size_t>(share * static_cast<double>(values.size())))];
}

nlohmann::json Quartiles(const std::vector<double>& values) {
  return {Quantile(values, 0.25), Quantile(values, 0.75)};
}

void Fail(const std::string& what) {
  std::fprintf(stderr, "%s: %s\n", program_invocation_short_name, what.c_str());
  std::exit(1);
}

void Check(const absl::Status& status) {
  if (!status.ok()) Fail(std::string(status.message()));
}

}  // namespace omni::bench
