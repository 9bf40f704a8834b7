// omni.inference.v1.Inference of a node that may not lead: each call is this node's own, or goes to the one
// that leads as it came.
#include <utility>

#include "cluster/forwarded_answer.h"
#include "cluster/forwarding_backend.h"
#include "cluster/grpc_access.h"
#include "cluster/grpc_errors.h"
#include "cluster/grpc_request.h"
#include "cluster/grpc_status.h"

namespace omni {
namespace {

namespace pb = ::omni::inference::v1;
using Context = grpc::CallbackServerContext;
using Unary = grpc::ServerUnaryReactor;

// Owns itself.
class ForwardedStream final : public grpc::ServerWriteReactor<pb::GenerateResponse>,
                              public ForwardedAnswer::Client {
 public:
  void Start(std::shared_ptr<ForwardedAnswer> answer) {
    answer_ = std::move(answer);
    const std::shared_ptr<ForwardedAnswer> keep =
        answer_;  // it may be over, and this gone, before it returns
    keep->Start(*this);
  }

  bool OnMessage(const pb::GenerateResponse& message) override {
    message_ = message;  // the other's may be gone before it is written
    StartWrite(&message_);
    return false;
  }
  void OnEnd(const grpc::Status& status) override { Finish(status); }

  void OnWriteDone(bool ok) override { ok ? answer_->Resume() : answer_->Cancel(); }
  void OnCancel() override {
    if (answer_ != nullptr) answer_->Cancel();
  }
  void OnDone() override { delete this; }

 private:
  std::shared_ptr<ForwardedAnswer> answer_;
  pb::GenerateResponse message_;
};

// One that has one answer: asked once, and once more of whoever is said to lead. Owns itself.
template <typename Request, typename Response>
class ForwardedUnary {
 public:
  // Of the stub: asks, and calls back.
  using Ask = void (*)(pb::Inference::Stub&, grpc::ClientContext*, const Request*, Response*,
                       std::function<void(grpc::Status)>);

  ForwardedUnary(std::shared_ptr<Forwarding> forwarding, Context* context, Unary* reactor,
                 CallMetadata metadata, const Request* request, Response* response, Ask ask)
      : forwarding_(std::move(forwarding)),
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
    stub_ = pb::Inference::NewStub(forwarding_->ChannelTo(address));
    call_ = grpc::ClientContext::FromCallbackServerContext(*context_);  // it ends with the client's, too
    for (const auto& [key, value] : metadata_) call_->AddMetadata(key, value);
    ask_(*stub_, call_.get(), request_, response_, [this](const grpc::Status& status) { OnOver(status); });
  }

 private:
  void OnOver(const grpc::Status& status) {
    const std::string hint = HintOf(*call_);
    const bool again = status.error_code() == grpc::StatusCode::UNAVAILABLE && !hint.empty() &&
                       hint != address_ && left_-- > 0 && !forwarding_->over();
    if (again) return Start(hint);
    if (!hint.empty()) context_->AddTrailingMetadata(kCoordinatorMetadata, hint);
    reactor_->Finish(SaidBy(address_, status));
    forwarding_->LeaveOther();
    delete this;
  }

  const std::shared_ptr<Forwarding> forwarding_;
  Context* const context_;
  Unary* const reactor_;
  const CallMetadata metadata_;
  const Request* const request_;
  Response* const response_;
  const Ask ask_;
  int left_ = 2;
  std::string address_;
  std::unique_ptr<pb::Inference::Stub> stub_;
  std::unique_ptr<grpc::ClientContext> call_;
};

class ForwardingService final : public pb::Inference::CallbackService {
 public:
  ForwardingService(std::shared_ptr<Forwarding> forwarding, InferenceBackend& own,
                    std::function<bool()> stopping, pb::Inference::CallbackService* local, Access* access)
      : forwarding_(std::move(forwarding)),
        own_(own),
        stopping_(std::move(stopping)),
        local_(local),
        access_(access) {}

  grpc::ServerWriteReactor<pb::GenerateResponse>* GenerateStream(
      Context* context, const pb::GenerateRequest* request) override {
    absl::StatusOr<std::string> leader = LeaderFor(*context);
    if (leader.ok() && leader->empty()) return local_->GenerateStream(context, request);
    const RequestIds ids = NameRequest(*context);
    auto* stream = new ForwardedStream();
    const absl::StatusOr<Caller> caller = CallerOf(*context, access_);
    const absl::Status status = leader.ok() ? caller.status() : leader.status();
    if (!status.ok()) {
      stream->Finish(Refused(context, status));
      return stream;
    }
    stream->Start(std::make_shared<ForwardedAnswer>(forwarding_, *request, ForwardedFor(caller->name, ids),
                                                    context->deadline()));
    return stream;
  }

#define OMNI_FORWARD(Method, Request, Response)                                                              \
  Unary* Method(Context* context, const pb::Request* request, pb::Response* response) override {             \
    return Forward<pb::Request, pb::Response>(                                                               \
        context, request, response, [&] { return local_->Method(context, request, response); },              \
        [](pb::Inference::Stub& stub, grpc::ClientContext* call, const pb::Request* asked, pb::Response* to, \
           std::function<void(grpc::Status)> done) {                                                         \
          stub.async()->Method(call, asked, to, std::move(done));                                            \
        });                                                                                                  \
  }
  OMNI_FORWARD(Generate, GenerateRequest, Generation)
  OMNI_FORWARD(Tokenize, TokenizeRequest, TokenizeResponse)
  OMNI_FORWARD(Detokenize, DetokenizeRequest, DetokenizeResponse)
  OMNI_FORWARD(ListModels, ListModelsRequest, ListModelsResponse)
  OMNI_FORWARD(GetModel, GetModelRequest, Model)
  OMNI_FORWARD(GetSession, GetSessionRequest, Session)
  OMNI_FORWARD(ForkSession, ForkSessionRequest, Session)
  OMNI_FORWARD(ListSessions, ListSessionsRequest, ListSessionsResponse)
  OMNI_FORWARD(DeleteSession, DeleteSessionRequest, DeleteSessionResponse)
#undef OMNI_FORWARD

 private:
  // Where a call is to go; empty: it is answered here.
  absl::StatusOr<std::string> LeaderFor(const Context& context) {
    const absl::Status serving = own_.Serving();
    if (serving.ok() || stopping_() || context.client_metadata().count(kForwardedMetadata) > 0)
      return Here(serving);
    const std::string leader = forwarding_->Leader(0);
    if (leader.empty()) return Here(serving);
    return leader;
  }
  absl::StatusOr<std::string> Here(const absl::Status& serving) const {
    if (local_ != nullptr) return "";  // which knows best how to refuse
    return serving;
  }
  grpc::Status Refused(Context* context, const absl::Status& status) {
    if (!absl::IsUnavailable(status) || stopping_()) return ToDetailedGrpc(status);
    ErrorDetails details{.reason = "NOT_LEADING", .metadata = {}, .retry = {}};
    if (const std::string other = own_.Elsewhere(); !other.empty()) {
      context->AddTrailingMetadata(kCoordinatorMetadata, other);
      details.metadata["coordinator"] = other;
    }
    return ToDetailedGrpc(status, details);
  }

  template <typename Request, typename Response, typename Local>
  Unary* Forward(Context* context, const Request* request, Response* response, const Local& here,
                 typename ForwardedUnary<Request, Response>::Ask ask) {
    const absl::StatusOr<std::string> leader = LeaderFor(*context);
    if (leader.ok() && leader->empty()) return here();
    const RequestIds ids = NameRequest(*context);
    Unary* reactor = context->DefaultReactor();
    const absl::StatusOr<Caller> caller = CallerOf(*context, access_);
    const absl::Status status = leader.ok() ? caller.status() : leader.status();
    if (!status.ok()) {
      reactor->Finish(Refused(context, status));
      return reactor;
    }
    auto* call = new ForwardedUnary<Request, Response>(
        forwarding_, context, reactor, ForwardedFor(caller->name, ids), request, response, ask);
    call->Start(*leader);
    return reactor;
  }

  const std::shared_ptr<Forwarding> forwarding_;
  InferenceBackend& own_;
  const std::function<bool()> stopping_;
  pb::Inference::CallbackService* const local_;
  Access* const access_;
};

}  // namespace

std::unique_ptr<grpc::Service> ForwardingBackend::MakeService(grpc::Service* local, Access* access) {
  return std::make_unique<ForwardingService>(forwarding_, own_, stopping_,
                                             dynamic_cast<pb::Inference::CallbackService*>(local), access);
}

}  // namespace omni
