// The windowed attention mixer of one layer, over all rows of a pass. Internal to the decoder.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/decode/pass.h"
#include "engine/decode/rope.h"
#include "engine/decode/scratch.h"
#include "engine/model/weights.h"

namespace omni {

// x += W_o attention. Query head j reads key/value head j / (H / H_kv). The token at position p writes its
// rotated key and its value, rounded to fp16, into ring slot p mod W, and then attends to slots 0 .. min(p +
// 1, W) - 1 in slot order (so its sums run over slots, not over ages). Per segment and key/value head the
// tokens run in order; different ones are independent. Rows aside come before their session's own, and what
// they write is written over, or taken back.
class AttentionMixer {
 public:
  explicit AttentionMixer(Pass& pass);
  void Begin();  // angles for the pass's rows
  void Run(const LayerWeights& layer, LayerId id);

 private:
  struct Users {  // of one state: segments [begin, end)
    size_t begin, end;
  };

  void RunHead(const Users& users, LayerId id, int64_t kv_head, float* scores, uint16_t* kept);
  void RunSegment(const Segment& segment, LayerId id, int64_t kv_head, float* scores);

  Pass& pass_;
  const RopeAngles angles_;
  const int64_t width_, kv_width_;  // strides of query/output rows and of key or value rows
  const float scale_;               // 1 / sqrt(h), the root and the quotient rounded to float
  std::vector<Users> states_;
  Scratch<float> cos_, sin_, q_, k_, v_, out_, scores_;
  Scratch<uint16_t> kept_;
};

}  // namespace omni
