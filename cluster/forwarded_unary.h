// The inside of cluster/forwarding_backend.h: a call with one answer, which another node gives. Nobody
// includes this but forwarding_service.cc, forwarded_tasks.cc and forwarded_memory.cc.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include <grpcpp/grpcpp.h>

#include "cluster/forwarded_answer.h"
#include "cluster/grpc_access.h"
#include "cluster/grpc_request.h"
#include "cluster/grpc_status.h"

namespace omni {

// One that has one answer: asked once, and once more of whoever is said to lead. Owns itself.
template <typename Service, typename Request, typename Response>
class ForwardedUnary {
 public:
  // Of the stub: asks, and calls back.
  using Ask = void (*)(typename Service::Stub&, grpc::ClientContext*, const Request*, Response*,
                       std::function<void(grpc::Status)>);

  ForwardedUnary(std::shared_ptr<Forwarding> forwarding, std::optional<GrpcRequest> log,
                 grpc::CallbackServerContext* context, grpc::ServerUnaryReactor* reactor,
                 CallMetadata metadata, const Request* request, Response* response, Ask ask)
      : log_(std::move(log)),
        forwarding_(std::move(forwarding)),
        context_(context),
        reactor_(reactor),
        metadata_(std::move(metadata)),
        request_(request),
        response_(response),
        ask_(ask) {
    forwarding_->EnterOther();
  }

  void Start(const std::string& address) {
    address_ = address;
    stub_ = Service::NewStub(forwarding_->ChannelTo(address));
    call_ = grpc::ClientContext::FromCallbackServerContext(*context_);  // it ends with the client's, too
    for (const auto& [key, value] : metadata_) call_->AddMetadata(key, value);
    ask_(*stub_, call_.get(), request_, response_, [this](const grpc::Status& status) { OnOver(status); });
  }

 private:
  void OnOver(const grpc::Status& status) {
    const std::string hint = forwarding_->HintOf(*call_);
    const bool again = status.error_code() == grpc::StatusCode::UNAVAILABLE && !hint.empty() &&
                       hint != address_ && left_-- > 0 && !forwarding_->over();
    if (again) return Start(hint);
    if (!hint.empty()) context_->AddTrailingMetadata(kCoordinatorMetadata, hint);
    if (log_.has_value()) LogGrpcRequest(*log_, FromGrpc(status));
    reactor_->Finish(SaidBy(address_, status));
    const std::shared_ptr<Forwarding> forwarding = forwarding_;
    delete this;
    forwarding->LeaveOther();
  }

  const std::optional<GrpcRequest> log_;
  const std::shared_ptr<Forwarding> forwarding_;
  grpc::CallbackServerContext* const context_;
  grpc::ServerUnaryReactor* const reactor_;
  const CallMetadata metadata_;
  const Request* const request_;
  Response* const response_;
  const Ask ask_;
  int left_ = 2;
  std::string address_;
  std::unique_ptr<typename Service::Stub> stub_;
  std::unique_ptr<grpc::ClientContext> call_;
};

// What the services of a node that may not lead have in common: where a call is to go.
class ToLeader {
 public:
  ToLeader(std::shared_ptr<Forwarding> forwarding, std::function<bool()> stopping,
           std::function<absl::Status()> leads)
      : forwarding_(std::move(forwarding)), stopping_(std::move(stopping)), leads_(std::move(leads)) {}

  // Empty: it is answered here, where it is known best how to refuse it, too.
  std::string AddressFor(const grpc::CallbackServerContext& context) const {
    if (leads_().ok() || stopping_() || context.client_metadata().count(kForwardedMetadata) > 0) return "";
    return forwarding_->Leader(0);
  }
  const std::shared_ptr<Forwarding>& forwarding() const { return forwarding_; }

 private:
  const std::shared_ptr<Forwarding> forwarding_;
  const std::function<bool()> stopping_;
  const std::function<absl::Status()> leads_;
};

}  // namespace omni
