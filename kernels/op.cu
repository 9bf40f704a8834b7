// The launches of kernels/device/device.h, and the runtime behind them.
#ifdef __CUDACC__
#include <cuda_runtime.h>
#endif

#include <cstdio>

#include "kernels/device/ffn.cuh"
#include "kernels/device/mixers.cuh"
#include "kernels/device/norms.cuh"
#include "kernels/device/products.cuh"
#include "kernels/device/routes.cuh"
#include "kernels/device/sampling.cuh"
#include "kernels/device/table.h"

namespace omni::kernels::device {
namespace {

static_assert(kMaxNormed <= 4 * kFoursOfMany * kFoursThreads);

unsigned Blocks(int64_t items, int64_t per_block) {
  return static_cast<unsigned>((items + per_block - 1) / per_block);
}
dim3 Grid(unsigned x, int64_t y = 1) { return dim3{x, static_cast<unsigned>(y), 1}; }
dim3 Threads(int64_t x) { return dim3{static_cast<unsigned>(x), 1, 1}; }
int64_t RoundUp(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

Failure Of(cudaError_t error) { return {static_cast<int>(error)}; }
cudaStream_t S(Stream stream) { return static_cast<cudaStream_t>(stream); }
cudaEvent_t E(Event event) { return static_cast<cudaEvent_t>(event); }

// How many warps share a group: as long as each of them has a full load of all its lanes.
int Split(int64_t num_blocks) {
  const int64_t chunks = 4 * num_blocks;
  int split = 1;
  while (split < kProductWarps && chunks >= 2 * split * kWarpLanes * kAhead) split *= 2;
  return split;
}

}  // namespace

const char* FailureText(Failure failure) {
  return cudaGetErrorString(static_cast<cudaError_t>(failure.code));
}

int Count() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}
Failure Use(int device) {
#ifdef OMNI_LAUNCHES_EARLY  // there is code for devices that do
  int major = 0;
  launches_early =
      cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess && major >= 9;
#endif
  return Of(cudaSetDevice(device));
}
Failure Describe(int device, Properties* properties) {
  cudaDeviceProp is{};
  if (const Failure failure = Of(cudaGetDeviceProperties(&is, device))) return failure;
  std::snprintf(properties->name, sizeof(properties->name), "%.*s",
                static_cast<int>(sizeof(properties->name)) - 1, is.name);
  properties->major = is.major;
  properties->minor = is.minor;
  properties->processors = is.multiProcessorCount;
  size_t free_bytes = 0, bytes = 0;
  const Failure failure = Of(cudaMemGetInfo(&free_bytes, &bytes));
  properties->memory_bytes = static_cast<int64_t>(bytes);
  properties->free_bytes = static_cast<int64_t>(free_bytes);
  return failure;
}

Failure Allocate(int64_t bytes, void** memory) { return Of(cudaMalloc(memory, static_cast<size_t>(bytes))); }
void Free(void* memory) { static_cast<void>(cudaFree(memory)); }
Failure AllocatePinned(int64_t bytes, void** memory) {
  return Of(cudaMallocHost(memory, static_cast<size_t>(bytes)));
}
void FreePinned(void* memory) { static_cast<void>(cudaFreeHost(memory)); }
Failure NewStream(Stream* stream) {
  cudaStream_t made = nullptr;
  const Failure failure = Of(cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking));
  *stream = made;
  return failure;
}
void DeleteStream(Stream stream) { static_cast<void>(cudaStreamDestroy(S(stream))); }
Failure NewEvent(Event* event) {
  cudaEvent_t made = nullptr;
  const Failure failure = Of(cudaEventCreate(&made));
  *event = made;
  return failure;
}
void DeleteEvent(Event event) { static_cast<void>(cudaEventDestroy(E(event))); }
Failure Record(Event event, Stream stream) { return Of(cudaEventRecord(E(event), S(stream))); }
Failure Await(Event event) { return Of(cudaEventSynchronize(E(event))); }
Failure WaitFor(Stream stream, Event event) { return Of(cudaStreamWaitEvent(S(stream), E(event), 0)); }
Failure Milliseconds(Event from, Event to, float* ms) { return Of(cudaEventElapsedTime(ms, E(from), E(to))); }
Failure CopyIn(void* device, const void* host, int64_t bytes, Stream stream) {
  return Of(cudaMemcpyAsync(device, host, static_cast<size_t>(bytes), cudaMemcpyHostToDevice, S(stream)));
}
Failure CopyOut(void* host, const void* device, int64_t bytes, Stream stream) {
  return Of(cudaMemcpyAsync(host, device, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost, S(stream)));
}
Failure CopyWithin(void* to, const void* from, int64_t bytes, Stream stream) {
  return Of(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToDevice, S(stream)));
}
Failure Zero(void* memory, int64_t bytes, Stream stream) {
  return Of(cudaMemsetAsync(memory, 0, static_cast<size_t>(bytes), S(stream)));
}
Failure Synchronize(Stream stream) {
  const Failure launch = Of(cudaGetLastError());
  const Failure work = Of(cudaStreamSynchronize(S(stream)));
  return launch ? launch : work;
}
Failure BeginGraph(Stream stream) {
  return Of(cudaStreamBeginCapture(S(stream), cudaStreamCaptureModeRelaxed));
}
Failure EndGraph(Stream stream, Graph* graph) {
  cudaGraph_t made = nullptr;
  if (const Failure failure = Of(cudaStreamEndCapture(S(stream), &made))) return failure;
  cudaGraphExec_t ready = nullptr;
  const Failure failure = Of(cudaGraphInstantiate(&ready, made, 0));
  static_cast<void>(cudaGraphDestroy(made));
  *graph = ready;
  return failure;
}
Failure Launch(Graph graph, Stream stream) {
  return Of(cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph), S(stream)));
}
void DeleteGraph(Graph graph) {
  static_cast<void>(cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph)));
}

void Embed(const Int8Matrix& embedding, const float* scale, const int32_t* tokens, int n, int64_t d, float* x,
           int64_t x_stride, Stream stream) {
  OMNI_LAUNCH_LATE(EmbedKernel, Grid(Blocks(d, 128), n), Threads(128), 0, stream, embedding, scale, tokens, d,
                   x, x_stride);
}

void NormQuantize(const float* x, int64_t x_stride, const float* gain, int n, int64_t d, int64_t d_pad,
                  float* h, int64_t h_stride, const Quantized& q, uint32_t* clear_bits, int32_t* clear_sums,
                  Stream stream) {
  const int64_t padded = RoundUp(d, kNormPadding), bytes = padded * static_cast<int64_t>(sizeof(float));
  const auto by_fours = [](const void* address, int64_t stride, uintptr_t alignment) {
    return reinterpret_cast<uintptr_t>(address) % alignment == 0 && stride % 4 == 0;
  };
  const bool fours = d % 4 == 0 && d_pad % 4 == 0 && by_fours(x, x_stride, sizeof(float4)) &&
                     by_fours(gain, 0, sizeof(float4)) && by_fours(h, h_stride, sizeof(float4)) &&
                     by_fours(q.q, q.stride, sizeof(uint32_t));
  auto* kernel = !fours                                 ? &NormQuantizeKernel
                 : padded <= 4 * kFours * kFoursThreads ? &NormQuantizeFoursKernel<kFours>
                                                        : &NormQuantizeFoursKernel<kFoursOfMany>;
  OMNI_LAUNCH(kernel, Grid(static_cast<unsigned>(n)), Threads(fours ? kFoursThreads : kNormThreads), bytes,
              stream, x, x_stride, gain, static_cast<int>(d), static_cast<int>(d_pad), h, h_stride, q,
              clear_bits, clear_sums);
}

void QuantizeKnown(const float* x, int64_t x_stride, int n, int64_t n_padded, const uint32_t* largest,
                   const Quantized& q, Stream stream) {
  OMNI_LAUNCH(QuantizeKnownKernel, Grid(Blocks(n_padded, kQuantizeThreads * kQuantizeEach), n),
              Threads(kQuantizeThreads), 0, stream, x, x_stride, n_padded, largest, q);
}

void TwoBit(const TwoBitProducts& products, const Quantized& x, int n, Stream stream) {
  int64_t groups = 0;
  for (int i = 0; i < products.count; ++i) groups += products.of[i].m.num_groups;
  const int split = Split(products.of[0].m.num_blocks);
  const unsigned blocks = Blocks(groups, kProductWarps / split);
  const dim3 threads = Threads(kProductWarps * kWarpLanes);
  if (n == 1) {
    auto* kernel = &TwoBitKernel<1>;
    OMNI_LAUNCH(kernel, Grid(blocks), threads, 0, stream, products, x, n, split);
  } else if (n <= 4) {
    auto* kernel = &TwoBitKernel<4>;
    OMNI_LAUNCH(kernel, Grid(blocks), threads, 0, stream, products, x, n, split);
  } else {
    auto* kernel = &TwoBitKernel<8>;
    OMNI_LAUNCH(kernel, Grid(blocks, Blocks(n, 8)), threads, 0, stream, products, x, n, split);
  }
}

void Ternary(const TernaryMatrix& m, const Quantized& x, int n, const Output& out, Stream stream) {
  const int split = Split(m.num_blocks);
  const unsigned blocks = Blocks(m.num_groups, kProductWarps / split);
  const dim3 threads = Threads(kProductWarps * kWarpLanes);
  if (n == 1) {
    auto* kernel = &TernaryKernel<1>;
    OMNI_LAUNCH(kernel, Grid(blocks), threads, 0, stream, m, x, n, out, split);
  } else if (n <= 4) {
    auto* kernel = &TernaryKernel<4>;
    OMNI_LAUNCH(kernel, Grid(blocks), threads, 0, stream, m, x, n, out, split);
  } else {
    auto* kernel = &TernaryKernel<8>;
    OMNI_LAUNCH(kernel, Grid(blocks, Blocks(n, 8)), threads, 0, stream, m, x, n, out, split);
  }
}

void Int8(const Int8Matrix& m, const Quantized& x, int n, const Output& out, Stream stream) {
  const unsigned blocks = Blocks(m.rows, kProductWarps);
  const dim3 threads = Threads(kProductWarps * kWarpLanes);
  if (n == 1) {
    auto* kernel = &Int8Kernel<1>;
    OMNI_LAUNCH(kernel, Grid(blocks), threads, 0, stream, m, x, n, out);
  } else {
    auto* kernel = &Int8Kernel<8>;
    OMNI_LAUNCH(kernel, Grid(blocks, Blocks(n, 8)), threads, 0, stream, m, x, n, out);
  }
}

void GateUp(const TwoBitMatrix& gate, const TwoBitMatrix& up, const float* gate_scale, const float* up_scale,
            const Quantized& x, int n, int64_t f, float* a, int64_t a_stride, uint32_t* largest,
            Stream stream) {
  const unsigned blocks = static_cast<unsigned>(gate.num_groups);
  const dim3 threads = Threads(kPairGroups * kWarpLanes);
  if (n == 1) {
    auto* kernel = &GateUpKernel<1>;
    OMNI_LAUNCH(kernel, Grid(blocks), threads, 0, stream, gate, up, gate_scale, up_scale, x, n, f, a,
                a_stride, largest);
  } else {
    auto* kernel = &GateUpKernel<8>;
    OMNI_LAUNCH(kernel, Grid(blocks, Blocks(n, 8)), threads, 0, stream, gate, up, gate_scale, up_scale, x, n,
                f, a, a_stride, largest);
  }
}

void ExpertGateUp(const Experts& experts, const int32_t* routes, const Quantized& x, int n, float* a,
                  int64_t a_stride, uint32_t* largest, Stream stream) {
  const unsigned blocks = static_cast<unsigned>(experts.tiles * kPairs);
  const dim3 threads = Threads(kPairGroups * kWarpLanes);
  if (experts.only >= 0) {  // its tiles come by another stream
    auto* kernel = n == 1 ? &ExpertGateUpKernel<1> : &ExpertGateUpKernel<4>;
    OMNI_LAUNCH_LATE(kernel, Grid(blocks, n), threads, 0, stream, experts, routes, x, n, a, a_stride,
                     largest);
  } else if (n == 1) {
    auto* kernel = &ExpertGateUpKernel<1>;
    OMNI_LAUNCH(kernel, Grid(blocks), threads, 0, stream, experts, routes, x, n, a, a_stride, largest);
  } else {
    auto* kernel = &ExpertGateUpKernel<4>;
    OMNI_LAUNCH(kernel, Grid(blocks, n), threads, 0, stream, experts, routes, x, n, a, a_stride, largest);
  }
}

void ExpertDown(const Experts& experts, const int32_t* routes, const Quantized& a, int n, float* x,
                int64_t x_stride, Stream stream) {
  const unsigned blocks = Blocks(experts.d, kTernaryRows);
  const dim3 threads = Threads(kProductWarps * kWarpLanes);
  if (n == 1) {
    auto* kernel = &ExpertDownKernel<1>;
    OMNI_LAUNCH(kernel, Grid(blocks), threads, 0, stream, experts, routes, a, n, x, x_stride);
  } else {
    auto* kernel = &ExpertDownKernel<4>;
    OMNI_LAUNCH(kernel, Grid(blocks, n), threads, 0, stream, experts, routes, a, n, x, x_stride);
  }
}

void PdrStep(const PdrInputs& in, const Segment* segments, const Stretch* stretches, int num_stretches,
             float* out, int64_t out_stride, Stream stream) {
  const dim3 grid = Grid(Blocks(in.d, kPdrThreads / kLanes), num_stretches), threads = Threads(kPdrThreads);
  if (in.r <= 4 * kLanes) {
    auto* kernel = &PdrStepKernel<4>;
    OMNI_LAUNCH(kernel, grid, threads, 0, stream, in, segments, stretches, out, out_stride);
  } else if (in.r <= 16 * kLanes) {
    auto* kernel = &PdrStepKernel<16>;
    OMNI_LAUNCH(kernel, grid, threads, 0, stream, in, segments, stretches, out, out_stride);
  } else {
    auto* kernel = &PdrStepKernel<0>;
    OMNI_LAUNCH(kernel, grid, threads, 0, stream, in, segments, stretches, out, out_stride);
  }
}

void PdrNormalize(const PdrInputs& in, const Segment* segments, const Stretch* stretches, int num_stretches,
                  float* norms, Stream stream) {
  OMNI_LAUNCH(PdrNormalizeKernel, Grid(static_cast<unsigned>(num_stretches)), Threads(512), 0, stream, in,
              segments, stretches, norms);
}

void RotateRows(const Attention& a, int n, Stream stream) {
  OMNI_LAUNCH(RotateRowsKernel, Grid(static_cast<unsigned>(a.heads + 2 * a.kv_heads), n), Threads(64), 0,
              stream, a);
}

void Attend(const Attention& a, const Segment* segments, const int32_t* row_segment, int n, float* out,
            int64_t out_stride, Stream stream) {
  dim3 grid = Grid(Blocks(a.window, kScorePositions), a.kv_heads);
  grid.z = static_cast<unsigned>(n);
  OMNI_LAUNCH(AttendScoresKernel, grid, Threads(kScoreThreads),
              a.heads / a.kv_heads * a.h * static_cast<int64_t>(sizeof(float)), stream, a, segments,
              row_segment);
  grid.x = Blocks(a.h, kValueColumns);
  grid.y = static_cast<unsigned>(a.heads);
  OMNI_LAUNCH(AttendValuesKernel, grid, Threads(kValueThreads),
              a.window * static_cast<int64_t>(sizeof(float)), stream, a, segments, row_segment, out,
              out_stride);
}

void StoreRing(const Attention& a, const Segment* segments, int num_segments, int longest, Stream stream) {
  const int64_t rows = a.window < longest ? a.window : longest;
  const int64_t threads = RoundUp(a.kv_heads * a.h, kWarpLanes);
  OMNI_LAUNCH(StoreRingKernel, Grid(static_cast<unsigned>(rows), num_segments),
              Threads(threads < 256 ? threads : 256), 0, stream, a, segments);
}

void AddRows(float* x, const float* y, int64_t stride, int n, int64_t d, Stream stream) {
  OMNI_LAUNCH(AddRowsKernel, Grid(Blocks(d, 128), n), Threads(128), 0, stream, x, y, stride, d);
}

void SlowStep(const Segment* segments, int num_segments, int64_t offset, const float* h, int64_t h_stride,
              int64_t layers, int64_t layer_stride, int64_t d, float rate, float* before, Stream stream) {
  dim3 grid = Grid(Blocks(d, 128), num_segments);
  grid.z = static_cast<unsigned>(layers);
  OMNI_LAUNCH(SlowStepKernel, grid, Threads(128), 0, stream, segments, offset, h, h_stride, layer_stride, d,
              rate, before);
}

void Route(const Router& router, const float* seen, int64_t seen_stride, const int32_t* tokens, int n,
           int32_t* routes, Stream stream) {
  OMNI_LAUNCH(RouteKernel, Grid(static_cast<unsigned>(n)), Threads(kRouteThreads), 0, stream, router, seen,
              seen_stride, tokens, routes);
}

void RouteAhead(const RouterAhead* routers, int count, const Segment* segment, const int32_t* token,
                int32_t* routes, Stream stream) {
  OMNI_LAUNCH(RouteAheadKernel, Grid(static_cast<unsigned>(count)), Threads(kRouteThreads), 0, stream,
              routers, segment, token, routes);
}

void Gather(const uint8_t* const* from, int64_t count, int64_t bytes, uint8_t* to, int64_t to_stride,
            Stream stream) {
  OMNI_LAUNCH_LATE(GatherKernel, Grid(kGatherBlocks), Threads(kGatherThreads), 0, stream, from, count, bytes,
                   to, to_stride);
}

void ArgMax(const float* logits, int64_t stride, int64_t vocab, int n, int32_t* tokens, Stream stream) {
  OMNI_LAUNCH(ArgMaxKernel, Grid(static_cast<unsigned>(n)), Threads(kArgMaxThreads), 0, stream, logits,
              stride, vocab, tokens);
}

void Sample(const float* logits, int64_t stride, int64_t vocab, int n, const Draw* draws, float* scratch,
            int32_t* tokens, Stream stream) {
  OMNI_LAUNCH(SampleKernel, Grid(static_cast<unsigned>(n)), Threads(kSampleThreads), 0, stream, logits,
              stride, vocab, draws, scratch, tokens);
}

}  // namespace omni::kernels::device

// What a shared library of this file is found by.
extern "C" __attribute__((visibility("default"))) const omni::kernels::device::Table* omni_device_table() {
#define OMNI_DEVICE_POINTER(name) &omni::kernels::device::name,
  static const omni::kernels::device::Table table = {omni::kernels::device::kTableVersion, 0,
                                                     omni::kernels::device::kTableShape,
                                                     OMNI_DEVICE_FUNCTIONS(OMNI_DEVICE_POINTER)};
#undef OMNI_DEVICE_POINTER
  return &table;
}
