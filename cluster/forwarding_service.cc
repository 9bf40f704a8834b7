// omni.inference.v1.Inference of a node that may not lead: each call is this node's own, or goes to the one
// that leads as it came.
#include <optional>
#include <utility>

#include "cluster/forwarded_answer.h"
#include "cluster/forwarded_unary.h"
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
  explicit ForwardedStream(std::optional<GrpcRequest> log) : log_(std::move(log)) {}
  void Start(std::shared_ptr<ForwardedAnswer> answer) {
    answer_ = std::move(answer);
    const std::shared_ptr<ForwardedAnswer> keep =
        answer_;  // it may be over, and this gone, before it returns
    keep->Start(*this);
  }

  bool OnMessage(const pb::GenerateResponse& message) override {
    if (log_.has_value()) Note(message);
    message_ = message;  // the other's may be gone before it is written
    StartWrite(&message_);
    return false;
  }
  void OnEnd(const grpc::Status& status) override {
    if (log_.has_value()) LogGrpcRequest(*log_, FromGrpc(status));
    Finish(status);
  }

  void OnWriteDone(bool ok) override { ok ? answer_->Resume() : answer_->Cancel(); }
  void OnCancel() override {
    if (answer_ != nullptr) answer_->Cancel();
  }
  void OnDone() override { delete this; }

 private:
  void Note(const pb::GenerateResponse& message) {
    RequestRecord& record = log_->record;
    if (message.has_progress())
      record.prompt_tokens = static_cast<int64_t>(message.progress().prompt_tokens());
    if (message.has_token() && record.tokens++ == 0)
      record.first_token = std::chrono::steady_clock::now() - log_->asked;
  }

  std::optional<GrpcRequest> log_;
  std::shared_ptr<ForwardedAnswer> answer_;
  pb::GenerateResponse message_;
};

class ForwardingService final : public pb::Inference::CallbackService {
 public:
  ForwardingService(std::shared_ptr<Forwarding> forwarding, InferenceBackend& own,
                    std::function<bool()> stopping, pb::Inference::CallbackService* local, Access* access,
                    bool log)
      : forwarding_(std::move(forwarding)),
        own_(own),
        stopping_(std::move(stopping)),
        local_(local),
        access_(access),
        log_(log) {}

  grpc::ServerWriteReactor<pb::GenerateResponse>* GenerateStream(
      Context* context, const pb::GenerateRequest* request) override {
    absl::StatusOr<std::string> leader = LeaderFor(*context);
    if (leader.ok() && leader->empty()) return local_->GenerateStream(context, request);
    const RequestIds ids = NameRequest(*context);
    const absl::StatusOr<Caller> caller = CallerOf(*context, access_);
    std::optional<GrpcRequest> log = LogOf("GenerateStream", ids, caller);
    const absl::Status status = leader.ok() ? caller.status() : leader.status();
    if (!status.ok()) {
      if (log.has_value()) LogGrpcRequest(*log, status);
      auto* stream = new ForwardedStream(std::nullopt);
      stream->Finish(Refused(context, status));
      return stream;
    }
    auto* stream = new ForwardedStream(std::move(log));
    stream->Start(std::make_shared<ForwardedAnswer>(forwarding_, *request, ForwardedFor(caller->name, ids),
                                                    context->deadline()));
    return stream;
  }

#define OMNI_FORWARD(Method, Request, Response)                                                              \
  Unary* Method(Context* context, const pb::Request* request, pb::Response* response) override {             \
    return Forward<pb::Request, pb::Response>(                                                               \
        #Method, context, request, response, [&] { return local_->Method(context, request, response); },     \
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
  OMNI_FORWARD(ListAdapters, ListAdaptersRequest, ListAdaptersResponse)
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

  // The line that a call leaves; none: it leaves none.
  std::optional<GrpcRequest> LogOf(const char* method, const RequestIds& ids,
                                   const absl::StatusOr<Caller>& caller) const {
    if (!log_) return std::nullopt;
    GrpcRequest request;
    request.method = method;
    request.record.ids = ids;
    if (caller.ok()) request.record.caller = caller->name;
    return request;
  }

  template <typename Request, typename Response, typename Local>
  Unary* Forward(const char* method, Context* context, const Request* request, Response* response,
                 const Local& here, typename ForwardedUnary<pb::Inference, Request, Response>::Ask ask) {
    const absl::StatusOr<std::string> leader = LeaderFor(*context);
    if (leader.ok() && leader->empty()) return here();
    const RequestIds ids = NameRequest(*context);
    Unary* reactor = context->DefaultReactor();
    const absl::StatusOr<Caller> caller = CallerOf(*context, access_);
    std::optional<GrpcRequest> log = LogOf(method, ids, caller);
    const absl::Status status = leader.ok() ? caller.status() : leader.status();
    if (!status.ok()) {
      if (log.has_value()) LogGrpcRequest(*log, status);
      reactor->Finish(Refused(context, status));
      return reactor;
    }
    auto* call = new ForwardedUnary<pb::Inference, Request, Response>(
        forwarding_, std::move(log), context, reactor, ForwardedFor(caller->name, ids), request, response,
        ask);
    call->Start(*leader);
    return reactor;
  }

  const std::shared_ptr<Forwarding> forwarding_;
  InferenceBackend& own_;
  const std::function<bool()> stopping_;
  pb::Inference::CallbackService* const local_;
  Access* const access_;
  const bool log_;
};

}  // namespace

std::unique_ptr<grpc::Service> ForwardingBackend::MakeService(grpc::Service* local, Access* access,
                                                              bool log) {
  return std::make_unique<ForwardingService>(
      forwarding_, own_, stopping_, dynamic_cast<pb::Inference::CallbackService*>(local), access, log);
}

}  // namespace omni
