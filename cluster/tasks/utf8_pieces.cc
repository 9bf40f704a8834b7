#include "cluster/tasks/utf8_pieces.h"

#include <algorithm>
#include <cstdint>

namespace omni {
namespace {

constexpr char kReplacement[] = "\xEF\xBF\xBD";

// How long the character at the beginning is, if it is one; 0: it is none; less than 0: it may become one.
int Character(std::string_view bytes) {
  const auto first = static_cast<uint8_t>(bytes[0]);
  if (first < 0x80) return 1;
  if (first < 0xC2 || first > 0xF4) return 0;
  const size_t length = first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
  for (size_t i = 1; i < length; ++i) {
    if (i == bytes.size()) return -1;
    const auto next = static_cast<uint8_t>(bytes[i]);
    uint8_t least = 0x80, last = 0xBF;
    if (i == 1) {  // no longer than need be, no surrogates, none beyond U+10FFFF
      if (first == 0xE0) least = 0xA0;
      if (first == 0xED) last = 0x9F;
      if (first == 0xF0) least = 0x90;
      if (first == 0xF4) last = 0x8F;
    }
    if (next < least || next > last) return 0;
  }
  return static_cast<int>(length);
}

}  // namespace

std::string TakeUtf8(std::string_view bytes, std::string* pending) {
  const std::string joined = *pending + std::string(bytes);
  pending->clear();
  std::string out;
  out.reserve(joined.size());
  for (size_t at = 0; at < joined.size();) {
    const std::string_view rest = std::string_view(joined).substr(at);
    const int length = Character(rest);
    if (length < 0) {
      *pending = rest;
      break;
    }
    if (length == 0) {
      out += kReplacement;
      ++at;
    } else {
      out += rest.substr(0, static_cast<size_t>(length));
      at += static_cast<size_t>(length);
    }
  }
  return out;
}

std::string EndUtf8(std::string* pending) {
  if (pending->empty()) return {};
  pending->clear();
  return kReplacement;
}

std::string_view WholeUtf8(std::string_view text, size_t most) {
  size_t end = std::min(text.size(), most);
  if (end == text.size()) return text;
  while (end > 0 && (static_cast<uint8_t>(text[end]) & 0xC0) == 0x80) --end;
  return text.substr(0, end);
}

}  // namespace omni
