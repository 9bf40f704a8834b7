#include "cluster/tasks/a2a_service.h"

#include <mutex>
#include <optional>
#include <utility>

#include <absl/strings/str_cat.h>
#include <grpcpp/grpcpp.h>
#include <third_party/a2a.grpc.pb.h>

#include "cluster/grpc_access.h"
#include "cluster/grpc_errors.h"
#include "cluster/tasks/a2a_error.h"
#include "cluster/tasks/a2a_messages.h"

namespace omni {
namespace {

using Context = grpc::CallbackServerContext;

constexpr size_t kMostRequest = 1 << 20;  // twice what a task may be given

grpc::Status ToA2aGrpc(const absl::Status& status) {
  ErrorDetails details;
  details.reason = A2aErrorOf(status).reason;
  details.domain = "a2a-protocol.org";
  return ToDetailedGrpc(status, details);
}

std::string MetadataText(const Context& context, const char* name) {
  const auto found = context.client_metadata().find(name);
  if (found == context.client_metadata().end()) return "";
  return std::string(found->second.data(), found->second.size());
}

// A call with one answer, which may be waited for. It keeps itself until gRPC has done with it.
class WholeCall final : public grpc::ServerUnaryReactor, public std::enable_shared_from_this<WholeCall> {
 public:
  static std::shared_ptr<WholeCall> Make() {
    auto call = std::make_shared<WholeCall>();
    call->self_ = call;
    return call;
  }
  // Ends it, once; the answer is written into `response` before that, and by nobody after it.
  template <typename T>
  std::function<void(absl::StatusOr<T>)> Into(T* response) {
    return [self = shared_from_this(), response](absl::StatusOr<T> result) {
      self->End(result.status(), [&] { *response = *std::move(result); });
    };
  }
  void Refuse(const absl::Status& status) {
    End(status, [] {});
  }
  // What is let go when the call ends.
  void Hold(std::shared_ptr<void> waiting) {
    const std::lock_guard lock(mutex_);
    if (!over_) waiting_ = std::move(waiting);
  }

 private:
  template <typename Tell>
  void End(const absl::Status& status, const Tell& tell) {
    const std::shared_ptr<WholeCall> keep = shared_from_this();
    std::shared_ptr<void> waiting;
    {
      const std::lock_guard lock(mutex_);
      if (std::exchange(over_, true)) return;
      waiting.swap(waiting_);
      if (status.ok()) tell();
    }
    Finish(ToA2aGrpc(status));
  }
  void OnCancel() override { Refuse(absl::CancelledError("the client has gone")); }
  void OnDone() override { const std::shared_ptr<WholeCall> last = std::move(self_); }

  std::mutex mutex_;
  bool over_ = false;
  std::shared_ptr<void> waiting_;
  std::shared_ptr<WholeCall> self_;
};

// A stream reads one batch of updates, sends it, and reads the next.
class StreamCall final : public grpc::ServerWriteReactor<a2a::StreamResponse>,
                         public std::enable_shared_from_this<StreamCall> {
 public:
  static std::shared_ptr<StreamCall> Make() {
    auto call = std::make_shared<StreamCall>();
    call->self_ = call;
    return call;
  }
  std::function<void(absl::StatusOr<std::shared_ptr<A2aStream>>)> Begin() {
    return [self = shared_from_this()](absl::StatusOr<std::shared_ptr<A2aStream>> stream) {
      if (!stream.ok()) return self->Refuse(stream.status());
      {
        const std::lock_guard lock(self->mutex_);
        if (self->over_) return;
        self->stream_ = *std::move(stream);
      }
      self->Ask();
    };
  }
  // What is being sent is waited for.
  void Refuse(const absl::Status& status) {
    const std::shared_ptr<StreamCall> keep = shared_from_this();
    std::shared_ptr<A2aStream> stream;
    {
      const std::lock_guard lock(mutex_);
      if (over_) return;
      stream.swap(stream_);
      if (sending_) {
        end_ = status;
        return;
      }
      over_ = true;
    }
    Finish(ToA2aGrpc(status));
  }

 private:
  void Ask() {
    std::shared_ptr<A2aStream> stream;
    {
      const std::lock_guard lock(mutex_);
      stream = stream_;
    }
    if (stream == nullptr) return;
    stream->Next([self = shared_from_this()](absl::StatusOr<A2aStream::Batch> batch) {
      if (!batch.ok()) return self->Refuse(batch.status());
      {
        const std::lock_guard lock(self->mutex_);
        if (self->over_) return;
        self->batch_ = *std::move(batch);
        self->sent_ = 0;
      }
      self->GoOn();
    });
  }
  void GoOn() {
    const std::shared_ptr<StreamCall> keep = shared_from_this();
    bool last = false, send = false;
    {
      const std::lock_guard lock(mutex_);
      if (over_) return;
      if (sent_ < batch_.updates.size()) {
        message_ = std::move(batch_.updates[sent_++]);
        send = sending_ = true;
      } else if (batch_.over) {
        last = true;
      } else {
        batch_ = {};
      }
    }
    if (last) return Refuse(absl::OkStatus());
    if (!send) return Ask();
    StartWrite(&message_);
  }
  void OnWriteDone(bool ok) override {
    std::optional<absl::Status> end;
    {
      const std::lock_guard lock(mutex_);
      sending_ = false;
      end = end_;
    }
    if (!ok) end = absl::CancelledError("the client has gone");
    if (end.has_value()) return Refuse(*end);
    GoOn();
  }
  void OnCancel() override { Refuse(absl::CancelledError("the client has gone")); }
  void OnDone() override { const std::shared_ptr<StreamCall> last = std::move(self_); }

  std::mutex mutex_;
  bool over_ = false, sending_ = false;
  std::optional<absl::Status> end_;  // once what is being sent is sent
  std::shared_ptr<A2aStream> stream_;
  A2aStream::Batch batch_;
  size_t sent_ = 0;              // of the batch
  a2a::StreamResponse message_;  // that is being sent
  std::shared_ptr<StreamCall> self_;
};

class A2aService final : public a2a::A2AService::CallbackService {
 public:
  A2aService(A2aHandlers& handlers, Access* access) : handlers_(handlers), access_(access) {}

 private:
  // Who asks, and how.
  absl::StatusOr<A2aAsker> AskerOf(Context& context, const google::protobuf::Message& request) const {
    if (absl::Status s = CheckA2aVersion(MetadataText(context, "a2a-version"), false); !s.ok()) return s;
    if (const size_t bytes = request.ByteSizeLong(); bytes > kMostRequest) {
      return A2aStatus(A2aReason::kInvalidParams,
                       absl::StrCat("the request has ", bytes, " bytes; at most ", kMostRequest));
    }
    const absl::StatusOr<Caller> caller = CallerOf(context, access_);
    if (!caller.ok()) return caller.status();
    const bool extended = WantsA2aExtension(MetadataText(context, "a2a-extensions"));
    if (extended) context.AddInitialMetadata("a2a-extensions", kA2aExtension);
    return A2aAsker{caller->name, extended};
  }
  // `begin(asker, call)` has the call ended, or not begun at all.
  template <typename Call, typename Begin>
  Call* Answer(Context* context, const google::protobuf::Message& request, const Begin& begin) {
    const std::shared_ptr<Call> call = Call::Make();
    const absl::StatusOr<A2aAsker> asker = AskerOf(*context, request);
    if (asker.ok()) {
      begin(*asker, call);
    } else {
      call->Refuse(asker.status());
    }
    return call.get();
  }
  using Whole = std::shared_ptr<WholeCall>;
  using Stream = std::shared_ptr<StreamCall>;

  grpc::ServerUnaryReactor* SendMessage(Context* context, const a2a::SendMessageRequest* request,
                                        a2a::SendMessageResponse* response) override {
    return Answer<WholeCall>(context, *request, [&](const A2aAsker& asker, const Whole& call) {
      call->Hold(handlers_.Send(asker, *request, call->Into(response)));
    });
  }
  grpc::ServerWriteReactor<a2a::StreamResponse>* SendStreamingMessage(
      Context* context, const a2a::SendMessageRequest* request) override {
    return Answer<StreamCall>(context, *request, [&](const A2aAsker& asker, const Stream& call) {
      handlers_.SendStreaming(asker, *request, call->Begin());
    });
  }
  grpc::ServerUnaryReactor* GetTask(Context* context, const a2a::GetTaskRequest* request,
                                    a2a::Task* response) override {
    return Answer<WholeCall>(context, *request, [&](const A2aAsker& asker, const Whole& call) {
      handlers_.Get(asker, *request, call->Into(response));
    });
  }
  grpc::ServerUnaryReactor* ListTasks(Context* context, const a2a::ListTasksRequest* request,
                                      a2a::ListTasksResponse* response) override {
    return Answer<WholeCall>(context, *request, [&](const A2aAsker& asker, const Whole& call) {
      handlers_.List(asker, *request, call->Into(response));
    });
  }
  grpc::ServerUnaryReactor* CancelTask(Context* context, const a2a::CancelTaskRequest* request,
                                       a2a::Task* response) override {
    return Answer<WholeCall>(context, *request, [&](const A2aAsker& asker, const Whole& call) {
      handlers_.Cancel(asker, *request, call->Into(response));
    });
  }
  grpc::ServerWriteReactor<a2a::StreamResponse>* SubscribeToTask(
      Context* context, const a2a::SubscribeToTaskRequest* request) override {
    return Answer<StreamCall>(context, *request, [&](const A2aAsker& asker, const Stream& call) {
      handlers_.Subscribe(asker, *request, call->Begin());
    });
  }
  grpc::ServerUnaryReactor* CreateTaskPushNotificationConfig(
      Context* context, const a2a::TaskPushNotificationConfig* request,
      a2a::TaskPushNotificationConfig* response) override {
    return Answer<WholeCall>(context, *request, [&](const A2aAsker& asker, const Whole& call) {
      handlers_.CreatePush(asker, *request, call->Into(response));
    });
  }
  grpc::ServerUnaryReactor* GetTaskPushNotificationConfig(
      Context* context, const a2a::GetTaskPushNotificationConfigRequest* request,
      a2a::TaskPushNotificationConfig* response) override {
    return Answer<WholeCall>(context, *request, [&](const A2aAsker& asker, const Whole& call) {
      handlers_.GetPush(asker, *request, call->Into(response));
    });
  }
  grpc::ServerUnaryReactor* ListTaskPushNotificationConfigs(
      Context* context, const a2a::ListTaskPushNotificationConfigsRequest* request,
      a2a::ListTaskPushNotificationConfigsResponse* response) override {
    return Answer<WholeCall>(context, *request, [&](const A2aAsker& asker, const Whole& call) {
      handlers_.ListPushes(asker, *request, call->Into(response));
    });
  }
  grpc::ServerUnaryReactor* DeleteTaskPushNotificationConfig(
      Context* context, const a2a::DeleteTaskPushNotificationConfigRequest* request,
      google::protobuf::Empty* response) override {
    return Answer<WholeCall>(context, *request, [&](const A2aAsker& asker, const Whole& call) {
      handlers_.DeletePush(asker, *request, call->Into(response));
    });
  }
  grpc::ServerUnaryReactor* GetExtendedAgentCard(Context* context,
                                                 const a2a::GetExtendedAgentCardRequest* request,
                                                 a2a::AgentCard*) override {
    return Answer<WholeCall>(context, *request, [](const A2aAsker&, const Whole& call) {
      call->Refuse(
          A2aStatus(A2aReason::kExtendedAgentCardNotConfigured, "there is one agent card, for everybody"));
    });
  }

  A2aHandlers& handlers_;
  Access* const access_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeA2aService(A2aHandlers& handlers, Access* access) {
  return std::make_unique<A2aService>(handlers, access);
}

}  // namespace omni
