// What the doors of a process (gRPC, HTTP) ask of the swarm behind them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "actors/swarm.h"
#include "engine/around/adapter_source.h"
#include "engine/around/memory_source.h"
#include "engine/around/polytope_source.h"
#include "engine/text/tokenizer.h"

namespace omni {

// Thread-safe.
class InferenceBackend {
 public:
  virtual ~InferenceBackend() = default;
  // Whether answers may be given here; Unavailable says where.
  virtual absl::Status Serving() = 0;
  virtual std::string Elsewhere() = 0;  // the coordinator's address; empty: not known
  // Of the polytope that such a request would be given here; PolytopeSource::Take's errors.
  virtual absl::StatusOr<std::string> PolytopeHash(const SafetyChoice& choice) {
    const absl::StatusOr<HeldPolytope> none =
        TakePolytope(nullptr, absl::NotFoundError("this server was started without any"), choice);
    return none.status();
  }
  // The memory that such a request of this caller's would be given here, at that moment; MemorySource::Hold's
  // errors. May read a disk.
  virtual absl::StatusOr<HeldMemory> HoldMemory(const std::string&, const MemoryChoice&) {
    return absl::InvalidArgumentError("a memory is asked for, and this server was started without one");
  }
  // The same of the adapter; AdapterSource::Take's errors.
  virtual absl::StatusOr<std::string> AdapterHash(const AdapterChoice& choice) {
    return NoAdapter(choice, absl::NotFoundError("this server was started without any"));
  }
  // Those that requests may ask for here.
  virtual absl::StatusOr<std::vector<OfferedAdapter>> Adapters() { return std::vector<OfferedAdapter>(); }
  virtual absl::StatusOr<std::unique_ptr<SessionHandle>> Submit(GenerateRequest request,
                                                                SubmitOptions options) = 0;
  virtual const Tokenizer& tokenizer() = 0;
  virtual int64_t max_context() = 0;  // tokens of prompt and answer together
  virtual std::string model_hash() = 0;
  virtual std::string node() = 0;
};

}  // namespace omni
