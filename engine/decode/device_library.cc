#include "engine/decode/device_library.h"

#include <dlfcn.h>

#include <cstdlib>
#include <filesystem>
#include <system_error>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>

namespace omni {
namespace {

namespace device = kernels::device;
namespace fs = std::filesystem;

constexpr int kNoLibrary = -1;

// In the place of a library's function where there is none.
template <typename F>
struct Missing;
template <typename R, typename... Args>
struct Missing<R (*)(Args...)> {
  static R Call(Args...) {
    if constexpr (std::is_same_v<R, device::Failure>) {
      return {kNoLibrary};
    } else if constexpr (std::is_same_v<R, const char*>) {
      return "no library of the device's code is loaded";
    } else if constexpr (std::is_same_v<R, int>) {
      return 0;
    }
  }
};

#define OMNI_DEVICE_POINTER(name) &Missing<decltype(device::Table::name)>::Call,
constexpr device::Table kMissing = {device::kTableVersion, 0, device::kTableShape,
                                    OMNI_DEVICE_FUNCTIONS(OMNI_DEVICE_POINTER)};
#undef OMNI_DEVICE_POINTER

// Set once, before whoever loads the library calls any of its functions.
const device::Table* now = &kMissing;

std::string FolderOfThisProgram() {
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error);
  return error ? std::string() : program.parent_path().string();
}

absl::StatusOr<std::string> Load() {
  const char* named = std::getenv(kDeviceLibraryVariable);
  const std::vector<std::string> places = DeviceLibraryPlaces(FolderOfThisProgram(), named);
  for (const std::string& path : places) {
    std::error_code error;
    if (!fs::exists(path, error)) continue;
    absl::StatusOr<const device::Table*> table = ReadDeviceLibrary(path);
    if (!table.ok()) return table.status();
    now = *table;
    return path;
  }
  return absl::NotFoundError(absl::StrCat("no ", kDeviceLibrary, ", which is what uses GPUs, at ",
                                          absl::StrJoin(places, " or "), "; name it with ",
                                          kDeviceLibraryVariable));
}

}  // namespace

std::vector<std::string> DeviceLibraryPlaces(const std::string& folder, const char* named) {
  if (named != nullptr && *named != '\0') return {named};
  if (folder.empty()) return {};  // nobody knows: certainly not wherever this process happens to be
  return {absl::StrCat(folder, "/", kDeviceLibrary),
          (fs::path(folder) / "../lib/omni" / kDeviceLibrary).lexically_normal().string()};
}

absl::StatusOr<const device::Table*> ReadDeviceLibrary(const std::string& path) {
  void* const library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* why = dlerror();
    return absl::FailedPreconditionError(
        absl::StrCat(path, ": cannot be loaded: ", why == nullptr ? "for no reason given" : why));
  }
  using Offer = const device::Table* (*)();
  const auto offer = reinterpret_cast<Offer>(dlsym(library, device::kTableSymbol));
  const device::Table* const table = offer == nullptr ? nullptr : offer();
  if (table == nullptr) {
    dlclose(library);
    return absl::FailedPreconditionError(
        absl::StrCat(path, ": is no library of Omni's device code: it has no ", device::kTableSymbol));
  }
  if (table->version != device::kTableVersion || table->shape != device::kTableShape) {
    const uint32_t version = table->version;
    dlclose(library);
    return absl::FailedPreconditionError(absl::StrCat(path, ": was made for another Omni, version ", version,
                                                      " of its table, not ", device::kTableVersion,
                                                      "; build omni and omni_cuda_library from one source"));
  }
  return table;
}

absl::StatusOr<std::string> LoadDeviceLibrary() {
  static const absl::StatusOr<std::string> loaded = Load();
  return loaded;
}

}  // namespace omni

namespace omni::kernels::device {

const char* FailureText(Failure failure) { return now->FailureText(failure); }
int Count() { return now->Count(); }
Failure Use(int device) { return now->Use(device); }
Failure Describe(int device, Properties* properties) { return now->Describe(device, properties); }
Failure Allocate(int64_t bytes, void** memory) { return now->Allocate(bytes, memory); }
void Free(void* memory) { now->Free(memory); }
Failure AllocatePinned(int64_t bytes, void** memory) { return now->AllocatePinned(bytes, memory); }
void FreePinned(void* memory) { now->FreePinned(memory); }
Failure NewStream(Stream* stream) { return now->NewStream(stream); }
void DeleteStream(Stream stream) { now->DeleteStream(stream); }
Failure NewEvent(Event* event) { return now->NewEvent(event); }
void DeleteEvent(Event event) { now->DeleteEvent(event); }
Failure Record(Event event, Stream stream) { return now->Record(event, stream); }
Failure Await(Event event) { return now->Await(event); }
Failure WaitFor(Stream stream, Event event) { return now->WaitFor(stream, event); }
Failure Milliseconds(Event from, Event to, float* ms) { return now->Milliseconds(from, to, ms); }
Failure CopyIn(void* device, const void* host, int64_t bytes, Stream stream) {
  return now->CopyIn(device, host, bytes, stream);
}
Failure CopyOut(void* host, const void* device, int64_t bytes, Stream stream) {
  return now->CopyOut(host, device, bytes, stream);
}
Failure CopyWithin(void* to, const void* from, int64_t bytes, Stream stream) {
  return now->CopyWithin(to, from, bytes, stream);
}
Failure Zero(void* memory, int64_t bytes, Stream stream) { return now->Zero(memory, bytes, stream); }
Failure Synchronize(Stream stream) { return now->Synchronize(stream); }
Failure BeginGraph(Stream stream) { return now->BeginGraph(stream); }
Failure EndGraph(Stream stream, Graph* graph) { return now->EndGraph(stream, graph); }
Failure Launch(Graph graph, Stream stream) { return now->Launch(graph, stream); }
void DeleteGraph(Graph graph) { now->DeleteGraph(graph); }
void Embed(const Int8Matrix& embedding, const float* scale, const int32_t* tokens, int n, int64_t d, float* x,
           int64_t x_stride, Stream stream) {
  now->Embed(embedding, scale, tokens, n, d, x, x_stride, stream);
}
void NormQuantize(const float* x, int64_t x_stride, const float* gain, int n, int64_t d, int64_t d_pad,
                  float* h, int64_t h_stride, const Quantized& q, uint32_t* clear_bits, int32_t* clear_sums,
                  Stream stream) {
  now->NormQuantize(x, x_stride, gain, n, d, d_pad, h, h_stride, q, clear_bits, clear_sums, stream);
}
void QuantizeKnown(const float* x, int64_t x_stride, int n, int64_t n_padded, const uint32_t* largest,
                   const Quantized& q, Stream stream) {
  now->QuantizeKnown(x, x_stride, n, n_padded, largest, q, stream);
}
void TwoBit(const TwoBitProducts& products, const Quantized& x, int n, Stream stream) {
  now->TwoBit(products, x, n, stream);
}
void Ternary(const TernaryMatrix& m, const Quantized& x, int n, const Output& out, Stream stream) {
  now->Ternary(m, x, n, out, stream);
}
void Int8(const Int8Matrix& m, const Quantized& x, int n, const Output& out, Stream stream) {
  now->Int8(m, x, n, out, stream);
}
void GateUp(const TwoBitMatrix& gate, const TwoBitMatrix& up, const float* gate_scale, const float* up_scale,
            const Quantized& x, int n, int64_t f, float* a, int64_t a_stride, uint32_t* largest,
            Stream stream) {
  now->GateUp(gate, up, gate_scale, up_scale, x, n, f, a, a_stride, largest, stream);
}
void ExpertGateUp(const Experts& experts, const int32_t* routes, const Quantized& x, int n, float* a,
                  int64_t a_stride, uint32_t* largest, Stream stream) {
  now->ExpertGateUp(experts, routes, x, n, a, a_stride, largest, stream);
}
void ExpertDown(const Experts& experts, const int32_t* routes, const Quantized& a, int n, float* x,
                int64_t x_stride, Stream stream) {
  now->ExpertDown(experts, routes, a, n, x, x_stride, stream);
}
void PdrStep(const PdrInputs& in, const Segment* segments, const Stretch* stretches, int num_stretches,
             float* out, int64_t out_stride, Stream stream) {
  now->PdrStep(in, segments, stretches, num_stretches, out, out_stride, stream);
}
void PdrNormalize(const PdrInputs& in, const Segment* segments, const Stretch* stretches, int num_stretches,
                  float* norms, Stream stream) {
  now->PdrNormalize(in, segments, stretches, num_stretches, norms, stream);
}
void RotateRows(const Attention& a, int n, Stream stream) { now->RotateRows(a, n, stream); }
void Attend(const Attention& a, const Segment* segments, const int32_t* row_segment, int n, float* out,
            int64_t out_stride, Stream stream) {
  now->Attend(a, segments, row_segment, n, out, out_stride, stream);
}
void StoreRing(const Attention& a, const Segment* segments, int num_segments, int longest, Stream stream) {
  now->StoreRing(a, segments, num_segments, longest, stream);
}
void RouteAhead(const RouterAhead* routers, int count, const Segment* segment, const int32_t* token,
                int32_t* routes, Stream stream) {
  now->RouteAhead(routers, count, segment, token, routes, stream);
}
void Gather(const uint8_t* const* from, int64_t count, int64_t bytes, uint8_t* to, int64_t to_stride,
            Stream stream) {
  now->Gather(from, count, bytes, to, to_stride, stream);
}
void SlowStep(const Segment* segments, int num_segments, int64_t offset, const float* h, int64_t h_stride,
              int64_t layers, int64_t layer_stride, int64_t d, float rate, float* before, Stream stream) {
  now->SlowStep(segments, num_segments, offset, h, h_stride, layers, layer_stride, d, rate, before, stream);
}
void Route(const Router& router, const float* seen, int64_t seen_stride, const int32_t* tokens, int n,
           int32_t* routes, Stream stream) {
  now->Route(router, seen, seen_stride, tokens, n, routes, stream);
}
void AddRows(float* x, const float* y, int64_t stride, int n, int64_t d, Stream stream) {
  now->AddRows(x, y, stride, n, d, stream);
}
void ArgMax(const float* logits, int64_t stride, int64_t vocab, int n, int32_t* tokens, Stream stream) {
  now->ArgMax(logits, stride, vocab, n, tokens, stream);
}
void Sample(const float* logits, int64_t stride, int64_t vocab, int n, const Draw* draws, float* scratch,
            int32_t* tokens, Stream stream) {
  now->Sample(logits, stride, vocab, n, draws, scratch, tokens, stream);
}

}  // namespace omni::kernels::device
