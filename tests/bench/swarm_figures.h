// What the measurements of a swarm share: how their figures are made, and how they give up.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include <absl/status/status.h>
#include <nlohmann/json.hpp>

namespace omni::bench {

using Clock = std::chrono::steady_clock;

double Micros(std::chrono::nanoseconds t);
double Millis(std::chrono::nanoseconds t);

// 0 of none.
double Median(std::vector<double> values);
double Quantile(std::vector<double> values, double share);
// {first, third quartile}.
nlohmann::json Quartiles(const std::vector<double>& values);

// Ends the program: a measurement that could not be made has no figure.
[[noreturn]] void Fail(const std::string& what);
void Check(const absl::Status& status);

}  // namespace omni::bench
