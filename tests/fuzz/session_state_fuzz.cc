// A session's saved state: what is accepted is saved as the same bytes, and nothing is made for bytes that
// are refused.
#include "engine/model/session_state.h"

#include <cstring>

#include "tests/fuzz/fuzz.h"

namespace omni::fuzz {

const int kRuns = 200000;

namespace {

constexpr size_t kHeaderBytes = 48, kFingerprintEnd = 24;

ModelConfig SmallConfig() {
  ModelConfig c;
  c.layers = 3, c.attention_period = 2;
  c.d = 4, c.r = 2, c.f = 64, c.heads = 2, c.kv_heads = 1, c.window = 3, c.vocab = 257;
  return c;
}

// Valid, and its state is 69 GB.
ModelConfig HugeConfig() {
  ModelConfig c = SmallConfig();
  c.d = 65536, c.r = 65536, c.layers = 4;
  return c;
}

const std::string& Good() {
  static const std::string* const bytes = [] {
    SessionState state(SmallConfig());
    for (int i = 0; i < 8; ++i) state.pdr(LayerId(2))[i] = 0.5f * static_cast<float>(i);
    state.set_position(12345);
    return new std::string(state.Save());
  }();
  return *bytes;
}

void Check(const std::string& bytes) {
  const absl::StatusOr<SessionState> state = SessionState::Restore(SmallConfig(), bytes);
  if (!state.ok()) return RequireReadable(state.status());
  Require(state->position() >= 0, "a position is not negative");
  Require(state->Save() == bytes, "a state saves the bytes it was restored from");
}

}  // namespace

std::vector<std::string> Seeds() { return {Good(), SessionState(SmallConfig()).Save()}; }

}  // namespace omni::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace omni;
  using namespace omni::fuzz;
  const std::string input(View(data, size));
  Check(input);
  Check(WithChecksum(input));
  if (size >= kHeaderBytes)
    Check(WithChecksum(Good().substr(0, kFingerprintEnd) + input.substr(kFingerprintEnd)));
  const absl::Status huge = SessionState::Restore(HugeConfig(), WithChecksum(input)).status();
  RequireReadable(huge);
  return 0;
}
