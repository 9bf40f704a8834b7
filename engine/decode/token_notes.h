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

// A memory of texts was asked, because perspectives disagreed and no two named the same token.
struct RecallNote {
  bool found = false;  // the token is the memory's
  int32_t words = 0;   // of the text's last ones, that were the key
  int32_t begun = 0;   // bytes of the recalled value that the text had already
  int32_t votes = 0;   // of the memory's 64 tables, for where it was found: how like the stored key is
};

struct TokenNotes {
  std::optional<SafetyNote> safety;
  std::optional<ContextNote> contexts;
  std::optional<RecallNote> recall;
};

}  // namespace omni
