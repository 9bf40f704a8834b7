// Where byte-pair merges may reach: text is cut into pre-tokens, and no token crosses their borders.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace omni {

inline constexpr size_t kMaxPretokenBytes = 64;

enum class ByteClass : uint8_t { kLetter, kDigit, kSpace, kOther };

// Letters are A-Z, a-z and every byte >= 0x80; space is what C's isspace calls so in the "C" locale.
inline constexpr std::array<ByteClass, 256> kByteClass = [] {
  std::array<ByteClass, 256> classes{};
  for (int b = 0; b < 256; ++b) {
    const bool letter = (b >= 'a' && b <= 'z') || (b >= 'A' && b <= 'Z') || b >= 0x80;
    const bool digit = b >= '0' && b <= '9';
    const bool space = b == ' ' || (b >= '\t' && b <= '\r');
    classes[b] = letter  ? ByteClass::kLetter
                 : digit ? ByteClass::kDigit
                 : space ? ByteClass::kSpace
                         : ByteClass::kOther;
  }
  return classes;
}();

// The end of the pre-token that begins at `begin` < text.size(): a run of one class, at most 64 bytes of it.
// A ' ' before a run of another class belongs to that run instead of to the spaces before it. Looks at no
// more than 65 bytes.
inline size_t PretokenEnd(std::string_view text, size_t begin) {
  const auto class_at = [&](size_t i) { return kByteClass[static_cast<uint8_t>(text[i])]; };
  const size_t limit = std::min(text.size(), begin + kMaxPretokenBytes);
  size_t end = begin + 1;
  if (text[begin] == ' ' && end < limit && class_at(end) != ByteClass::kSpace) ++end;
  const ByteClass run = class_at(end - 1);
  while (end < limit && class_at(end) == run) ++end;
  const bool leads_next = run == ByteClass::kSpace && text[end - 1] == ' ' && end - begin > 1 &&
                          end < text.size() && class_at(end) != ByteClass::kSpace;
  return leads_next ? end - 1 : end;
}

}  // namespace omni
