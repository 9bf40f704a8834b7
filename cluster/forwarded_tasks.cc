// omni.tasks.v1.SwarmTasks of a node that may not lead: each call is this node's own, or goes to the one that
// leads as it came.
#include <mutex>
#include <utility>

#include "cluster/forwarded_unary.h"
#include "cluster/forwarding_backend.h"
#include "cluster/grpc_access.h"
#include "cluster/grpc_errors.h"
#include "omni/tasks/v1/tasks.grpc.pb.h"

namespace omni {
namespace {

namespace pb = ::omni::tasks::v1;
using Context = grpc::CallbackServerContext;
using Unary = grpc::ServerUnaryReactor;

// A task's events, as the other node tells them. Owned by what gRPC still has of its two sides.
class ForwardedWatch final : public grpc::ServerWriteReactor<pb::TaskEvent> {
 public:
  ForwardedWatch(std::shared_ptr<Forwarding> forwarding, CallMetadata metadata, Context* context,
                 pb::WatchTaskRequest request)
      : forwarding_(std::move(forwarding)),
        metadata_(std::move(metadata)),
        context_(context),
        request_(std::move(request)) {
    forwarding_->EnterOther();
  }

  void Start(const std::string& address) {
    std::unique_lock lock(mutex_);
    if (cancelled_) {
      lock.unlock();
      return End(grpc::Status::CANCELLED);
    }
    address_ = address;
    stub_ = pb::SwarmTasks::NewStub(forwarding_->ChannelTo(address));
    call_ = std::make_unique<Reader>(*this);
    for (const auto& [key, value] : metadata_) call_->context.AddMetadata(key, value);
    stub_->async()->WatchTask(&call_->context, &request_, call_.get());
    call_->StartRead(&call_->event);
    call_->StartCall();
  }

  void OnWriteDone(bool ok) override {
    const std::lock_guard lock(mutex_);
    if (call_ == nullptr) return;
    if (!ok) call_->context.TryCancel();
    call_->StartRead(&call_->event);
    call_->RemoveHold();
  }
  void OnCancel() override {
    const std::lock_guard lock(mutex_);
    cancelled_ = true;
    if (call_ != nullptr) call_->context.TryCancel();
  }
  void OnDone() override {
    const std::shared_ptr<Forwarding> forwarding = forwarding_;
    delete this;
    forwarding->LeaveOther();
  }

 private:
  struct Reader final : public grpc::ClientReadReactor<pb::TaskEvent> {
    explicit Reader(ForwardedWatch& w) : watch(w) {}
    void OnReadDone(bool ok) override {
      if (ok) watch.OnEvent();
    }
    void OnDone(const grpc::Status& status) override { watch.OnOver(status); }
    ForwardedWatch& watch;
    grpc::ClientContext context;
    pb::TaskEvent event;
  };

  void OnEvent() {
    call_->AddHold();  // until it is written, and the next may be read
    told_ = true;
    request_.set_after(call_->event.number());
    event_ = call_->event;
    StartWrite(&event_);
  }
  void OnOver(const grpc::Status& status) {
    const std::string hint = forwarding_->HintOf(call_->context);
    {
      const std::lock_guard lock(mutex_);
      call_ = nullptr;
    }
    const bool again = status.error_code() == grpc::StatusCode::UNAVAILABLE && !hint.empty() &&
                       hint != address_ && left_-- > 0 && !forwarding_->over();
    if (again) return Start(hint);
    if (!hint.empty() && !told_) context_->AddTrailingMetadata(kCoordinatorMetadata, hint);
    End(SaidBy(address_, status));
  }
  void End(const grpc::Status& status) { Finish(status); }

  const std::shared_ptr<Forwarding> forwarding_;
  const CallMetadata metadata_;
  Context* const context_;
  pb::WatchTaskRequest request_;
  pb::TaskEvent event_;
  std::string address_;
  bool told_ = false;
  int left_ = 2;
  std::unique_ptr<pb::SwarmTasks::Stub> stub_;
  std::mutex mutex_;
  bool cancelled_ = false;
  std::unique_ptr<Reader> call_;
};

class ForwardingTasks final : public pb::SwarmTasks::CallbackService {
 public:
  ForwardingTasks(std::shared_ptr<Forwarding> forwarding, std::function<bool()> stopping,
                  std::function<absl::Status()> leads, pb::SwarmTasks::CallbackService& local, Access* access)
      : leader_(std::move(forwarding), std::move(stopping), std::move(leads)),
        local_(local),
        access_(access) {}

  grpc::ServerWriteReactor<pb::TaskEvent>* WatchTask(Context* context,
                                                     const pb::WatchTaskRequest* request) override {
    const std::string leader = leader_.AddressFor(*context);
    const absl::StatusOr<Caller> caller = CallerOf(*context, access_);
    if (leader.empty() || !caller.ok()) return local_.WatchTask(context, request);
    auto* watch = new ForwardedWatch(leader_.forwarding(), MetadataFor(*caller), context, *request);
    watch->Start(leader);
    return watch;
  }

#define OMNI_FORWARD(Method, Request, Response)                                                        \
  Unary* Method(Context* context, const pb::Request* request, pb::Response* response) override {       \
    const std::string leader = leader_.AddressFor(*context);                                           \
    const absl::StatusOr<Caller> caller = CallerOf(*context, access_);                                 \
    if (leader.empty() || !caller.ok()) return local_.Method(context, request, response);              \
    Unary* reactor = context->DefaultReactor();                                                        \
    auto* call = new ForwardedUnary<pb::SwarmTasks, pb::Request, pb::Response>(                        \
        leader_.forwarding(), std::nullopt, context, reactor, MetadataFor(*caller), request, response, \
        [](pb::SwarmTasks::Stub& stub, grpc::ClientContext* asked, const pb::Request* what,            \
           pb::Response* to, std::function<void(grpc::Status)> done) {                                 \
          stub.async()->Method(asked, what, to, std::move(done));                                      \
        });                                                                                            \
    call->Start(leader);                                                                               \
    return reactor;                                                                                    \
  }
  OMNI_FORWARD(SubmitTask, SubmitTaskRequest, SubmitTaskResponse)
  OMNI_FORWARD(SubmitBatch, SubmitBatchRequest, SubmitBatchResponse)
  OMNI_FORWARD(GetTask, GetTaskRequest, Task)
  OMNI_FORWARD(ListTasks, ListTasksRequest, ListTasksResponse)
  OMNI_FORWARD(ListDeadLetters, ListDeadLettersRequest, ListTasksResponse)
  OMNI_FORWARD(CancelTask, CancelTaskRequest, Task)
  OMNI_FORWARD(RetryTask, RetryTaskRequest, Task)
  OMNI_FORWARD(PurgeTask, PurgeTaskRequest, PurgeTaskResponse)
  OMNI_FORWARD(GetArtifact, GetArtifactRequest, GetArtifactResponse)
  OMNI_FORWARD(PutSchedule, PutScheduleRequest, Schedule)
  OMNI_FORWARD(ListSchedules, ListSchedulesRequest, ListSchedulesResponse)
  OMNI_FORWARD(DeleteSchedule, DeleteScheduleRequest, DeleteScheduleResponse)
  OMNI_FORWARD(ListExecutors, ListExecutorsRequest, ListExecutorsResponse)
#undef OMNI_FORWARD

 private:
  static CallMetadata MetadataFor(const Caller& caller) {
    CallMetadata metadata = ForwardedFor(caller.name, {});
    if (caller.scopes.Has(Scope::kAdmin)) metadata.emplace_back(kForwardedAllMetadata, "1");
    return metadata;
  }

  const ToLeader leader_;
  pb::SwarmTasks::CallbackService& local_;
  Access* const access_;
};

}  // namespace

std::unique_ptr<grpc::Service> ForwardingBackend::MakeTaskService(grpc::Service& local, Access* access,
                                                                  std::function<absl::Status()> leads) {
  return std::make_unique<ForwardingTasks>(forwarding_, stopping_, std::move(leads),
                                           dynamic_cast<pb::SwarmTasks::CallbackService&>(local), access);
}

}  // namespace omni
