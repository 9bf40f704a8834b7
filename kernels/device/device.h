// One GPU, as the engine sees it: memory, streams, graphs and the token path's operations, each put on a
// stream. Plain C++: no CUDA header is needed to include this. Defined by kernels/op.cu, which is built by
// nvcc where that is (target omni_cuda), and in tests by the same file on fibers (tests/testing/simt.h).
//
// Pointers are the device's unless it is said otherwise, 16-byte aligned, and so are strides of bytes; rows
// are padded with zeros as in kernels/op.h. Launches return at once. An error that a launch or what was
// queued before it caused is returned by the next Synchronize. Results: integers are those of kernels/op.h;
// floats have the same bits too, since every reduction here has the law's shape. Calls of one stream come
// from one thread at a time.
#pragma once

#include <cstdint>

#include "kernels/op.h"

namespace omni::kernels::device {

// 0 is success; text is the runtime's own.
struct [[nodiscard]] Failure {
  int code = 0;
  explicit operator bool() const { return code != 0; }
};
const char* FailureText(Failure failure);
inline constexpr int kGone = 719;  // of a device: the runtime's own number for a launch that failed

struct Properties {
  char name[128] = {};
  int major = 0, minor = 0;  // compute capability
  int processors = 0;
  int64_t memory_bytes = 0, free_bytes = 0;
};
int Count();  // of devices; 0 without a driver too
Failure Use(int device);
Failure Describe(int device, Properties* properties);

using Stream = void*;
using Event = void*;
using Graph = void*;

Failure Allocate(int64_t bytes, void** memory);  // contents unset
void Free(void* memory);
Failure AllocatePinned(int64_t bytes, void** memory);  // of the host
void FreePinned(void* memory);
Failure NewStream(Stream* stream);
void DeleteStream(Stream stream);
Failure NewEvent(Event* event);
void DeleteEvent(Event event);
Failure Record(Event event, Stream stream);
Failure Await(Event event);                             // this thread waits for it
Failure WaitFor(Stream stream, Event event);            // what is queued afterwards waits
Failure Milliseconds(Event from, Event to, float* ms);  // both over
Failure CopyIn(void* device, const void* host, int64_t bytes, Stream stream);
Failure CopyOut(void* host, const void* device, int64_t bytes, Stream stream);
Failure CopyWithin(void* to, const void* from, int64_t bytes, Stream stream);
Failure Zero(void* memory, int64_t bytes, Stream stream);
Failure Synchronize(Stream stream);
// What is queued between becomes a graph and is not done.
Failure BeginGraph(Stream stream);
Failure EndGraph(Stream stream, Graph* graph);
Failure Launch(Graph graph, Stream stream);
void DeleteGraph(Graph graph);

// Rows of int8 with a scale each, and the sum of each row's elements.
struct Quantized {
  int8_t* q = nullptr;
  int64_t stride = 0;
  float* scale = nullptr;
  int32_t* sum = nullptr;
};

// What becomes of the sums of a product's rows: `sums`, if not null, takes them as they are; `y`, if not
// null, gets float(sum) * (x_scale * scale[i]), divided by `divisor` if that is not 0, put there or added.
struct Output {
  int32_t* sums = nullptr;
  float* y = nullptr;
  int64_t stride = 0;  // of sums and of y, in elements
  const float* scale = nullptr;
  int64_t rows = 0;  // no more than these are written
  float divisor = 0;
  bool add = false;
};

struct TwoBitProduct {
  TwoBitMatrix m;
  Output out;
};
inline constexpr int kMaxProducts = 4;
struct TwoBitProducts {
  TwoBitProduct of[kMaxProducts];
  int count = 0;
};

// The tiles of experts: tile t of expert e of a layer is at table[e * stride + t]; see TileLayout in
// engine/model/weights.h for what lies in one.
struct Experts {
  const uint8_t* const* table = nullptr;
  int64_t stride = 0;
  int64_t tiles = 0;
  int64_t d = 0, d_pad = 0;
  int64_t down_offset = 0, gate_scale_offset = 0, up_scale_offset = 0;
  int32_t only =
      -1;  // if not negative, the only expert whose rows are computed, and its tiles are at table[t]
  bool known = false;  // routes were there before Embed, so that tiles are asked for early
};

// Rows that follow each other in one session.
struct Segment {
  int32_t first_row = 0, count = 0;
  int64_t position = 0;  // of the first row
  int32_t slot = 0;      // position % window
  float* pdr = nullptr;  // of the first recurrent layer
  float* slow = nullptr;
  uint16_t* ring = nullptr;  // keys, then values of the first attention layer
};
// Tokens of a segment up to its end or to the next renormalisation.
struct Stretch {
  int32_t segment = 0, first_row = 0, count = 0, normalize = 0;
};

// The first launch of a pass but for RouteAhead.
void Embed(const Int8Matrix& embedding, const float* scale, const int32_t* tokens, int n, int64_t d, float* x,
           int64_t x_stride, Stream stream);

// h = rms_norm(x, gain), or x itself where gain is null; then its quantisation. h and q.q may be null. Of the
// first n elements of `clear_bits` and `clear_sums`, where they are not null, zeros are made. d: up to
// kMaxNormed.
inline constexpr int64_t kMaxNormed = 12000;
void NormQuantize(const float* x, int64_t x_stride, const float* gain, int n, int64_t d, int64_t d_pad,
                  float* h, int64_t h_stride, const Quantized& q, uint32_t* clear_bits, int32_t* clear_sums,
                  Stream stream);
// Quantises rows of n_padded elements whose largest magnitudes are known by their bits. q.sum must hold
// zeros.
void QuantizeKnown(const float* x, int64_t x_stride, int n, int64_t n_padded, const uint32_t* largest,
                   const Quantized& q, Stream stream);

// n rows of the batch, 1 .. kMaxRows.
inline constexpr int kMaxRows = 512;
void TwoBit(const TwoBitProducts& products, const Quantized& x, int n, Stream stream);
void Ternary(const TernaryMatrix& m, const Quantized& x, int n, const Output& out, Stream stream);
void Int8(const Int8Matrix& m, const Quantized& x, int n, const Output& out, Stream stream);

// a[i] = up_i * silu(gate_i) for f neurons, and the bits of each row's largest magnitude by maximum into
// `largest`. a_pad - f zeros follow.
void GateUp(const TwoBitMatrix& gate, const TwoBitMatrix& up, const float* gate_scale, const float* up_scale,
            const Quantized& x, int n, int64_t f, float* a, int64_t a_stride, uint32_t* largest,
            Stream stream);
// The same from the tiles of each row's expert: 64 * experts.tiles neurons. routes: by row.
void ExpertGateUp(const Experts& experts, const int32_t* routes, const Quantized& x, int n, float* a,
                  int64_t a_stride, uint32_t* largest, Stream stream);
// x += down(a) of each row's expert.
void ExpertDown(const Experts& experts, const int32_t* routes, const Quantized& a, int n, float* x,
                int64_t x_stride, Stream stream);

// One token's rows of PdrMixer, in place of Ops::decay and Ops::pdr_step: p, v [n, stride], k, q [n,
// k_stride], state rows at segments[].pdr + offset.
struct PdrInputs {
  const float *p = nullptr, *v = nullptr, *k = nullptr, *q = nullptr, *bias = nullptr;
  int64_t stride = 0, k_stride = 0;
  float floor = 0;
  int64_t d = 0, r = 0, offset = 0;
  bool early = false;  // no other launch of the pass writes these states
};
void PdrStep(const PdrInputs& in, const Segment* segments, const Stretch* stretches, int num_stretches,
             float* out, int64_t out_stride, Stream stream);
// Of those stretches that end in a renormalisation. norms: num_stretches * d floats.
void PdrNormalize(const PdrInputs& in, const Segment* segments, const Stretch* stretches, int num_stretches,
                  float* norms, Stream stream);

// Windowed attention. q, k, v: [n, stride] floats; cos, sin: [n, h / 2]. keys, values: [n, kv_heads * h]
// fp16, this batch's own; the ring of a layer is [2][kv_heads][window][h] at segments[].ring + offset.
struct Attention {
  float* q = nullptr;
  const float *k = nullptr, *v = nullptr, *cos = nullptr, *sin = nullptr;
  int64_t stride = 0, kv_stride = 0;
  uint16_t *keys = nullptr, *values = nullptr;
  int64_t heads = 0, kv_heads = 0, h = 0, window = 0, offset = 0;
  float scale = 0;
  // For Attend's own use: [n, heads, window], and [n, heads], which RotateRows clears.
  float* scores = nullptr;
  uint32_t* largest = nullptr;
};
inline constexpr int64_t kMaxWindow = 8192;
void RotateRows(const Attention& a, int n, Stream stream);  // q in place; k and v into keys and values
void Attend(const Attention& a, const Segment* segments, const int32_t* row_segment, int n, float* out,
            int64_t out_stride, Stream stream);
// After Attend. longest: no segment has more rows.
void StoreRing(const Attention& a, const Segment* segments, int num_segments, int longest, Stream stream);

// before[row] = u as it stood before the row, if before is not null; u follows. u of a layer is at
// segments[].slow + offset, of the layers after it d further each, whose h are layer_stride further each.
void SlowStep(const Segment* segments, int num_segments, int64_t offset, const float* h, int64_t h_stride,
              int64_t layers, int64_t layer_stride, int64_t d, float rate, float* before, Stream stream);
// The expert of each row whose router sees seen[row], as NearestExpert; then, if members is not null,
// expert_at[nearest * per_region + members[token]].
struct Router {
  const float *route = nullptr, *positions = nullptr, *bias = nullptr;
  const uint8_t* members = nullptr;
  const int32_t* expert_at = nullptr;
  int64_t experts = 0, per_region = 0, d = 0;
};
void Route(const Router& router, const float* seen, int64_t seen_stride, const int32_t* tokens, int n,
           int32_t* routes, Stream stream);

// Before Embed: the same for one row of a segment and for many layers at once, each by the slow state that it
// has at segment->slow + slow_offset; routes[to].
struct RouterAhead {
  Router router;
  int64_t slow_offset = 0, to = 0;
};
void RouteAhead(const RouterAhead* routers, int count, const Segment* segment, const int32_t* token,
                int32_t* routes, Stream stream);

// to + i * to_stride: the `bytes` at from[i], for i below count. `from`, and what its pointers say, may be
// pinned memory of the host: the device reads it over its link. bytes: a multiple of 16, as are addresses.
void Gather(const uint8_t* const* from, int64_t count, int64_t bytes, uint8_t* to, int64_t to_stride,
            Stream stream);

// x += y of n rows of d.
void AddRows(float* x, const float* y, int64_t stride, int n, int64_t d, Stream stream);

// The token of the largest logit of each row, as Sample with temperature 0 and no penalty chooses.
void ArgMax(const float* logits, int64_t stride, int64_t vocab, int n, int32_t* tokens, Stream stream);

// How a row's token is drawn: SamplerSettings (engine/text/sampler.h) and what belongs to the row. penalized:
// the distinct tokens of its window, none without a penalty. uniform: of the row's seed and position.
inline constexpr int kMaxTopK = 1024;
struct Draw {
  float temperature = 0, top_p = 1, min_p = 0, penalty = 1;
  int32_t top_k = 1;  // 1 .. kMaxTopK
  int32_t num_penalized = 0;
  const int32_t* penalized = nullptr;
  double uniform = 0;
};
// The token of each row that Sample chooses. scratch: n * vocab floats.
void Sample(const float* logits, int64_t stride, int64_t vocab, int n, const Draw* draws, float* scratch,
            int32_t* tokens, Stream stream);

}  // namespace omni::kernels::device
