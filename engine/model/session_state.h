// The recurrent and key/value state of one sequence: all a session must keep to go on bit-identically.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "engine/model/config.h"

namespace omni {

class SessionState;

// What a state is while a device keeps it; it goes with the state that it is of.
class StateElsewhere {
 public:
  virtual ~StateElsewhere() = default;
  // Writes what there is into `state`. Unavailable: it is lost.
  virtual absl::Status Fetch(SessionState& state) = 0;
};

class SessionState {
 public:
  // `config` is valid. Zero state at position 0. Throws std::bad_alloc.
  explicit SessionState(const ModelConfig& config);
  SessionState(SessionState&&) = default;
  SessionState& operator=(SessionState&&) = default;
  // An independent copy. A state is hundreds of megabytes at full size: only whoever names it gets one.
  SessionState Clone() const { return SessionState(*this); }
  // Becomes such a copy, in the memory that it has.
  void CopyFrom(const SessionState& other) { *this = other; }
  // A copy for rows aside (decoder.h), also once the session's own next token has been computed: keys and
  // values, hundreds of megabytes at full size, stay this one's, which must be there as long as it is used.
  SessionState Recurrent();
  // Becomes that of `other`, in the memory that it has.
  void CopyRecurrent(SessionState& other);

  int64_t position() const { return position_; }  // tokens consumed so far
  void set_position(int64_t p) { position_ = p; }
  void Reset();  // as freshly made

  // Between passes a decoder may keep all but the position elsewhere. What is here is then old: BringHome
  // comes before whatever reads, copies or saves it. A copy has nothing elsewhere. BringHome's errors are
  // Fetch's, and leave things as they are.
  StateElsewhere* elsewhere() const { return own_.there.get(); }
  std::shared_ptr<StateElsewhere> shared_elsewhere() const { return own_.there; }
  void set_elsewhere(std::shared_ptr<StateElsewhere> there) { own_.there = std::move(there); }
  absl::Status BringHome();

  float* pdr(LayerId layer);   // S, [d, r], row-major; PDR layers only
  float* slow(LayerId layer);  // u, [d]; PDR layers of a config that has a slow state only
  // fp16 ring buffers of an attention layer: [H_kv, W, h], slot = position % W.
  uint16_t* keys(LayerId layer);
  uint16_t* values(LayerId layer);

  int64_t bytes() const;
  // bytes() of a state that need not be made; `config` is valid.
  static int64_t BytesFor(const ModelConfig& config);
  // True if every dimension and every constant that gives the state its meaning is the config's.
  bool Fits(const ModelConfig& config) const;

  // Versioned bytes with a checksum (docs/formats/session_state.md); Restore rejects other models', cut or
  // altered bytes. Two models of one config are told apart by whoever keeps the bytes (by the model's hash),
  // not here.
  std::string Save() const;
  static absl::StatusOr<SessionState> Restore(const ModelConfig& config, const std::string& bytes);

 private:
  SessionState(const ModelConfig& config, bool with_keys);
  SessionState(const SessionState&) = default;
  SessionState& operator=(const SessionState&) = default;

  // Not copied with the state.
  struct Own {
    Own() = default;
    Own(const Own&) {}
    Own(Own&&) = default;
    Own& operator=(const Own& other) {
      if (this != &other) there = nullptr;
      return *this;
    }
    Own& operator=(Own&&) = default;
    std::shared_ptr<StateElsewhere> there;
  };

  ModelConfig config_;
  int64_t position_ = 0;
  std::vector<float> pdr_, slow_;
  std::vector<uint16_t> kv_;
  uint16_t* kv_of_other_ = nullptr;   // what stands in for kv_
  std::vector<int64_t> offset_;       // per layer, into pdr_ or kv_
  std::vector<int64_t> slow_offset_;  // per layer, into slow_
  Own own_;
};

}  // namespace omni
