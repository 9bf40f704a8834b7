// The values that a setting may have, said once for whoever checks it.
#pragma once

#include <string>

#include <absl/strings/str_cat.h>

namespace omni {

template <typename T>
struct Range {
  T low{}, high{};
  bool above_low = false;  // low itself is outside

  // False for NaN.
  constexpr bool Has(T value) const { return (above_low ? value > low : value >= low) && value <= high; }
  // To be read after "a number": "from 0 to 1", "above 0, up to 1".
  std::string Text() const {
    return absl::StrCat(above_low ? "above " : "from ", low, above_low ? ", up to " : " to ", high);
  }
};

}  // namespace omni
