// Text that comes in pieces of bytes, which may be cut in the middle of a character.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace omni {

// What of `pending` and `bytes` is whole, in UTF-8: bytes that are none become U+FFFD. What may be the
// beginning of a character stays in `pending`, at most three bytes.
std::string TakeUtf8(std::string_view bytes, std::string* pending);
// What is left when nothing more comes: U+FFFD, or nothing.
std::string EndUtf8(std::string* pending);
// The longest beginning of UTF-8 that has at most `most` bytes and is whole characters.
std::string_view WholeUtf8(std::string_view text, size_t most);

}  // namespace omni
