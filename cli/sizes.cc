#include "cli/sizes.h"

#include <charconv>
#include <cmath>

#include <absl/strings/ascii.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

namespace omni::cli {
namespace {

constexpr std::string_view kUnits = "KMGT";

}  // namespace

absl::StatusOr<int64_t> ParseSize(std::string_view text) {
  const absl::Status bad = absl::InvalidArgumentError(
      absl::StrCat("'", std::string(text.substr(0, 40)),
                   "' is not a size; give a number of bytes, or one with K, M, G or T (powers of 1024), as "
                   "26G or 1.5G"));
  double value = 0;
  const char* end = text.data() + text.size();
  // No sign, no exponent, no "inf": digits and a point.
  if (text.empty() || !(absl::ascii_isdigit(static_cast<unsigned char>(text[0])) || text[0] == '.'))
    return bad;
  const auto [at, error] = std::from_chars(text.data(), end, value, std::chars_format::fixed);
  if (error != std::errc() || !std::isfinite(value)) return bad;
  std::string_view unit(at, static_cast<size_t>(end - at));
  if (!unit.empty()) {
    const size_t power = kUnits.find(absl::ascii_toupper(static_cast<unsigned char>(unit[0])));
    if (power == std::string_view::npos) return bad;
    unit.remove_prefix(1);
    if (!unit.empty() && unit != "iB" && unit != "ib") return bad;
    value = std::ldexp(value, 10 * (static_cast<int>(power) + 1));
  }
  if (value < 1 || value >= 0x1p62) return bad;
  return static_cast<int64_t>(value);
}

std::string SizeText(int64_t bytes) {
  if (bytes < 1024) return absl::StrCat(bytes, " B");
  auto value = static_cast<double>(bytes) / 1024;
  size_t unit = 0;
  // 1023.6 would be printed as 1024.
  for (; unit + 1 < kUnits.size() && value >= 1023.5; ++unit) value /= 1024;
  const int decimals = unit < 2 || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
  return absl::StrFormat("%.*f %ciB", decimals, value, kUnits[unit]);
}

}  // namespace omni::cli
