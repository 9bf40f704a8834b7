// All that a session is between two steps: what it takes to go on with it later, elsewhere, or twice.
#pragma once

#include <future>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <absl/status/statusor.h>

#include "actors/generate.h"
#include "engine/around/context_stage.h"
#include "engine/model/session_state.h"

namespace omni {

// Going on from a snapshot gives the tokens that the session itself would have given: the sampler's position
// is the number of tokens, and what the stop matcher holds back follows from the tokens generated. Immutable
// once shared.
struct SessionSnapshot {
  // As it was asked, without prompt, caller and cancel. Whoever goes on may change it: other settings, other
  // stops, a max_tokens that counts on from `generated`. Its adapter is the one that the state was computed
  // with.
  GenerateRequest request;
  std::vector<TokenId> tokens;  // prompt and generated
  int64_t generated = 0;        // of them, the last ones that were generated
  SessionState state;           // has seen the first state.position() tokens
  // Its memory of contexts, if it had one; bytes do not hold it. Without it, it comes about again when the
  // tokens are read again.
  std::shared_ptr<const SessionContexts> contexts = nullptr;

  // The same at this moment; the state is copied.
  SessionSnapshot Clone() const;

  // Versioned bytes with a checksum (docs/formats/session.md). `model_hash`: 32 hex digits; Restore refuses
  // the bytes of another model, and bytes that are cut, altered or of another version.
  std::string Save(std::string_view model_hash) const;
  static absl::StatusOr<SessionSnapshot> Restore(const ModelConfig& config, std::string_view model_hash,
                                                 std::string_view bytes);
};
using SnapshotPtr = std::shared_ptr<const SessionSnapshot>;
using SnapshotPromise = std::promise<absl::StatusOr<SnapshotPtr>>;

}  // namespace omni
