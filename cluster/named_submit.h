// A backend that may send a request on, under the name that its client gave it.
#pragma once

#include <memory>

#include <absl/status/statusor.h>

#include "actors/swarm.h"
#include "cluster/request_ids.h"

namespace omni {

// Beside InferenceBackend, of those that do.
class NamedSubmit {
 public:
  virtual ~NamedSubmit() = default;
  // As InferenceBackend::Submit.
  virtual absl::StatusOr<std::unique_ptr<SessionHandle>> SubmitNamed(GenerateRequest request,
                                                                     SubmitOptions options,
                                                                     const RequestIds& ids) = 0;
};

}  // namespace omni
