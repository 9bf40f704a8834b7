// Names that come from files, as an error message may show them.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>

#include <absl/strings/escaping.h>
#include <absl/strings/str_cat.h>

namespace omni {

// 'name' on one line of printable ASCII: other bytes are escaped as in C, and after 64 bytes come three dots.
inline std::string Quoted(std::string_view name) {
  constexpr size_t kMaxShown = 64;
  const std::string shown = absl::CHexEscape({name.data(), std::min(name.size(), kMaxShown)});
  return absl::StrCat("'", shown, name.size() > kMaxShown ? "..." : "", "'");
}

}  // namespace omni
