// Fibers as a library that a program loads in the place of libomni_cuda.so: what its device is and when it is
// lost comes from the environment, and faults that were found end the program.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "tests/testing/simt_runtime.h"

namespace omni::simt {
namespace {

int64_t FromEnvironment(const char* name, int64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr || *text == '\0' ? otherwise : std::atoll(text);
}

struct Library {
  Library() {
    Machine machine;
    machine.devices = static_cast<int>(FromEnvironment("OMNI_FIBERS_DEVICES", machine.devices));
    machine.memory_bytes = FromEnvironment("OMNI_FIBERS_MEMORY", machine.memory_bytes);
    machine.launches_before_loss = FromEnvironment("OMNI_FIBERS_LOST_AFTER", machine.launches_before_loss);
    SetMachine(machine);
  }
  ~Library() {
    const std::vector<std::string> faults = TakeFaults();
    for (const std::string& fault : faults) std::fprintf(stderr, "fibers: %s\n", fault.c_str());
    if (const int64_t bytes = BytesAllocated(); bytes != 0)
      std::fprintf(stderr, "fibers: %lld bytes of the device were not given back\n",
                   static_cast<long long>(bytes));
    if (!faults.empty() || BytesAllocated() != 0) _exit(99);
  }
} library;

}  // namespace
}  // namespace omni::simt

// For tests in whose own process the library is loaded.
extern "C" __attribute__((visibility("default"))) void omni_fibers_set(int devices, int64_t memory_bytes,
                                                                       int64_t launches_before_loss) {
  omni::simt::SetMachine({devices, memory_bytes, launches_before_loss});
}
