// What a memory of texts says of how a text goes on.
//
// The key is the end of the text: of its last words, for each of a few places where a key may have ended and
// each length up to kMostKeyWords, the memory is asked; what lies between that place and the text's end must
// be the beginning of what it recalls, for the text may stand in the middle of a value already:
//
//     ... where is the key of the boat house?            key up to "house", of the value nothing yet
//     ... where is the key of the boat house? Under the  key up to "house", of the value two words
//
// Of several that are recalled counts the one whose key is most like a stored one, of equals the longest.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "engine/around/text_memory.h"

namespace omni {

inline constexpr size_t kMostKeyWords = 12, kMostBegunWords = 8;
// Tables that must name the bank: what is put into a text is to be of a key that is nearly the same.
inline constexpr int64_t kFewestRecallVotes = 8;

struct Recollection {
  std::string rest;   // how the text goes on: of the value what it has not got yet, at most kMostRestBytes
  int64_t words = 0;  // of the key
  int64_t begun = 0;  // bytes of the value that the text ends with
  int64_t votes = 0;  // Recalled's
};
inline constexpr size_t kMostRestBytes = 256;

// Nothing: nothing is remembered of what the text ends with, or it has it all.
std::optional<Recollection> Recall(const TextMemory& memory, std::string_view text);

}  // namespace omni
