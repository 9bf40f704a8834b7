// omni.memory.v1.Memory of a node that may not lead: each call is this node's own, or goes to the one that
// leads as it came. An import is not sent on: it is told where to go.
#include <utility>

#include "cluster/forwarded_unary.h"
#include "cluster/forwarding_backend.h"
#include "cluster/grpc_access.h"
#include "omni/memory/v1/memory.grpc.pb.h"

namespace omni {
namespace {

namespace pb = ::omni::memory::v1;
using Context = grpc::CallbackServerContext;
using Unary = grpc::ServerUnaryReactor;

class ForwardingMemory final : public pb::Memory::CallbackService {
 public:
  ForwardingMemory(std::shared_ptr<Forwarding> forwarding, std::function<bool()> stopping,
                   std::function<absl::Status()> leads, pb::Memory::CallbackService& local, Access* access)
      : leader_(std::move(forwarding), std::move(stopping), std::move(leads)),
        local_(local),
        access_(access) {}

  grpc::ServerReadReactor<pb::AddRequest>* Import(Context* context, pb::AddResponse* response) override {
    return local_.Import(context, response);
  }

#define OMNI_FORWARD(Method, Request, Response)                                                           \
  Unary* Method(Context* context, const pb::Request* request, pb::Response* response) override {          \
    const std::string leader = leader_.AddressFor(*context);                                              \
    const absl::StatusOr<Caller> caller = CallerOf(*context, access_);                                    \
    if (leader.empty() || !caller.ok()) return local_.Method(context, request, response);                 \
    Unary* reactor = context->DefaultReactor();                                                           \
    auto* call = new ForwardedUnary<pb::Memory, pb::Request, pb::Response>(                               \
        leader_.forwarding(), std::nullopt, context, reactor, ForwardedFor(caller->name, {}), request,    \
        response,                                                                                         \
        [](pb::Memory::Stub& stub, grpc::ClientContext* asked, const pb::Request* what, pb::Response* to, \
           std::function<void(grpc::Status)> done) {                                                      \
          stub.async()->Method(asked, what, to, std::move(done));                                         \
        });                                                                                               \
    call->Start(leader);                                                                                  \
    return reactor;                                                                                       \
  }
  OMNI_FORWARD(Add, AddRequest, AddResponse)
  OMNI_FORWARD(Ask, AskRequest, AskResponse)
  OMNI_FORWARD(Stats, StatsRequest, StatsResponse)
  OMNI_FORWARD(Forget, ForgetRequest, ForgetResponse)
#undef OMNI_FORWARD

 private:
  const ToLeader leader_;
  pb::Memory::CallbackService& local_;
  Access* const access_;
};

}  // namespace

std::unique_ptr<grpc::Service> ForwardingBackend::MakeMemoryService(grpc::Service& local, Access* access,
                                                                    std::function<absl::Status()> leads) {
  return std::make_unique<ForwardingMemory>(forwarding_, stopping_, std::move(leads),
                                            dynamic_cast<pb::Memory::CallbackService&>(local), access);
}

}  // namespace omni
