// What the stages between hidden state and token (token_stage.h) did for a token, which is told with it.
#pragma once

#include <cstdint>
#include <optional>

namespace omni {

// A polytope was asked for.
struct SafetyNote {
  float distance = 0;       // that the hidden state was moved, Euclidean; 0: it was inside
  int32_t half_spaces = 0;  // on whose boundary it is then
};

// A memory of contexts was asked for.
struct ContextNote {
  float weight = 0;   // of what it recalled in the token's distribution; 0: it had no say
  int32_t order = 0;  // how many of the last tokens the recalled places share at most
};

struct TokenNotes {
  std::optional<SafetyNote> safety;
  std::optional<ContextNote> contexts;
};

}  // namespace omni
