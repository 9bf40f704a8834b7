#include "tests/testing/simt_runtime.h"

#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <map>
#include <utility>

struct SimtGraph {
  std::vector<std::function<void()>> work;
  int users = 1;
};
struct SimtStream {
  SimtGraph* recording = nullptr;
};
struct SimtEvent {
  std::chrono::steady_clock::time_point at;
};

namespace omni::simt {
namespace {

struct Mapping {
  void* map;
  size_t mapped, bytes;
};
std::map<void*, Mapping> mappings;
int64_t allocated = 0;
Machine machine;
int64_t launched = 0;
bool lost = false;

void Do(cudaStream_t stream, std::function<void()> work) {
  if (stream != nullptr && stream->recording != nullptr) {
    stream->recording->work.push_back(std::move(work));
  } else if (!lost) {
    work();
  }
}

cudaError_t State() { return lost ? cudaErrorLaunchFailure : cudaSuccess; }

}  // namespace

void SetMachine(const Machine& to) {
  machine = to;
  launched = 0;
  lost = false;
}
int64_t BytesAllocated() { return allocated; }

void Enqueue(void* stream, dim3 grid, dim3 block, int64_t dynamic_bytes, std::function<void()> thread) {
  Do(static_cast<cudaStream_t>(stream), [grid, block, dynamic_bytes, thread = std::move(thread)] {
    if (machine.launches_before_loss >= 0 && launched++ >= machine.launches_before_loss) lost = true;
    if (!lost) Launch(grid, block, dynamic_bytes, thread);
  });
}

}  // namespace omni::simt

using namespace omni::simt;

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorNoDevice:
      return "no CUDA-capable device is detected";
    case cudaErrorLaunchFailure:
      return "unspecified launch failure";
    case cudaErrorStreamCaptureInvalidated:
      return "operation failed due to a previous error during capture";
  }
  return "unknown error";
}
cudaError_t cudaGetDeviceCount(int* count) {
  *count = machine.devices;
  return machine.devices > 0 ? cudaSuccess : cudaErrorNoDevice;
}
cudaError_t cudaSetDevice(int device) { return device < machine.devices ? State() : cudaErrorNoDevice; }
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (device >= machine.devices) return cudaErrorNoDevice;
  std::strcpy(properties->name, "fibers");
  properties->multiProcessorCount = 1;
  return State();
}
cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* bytes) {
  *bytes = static_cast<size_t>(machine.memory_bytes);
  *free_bytes = static_cast<size_t>(machine.memory_bytes - allocated);
  return State();
}
cudaError_t cudaMalloc(void** memory, size_t bytes) {
  if (lost) return State();
  if (allocated + static_cast<int64_t>(bytes) > machine.memory_bytes) return cudaErrorMemoryAllocation;
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const size_t padded = (bytes + 15) / 16 * 16, readable = (padded + page - 1) / page * page;
  void* map = mmap(nullptr, readable + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (map == MAP_FAILED || mprotect(static_cast<char*>(map) + readable, page, PROT_NONE) != 0) {
    return cudaErrorMemoryAllocation;
  }
  *memory = static_cast<char*>(map) + readable - padded;
  std::memset(*memory, 0xcb, padded);  // unset, and not zero
  mappings[*memory] = {map, readable + page, bytes};
  allocated += static_cast<int64_t>(bytes);
  return cudaSuccess;
}
cudaError_t cudaFree(void* memory) {
  const auto it = mappings.find(memory);
  if (it == mappings.end()) return State();
  munmap(it->second.map, it->second.mapped);
  allocated -= static_cast<int64_t>(it->second.bytes);
  mappings.erase(it);
  return State();
}
cudaError_t cudaMallocHost(void** memory, size_t bytes) {
  *memory = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
  return *memory == nullptr ? cudaErrorMemoryAllocation : State();
}
cudaError_t cudaFreeHost(void* memory) {
  std::free(memory);
  return State();
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new SimtStream;
  return State();
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return State();
}
cudaError_t cudaEventCreate(cudaEvent_t* event) {
  *event = new SimtEvent;
  return State();
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return State();
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  Do(stream, [event] { event->at = std::chrono::steady_clock::now(); });
  return State();
}
cudaError_t cudaEventSynchronize(cudaEvent_t) { return State(); }
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t from, cudaEvent_t to) {
  *ms = std::chrono::duration<float, std::milli>(to->at - from->at).count();
  return State();
}
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return State(); }
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  Do(stream, [=] { std::memcpy(to, from, bytes); });
  return State();
}
cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t stream) {
  Do(stream, [=] { std::memset(memory, value, bytes); });
  return State();
}
cudaError_t cudaGetLastError() { return State(); }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return State(); }
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, int) {
  stream->recording = new SimtGraph;
  return State();
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  *graph = std::exchange(stream->recording, nullptr);
  return *graph == nullptr ? cudaErrorStreamCaptureInvalidated : State();
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* ready, cudaGraph_t graph, unsigned) {
  ++graph->users;
  *ready = graph;
  return State();
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  if (--graph->users == 0) delete graph;
  return State();
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
  for (const auto& work : graph->work) Do(stream, work);
  return State();
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) { return cudaGraphDestroy(graph); }
