// What the device's decoder puts on its stream: the layers of a pass, over rows and states that lie in the
// device's memory. Internal to it.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "engine/decode/device_memory.h"
#include "engine/decode/device_weights.h"
#include "engine/decode/rope.h"
#include "engine/model/session_state.h"

namespace omni {

class DevicePass;

// A session's states on the device: [recurrent layers][d, r], [recurrent layers][d] if there is a slow state,
// [attention layers][2][H_kv, W, h].
struct DeviceState final : public StateElsewhere {
  absl::Status Fetch(SessionState& state) override;
  DeviceBuffer bytes;
  std::shared_ptr<DevicePass*> pass;  // whose it is; points to null when that is gone
  float* pdr = nullptr;
  float* slow = nullptr;
  uint16_t* ring = nullptr;
  int64_t position = 0;  // of the session when this was its state
};

// Adjacent rows of one session.
struct DeviceRows {
  SessionState* state = nullptr;
  int32_t first_row = 0, count = 0;
  int64_t position = 0;
  bool stays = false;  // the state stays on the device after the pass
};

class DevicePass {
 public:
  static absl::StatusOr<std::unique_ptr<DevicePass>> Make(const ModelWeights& weights, DevicePool& pool,
                                                          int64_t max_rows);
  ~DevicePass();

  // A batch's tokens, segments and angles to the device; its states come along unless they are there already.
  absl::Status Begin(std::span<const TokenId> tokens, std::span<const DeviceRows> segments);
  void Embed();
  // Before Embed: the routes of a plain step's row in all layers, by its slow states, which stay as they are
  // until Hidden: the layers of this pass then ask no router. Of models that have slow states.
  void RouteAhead();
  // The mixer and second norm of a layer; of an attention layer the shared FFN too; of another one the
  // router, whose routes are then at routes(layer).
  void Layer(int64_t layer);
  void AddExperts(int64_t layer, const kernels::device::Experts& experts);
  void Hidden();                               // the final norm of all rows, into hidden_out
  void Logits(std::span<const int64_t> rows);  // of the hidden rows with these numbers, into logits_out
  // Puts the states that do not stay on their way back; once what was queued is done, TakeStates gives these
  // to their sessions, and leaves word in the others where they are.
  absl::Status StatesBack();
  void TakeStates();
  absl::Status Fetch(const DeviceState& there, SessionState& state);
  void AddOutputs();  // x += what is in outputs

  // The same shape of work: the launches of one can be repeated for the other.
  bool plain_step() const;  // one row, no renormalisation

  int32_t* routes(int64_t layer) const { return routes_.as<int32_t>() + layer * max_rows_; }
  int n() const { return n_; }
  int64_t state_bytes() const { return state_bytes_; }
  int64_t width() const { return width_; }
  kernels::device::Stream stream() const { return stream_; }
  // On the host, once what was queued is done.
  float* hidden_out() const { return hidden_host_.as<float>(); }      // [max_rows, width]
  float* logits_out() const { return logits_host_.as<float>(); }      // [max_rows, V]
  int32_t* routes_out() const { return routes_host_.as<int32_t>(); }  // [layers, max_rows]
  int8_t* q_out() const { return q_host_.as<int8_t>(); }  // [max_rows, width], an expert layer's input
  float* scale_out() const { return scale_host_.as<float>(); }
  float* outputs() const { return outputs_host_.as<float>(); }  // [max_rows, width]
  void CopyRoutes();                                            // of all layers
  void CopyExpertInputs();                                      // into q_out and scale_out
  void CopyHiddenOut();                                         // into hidden_out
  void CopyHiddenIn();  // what hidden_out holds now is the hidden rows
  // Routes by what is there now: the rows' residual streams, or the slow states of the segments. Waits.
  absl::StatusOr<std::vector<int32_t>> Guess(int64_t layer, bool from_slow, bool with_members);
  // RouteAhead, and waits for what it found, by layer: this pass asks no router either.
  absl::StatusOr<std::vector<int32_t>> KnownRoutes();
  // Where the router of the layer that is computed sees each row: [n, d]. Waits.
  absl::StatusOr<std::vector<float>> Seen();
  void SetRoutes(int64_t layer, std::span<const int32_t> routes);

 private:
  explicit DevicePass(const ModelConfig& config)
      : config_(config), angles_(config.rope_theta, config.head_dim()) {}
  absl::Status Allocate(DevicePool& pool, int64_t max_rows);
  absl::StatusOr<std::shared_ptr<DeviceState>> StateOf(SessionState& state);
  void SetStretches();
  absl::Status PutRouters(DevicePool& pool);
  void Pdr(int64_t layer);
  void Attention(int64_t layer);
  void SharedFfn(int64_t layer);
  kernels::device::Router RouterOf(int64_t layer, bool with_members) const;
  absl::Status StateIn(SessionState& state, const DeviceState& there);
  absl::Status ReserveStates(int64_t count);
  template <typename Copy>
  void ForState(SessionState& state, uint8_t* bytes, Copy copy) const;

  struct Round {
    int64_t first = 0, count = 0;
    bool normalizes = false;
  };

  const ModelConfig config_;
  RopeAngles angles_;
  DevicePool* pool_ = nullptr;
  DeviceWeights weights_;
  kernels::device::Stream stream_ = nullptr;
  int64_t max_rows_ = 0, width_ = 0, f_width_ = 0, kv_width_ = 0, rank_ = 0;
  float floor_ = 0, root_r_ = 0, score_scale_ = 0;
  int n_ = 0;
  bool routed_ahead_ = false;

  // The batch, in one piece here and there: tokens, the rows' segments, segments, stretches, cos, sin.
  PinnedBuffer batch_host_;
  DeviceBuffer batch_;
  struct Offsets {
    int64_t row_segment = 0, segments = 0, stretches = 0, cos = 0, sin = 0, bytes = 0;
  } at_;
  std::vector<DeviceRows> segments_;
  std::vector<Round> rounds_;
  int longest_ = 0;
  std::shared_ptr<DevicePass*> self_ = std::make_shared<DevicePass*>(this);
  std::vector<std::shared_ptr<DeviceState>> in_use_;  // by segment
  std::vector<std::shared_ptr<DeviceState>> spare_;   // of passes before, whose states went home
  int64_t state_bytes_ = 0;                           // of one
  PinnedBuffer states_host_;                          // on their way
  int64_t states_host_count_ = 0;

  DeviceBuffer floats_, q_bytes_, small_, routes_, logits_;
  // Of models with slow states: RouterAhead of each recurrent layer, and what one row's slow states are to
  // follow there, [recurrent layers, width].
  DeviceBuffer routers_, followed_;
  float *x_ = nullptr, *h_ = nullptr, *p_ = nullptr, *v_ = nullptr, *mix_ = nullptr, *k_ = nullptr,
        *kq_ = nullptr, *before_ = nullptr, *hidden_ = nullptr, *a_ = nullptr, *norms_ = nullptr,
        *outputs_ = nullptr, *scores_ = nullptr;
  uint16_t *keys_ = nullptr, *values_ = nullptr;
  kernels::device::Quantized q_, q2_, qa_;
  uint32_t *largest_ = nullptr, *score_largest_ = nullptr;
  PinnedBuffer hidden_host_, logits_host_, routes_host_, q_host_, scale_host_, outputs_host_;
};

}  // namespace omni
