// Which rows of a batch a thread takes through a layer. Internal to the decoder.
//
// Problem: a layer of a small model is a dozen products and loops of a few microseconds each. Threads that
// split every one of them between them mostly wait for each other. Solution: where a batch has rows enough of
// several sessions, it is cut into lanes; a thread takes a lane's rows through the whole layer alone. Rows
// share no sum, so their bytes do not tell how they were cut.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include <absl/functional/function_ref.h>

#include "engine/decode/ffn.h"
#include "engine/decode/mixer_attention.h"
#include "engine/decode/mixer_pdr.h"
#include "engine/decode/pass.h"
#include "engine/decode/slow_route.h"
#include "engine/decode/worker_pool.h"
#include "engine/model/weights.h"
#include "kernels/op.h"

namespace omni {

// What takes rows through a layer: all of a batch, or some of them beside others.
struct Lane {
  Lane(const ModelWeights& weights, WorkerPool& pool, const kernels::Ops& ops)
      : pass(weights, pool, ops), pdr(pass), attention(pass), ffn(pass) {}

  Pass pass;
  PdrMixer pdr;
  AttentionMixer attention;
  SharedFfn ffn;
  SlowRoute slow{pass};
  int64_t first_row = 0;  // of the batch
};

class Lanes {
 public:
  Lanes(const ModelWeights& weights, WorkerPool& pool, const kernels::Ops& ops)
      : whole_(weights, pool, ops) {}

  Lane& whole() { return whole_; }
  // Once a batch, when the whole one's segments are known and its buffers resized.
  void Cut();
  // run(lane) for every lane of the batch, beside each other; lanes are adjacent, and their rows numbered
  // from 0. If it is not cut, the whole one's products and loops are split between the threads.
  void For(absl::FunctionRef<void(Lane&)> run);

 private:
  Lane whole_;
  WorkerPool alone_{1};  // in a lane nothing is split
  std::vector<std::unique_ptr<Lane>> lanes_;
  size_t used_ = 0;  // of lanes_; 0: not cut
};

}  // namespace omni
