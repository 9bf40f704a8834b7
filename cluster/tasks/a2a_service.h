// lf.a2a.v1.A2AService over the handlers that the other bindings have too. No thread waits for a client.
#pragma once

#include <memory>

#include "cluster/access.h"
#include "cluster/tasks/a2a_handlers.h"

namespace grpc {
class Service;
}

namespace omni {

// The handlers and access (null: whoever calls is nobody in particular) outlive it.
std::unique_ptr<grpc::Service> MakeA2aService(A2aHandlers& handlers, Access* access);

}  // namespace omni
