// The functions of device.h as a table of pointers: what a shared library of the device's code offers to a
// program that was built without it. `omni` finds libomni_cuda.so by name when it is told to use a device
// (engine/decode/device_library.h); tests offer the same source on fibers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string_view>

#include "kernels/device/device.h"

namespace omni::kernels::device {

// To be raised with every change of what a function means or takes.
inline constexpr uint32_t kTableVersion = 2;

#define OMNI_DEVICE_FUNCTIONS(DO) \
  DO(FailureText)                 \
  DO(Count)                       \
  DO(Use)                         \
  DO(Describe)                    \
  DO(Allocate)                    \
  DO(Free)                        \
  DO(AllocatePinned)              \
  DO(FreePinned)                  \
  DO(NewStream)                   \
  DO(DeleteStream)                \
  DO(NewEvent)                    \
  DO(DeleteEvent)                 \
  DO(Record)                      \
  DO(Await)                       \
  DO(WaitFor)                     \
  DO(Milliseconds)                \
  DO(CopyIn)                      \
  DO(CopyOut)                     \
  DO(CopyWithin)                  \
  DO(Zero)                        \
  DO(Synchronize)                 \
  DO(BeginGraph)                  \
  DO(EndGraph)                    \
  DO(Launch)                      \
  DO(DeleteGraph)                 \
  DO(Embed)                       \
  DO(NormQuantize)                \
  DO(QuantizeKnown)               \
  DO(TwoBit)                      \
  DO(Ternary)                     \
  DO(Int8)                        \
  DO(GateUp)                      \
  DO(ExpertGateUp)                \
  DO(ExpertDown)                  \
  DO(PdrStep)                     \
  DO(PdrNormalize)                \
  DO(RotateRows)                  \
  DO(Attend)                      \
  DO(StoreRing)                   \
  DO(SlowStep)                    \
  DO(Route)                       \
  DO(RouteAhead)                  \
  DO(Gather)                      \
  DO(AddRows)                     \
  DO(ArgMax)                      \
  DO(Sample)

#define OMNI_DEVICE_NAME(name) #name ","
// The names of all functions in their order, and the sizes of all that they take by reference: a library with
// others was made of another source.
inline constexpr uint64_t kTableShape = [] {
  uint64_t shape = 0;
  for (const char letter : std::string_view(OMNI_DEVICE_FUNCTIONS(OMNI_DEVICE_NAME)))
    shape = shape * 0x100000001b3u + static_cast<uint8_t>(letter);
  for (const size_t size :
       {sizeof(Properties), sizeof(Quantized), sizeof(Output), sizeof(TwoBitProducts), sizeof(Experts),
        sizeof(Segment), sizeof(Stretch), sizeof(PdrInputs), sizeof(Attention), sizeof(Router),
        sizeof(RouterAhead), sizeof(Draw), sizeof(TwoBitMatrix), sizeof(TernaryMatrix), sizeof(Int8Matrix)})
    shape = shape * 0x100000001b3u + size;
  return shape;
}();
#undef OMNI_DEVICE_NAME

// version and shape come first and stay there, so that a library of any age can be asked for them.
struct Table {
  uint32_t version = 0;
  uint32_t reserved = 0;
  uint64_t shape = 0;
#define OMNI_DEVICE_POINTER(name) decltype(&::omni::kernels::device::name) name = nullptr;
  OMNI_DEVICE_FUNCTIONS(OMNI_DEVICE_POINTER)
#undef OMNI_DEVICE_POINTER
};

// What a library offers under this name: `const Table* omni_device_table()`, of C's linkage.
inline constexpr char kTableSymbol[] = "omni_device_table";

}  // namespace omni::kernels::device
