// Which memory a request asks for, and where it comes from.
#pragma once

#include <memory>
#include <string>

#include <absl/status/statusor.h>

#include "engine/around/text_memory.h"

namespace omni {

struct MemoryChoice {
  std::string scope;  // empty: none
  // What the scope held, as HeldMemory says it: nothing else will do. Empty: whatever it holds now.
  std::string version;
  friend bool operator==(const MemoryChoice&, const MemoryChoice&) = default;
};

// A scope as it was when it was asked for, whatever is added to it.
struct HeldMemory {
  std::shared_ptr<const TextMemory> memory;
  std::string version;  // how many associations it was made of, '-', a hash of them in their order
};

// Thread-safe.
class MemorySource {
 public:
  virtual ~MemorySource() = default;
  // A scope's memory as it is now, or as it was at a version. `owner`: whose scopes they are; empty:
  // nobody's in particular. May read a disk. InvalidArgument: it cannot be a scope, or nothing is in it;
  // FailedPrecondition: that version cannot be had.
  virtual absl::StatusOr<HeldMemory> Hold(const std::string& owner, const MemoryChoice& choice) = 0;
};

}  // namespace omni
