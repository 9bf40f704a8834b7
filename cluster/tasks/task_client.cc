#include "cluster/tasks/task_client.h"

#include <chrono>
#include <map>
#include <mutex>
#include <string_view>
#include <thread>
#include <utility>

#include <absl/strings/str_cat.h>
#include <grpcpp/grpcpp.h>

#include "cluster/channel_credentials.h"
#include "cluster/grpc_cut_off.h"
#include "cluster/grpc_status.h"
#include "cluster/loopback.h"
#include "cluster/node_credentials.h"
#include "cluster/tasks/sha256.h"
#include "cluster/tasks/task_json.h"
#include "cluster/tasks/task_messages.h"
#include "engine/base/quoted.h"
#include "omni/tasks/v1/tasks.grpc.pb.h"

namespace omni {
namespace {

namespace pb = ::omni::tasks::v1;
using Clock = std::chrono::steady_clock;
using Stub = pb::SwarmTasks::Stub;

constexpr std::chrono::seconds kOneCall{10};
constexpr std::chrono::milliseconds kPause{50};
constexpr std::chrono::milliseconds kConnecting{2000};  // at most

bool MayPass(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status);
}

// One of the methods: from JSON to JSON, by one node.
using JsonCall = std::function<grpc::Status(Stub&, grpc::ClientContext*, std::string* answer)>;

template <typename Request, typename Response>
absl::StatusOr<JsonCall> Prepare(grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&,
                                                              Response*),
                                 const std::string& json) {
  auto request = std::make_shared<Request>();
  if (absl::Status s = ReadTaskJson(json, request.get()); !s.ok()) return s;
  return [request, method](Stub& stub, grpc::ClientContext* context, std::string* answer) {
    Response response;
    const grpc::Status status = (stub.*method)(context, *request, &response);
    if (status.ok()) *answer = TaskJson(response);
    return status;
  };
}

absl::StatusOr<JsonCall> PrepareByName(std::string_view method, const std::string& json) {
  if (method == "SubmitTask") return Prepare(&Stub::SubmitTask, json);
  if (method == "SubmitBatch") return Prepare(&Stub::SubmitBatch, json);
  if (method == "GetTask") return Prepare(&Stub::GetTask, json);
  if (method == "ListTasks") return Prepare(&Stub::ListTasks, json);
  if (method == "CancelTask") return Prepare(&Stub::CancelTask, json);
  if (method == "RetryTask") return Prepare(&Stub::RetryTask, json);
  if (method == "ListDeadLetters") return Prepare(&Stub::ListDeadLetters, json);
  if (method == "PurgeTask") return Prepare(&Stub::PurgeTask, json);
  if (method == "GetArtifact") return Prepare(&Stub::GetArtifact, json);
  if (method == "PutSchedule") return Prepare(&Stub::PutSchedule, json);
  if (method == "ListSchedules") return Prepare(&Stub::ListSchedules, json);
  if (method == "DeleteSchedule") return Prepare(&Stub::DeleteSchedule, json);
  if (method == "ListExecutors") return Prepare(&Stub::ListExecutors, json);
  return absl::UnimplementedError(absl::StrCat("SwarmTasks has no ", Quoted(method), " with one answer"));
}

}  // namespace

struct RemoteTasks::Impl {
  // The next to be asked; whom another has named comes first.
  std::string Next(const std::string& hint) {
    const std::lock_guard lock(mutex);
    if (!hint.empty()) return current = hint;
    if (!current.empty()) return current;
    return current = options.addresses[turn++ % options.addresses.size()];
  }
  void Failed() {
    const std::lock_guard lock(mutex);
    current.clear();
  }
  std::unique_ptr<Stub> StubOf(const std::string& address) {
    const std::lock_guard lock(mutex);
    std::shared_ptr<grpc::Channel>& channel = channels[address];
    if (channel == nullptr) {
      grpc::ChannelArguments arguments;
      arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
      arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
      arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, static_cast<int>(kPause.count()));
      arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, static_cast<int>(kConnecting.count()));
      arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2000);
      // A node that has been silently cut off is noticed by its silence.
      arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, static_cast<int>(kClientPing.count()));
      arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 5000);
      arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
      channel = grpc::CreateCustomChannel(address, credentials->channel(), arguments);
    }
    return pb::SwarmTasks::NewStub(channel);
  }
  // A key is not sent in the clear, whatever plain links are allowed for else.
  void ShowKey(grpc::ClientContext& context, const std::string& address) const {
    if (!options.key.empty() && (!options.certificates.empty() || IsLoopback(address)))
      context.AddMetadata("authorization", absl::StrCat("Bearer ", options.key));
  }
  // Whom a node has named that keeps no tasks; empty: nobody else.
  static std::string HintOf(const grpc::ClientContext& context, const std::string& asked) {
    const auto& trailing = context.GetServerTrailingMetadata();
    const auto found = trailing.find(kCoordinatorMetadata);
    if (found == trailing.end()) return "";
    std::string hint(found->second.data(), found->second.size());
    return hint == asked ? "" : hint;
  }
  absl::Status Explain(const absl::Status& status, const std::string& address) const {
    return credentials->Explain(absl::Status(status.code(), absl::StrCat(address, ": ", status.message())),
                                address);
  }

  ClusterClientOptions options;
  std::unique_ptr<NodeCredentials> credentials;
  std::mutex mutex;
  std::string current;
  size_t turn = 0;
  std::map<std::string, std::shared_ptr<grpc::Channel>> channels;
};

RemoteTasks::RemoteTasks(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
RemoteTasks::~RemoteTasks() = default;

absl::StatusOr<std::unique_ptr<RemoteTasks>> RemoteTasks::Make(ClusterClientOptions options) {
  if (options.addresses.empty()) return absl::InvalidArgumentError("no address of a node was given");
  auto impl = std::make_unique<Impl>();
  absl::StatusOr<std::unique_ptr<NodeCredentials>> made =
      NodeCredentials::Make(options.certificates, options.addresses, options.allow_plain);
  if (!made.ok()) return made.status();
  impl->credentials = *std::move(made);
  impl->options = std::move(options);
  return std::unique_ptr<RemoteTasks>(new RemoteTasks(std::move(impl)));
}

absl::StatusOr<std::string> RemoteTasks::Call(const std::string& method, const std::string& request) {
  const absl::StatusOr<JsonCall> call = PrepareByName(method, request);
  if (!call.ok()) return call.status();
  const auto until = Clock::now() + impl_->options.patience;
  std::string hint;
  while (true) {
    const std::string address = impl_->Next(std::exchange(hint, ""));
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + kOneCall);
    impl_->ShowKey(context, address);
    std::string answer;
    const grpc::Status said = (*call)(*impl_->StubOf(address), &context, &answer);
    const absl::Status status = FromGrpc(said);
    if (status.ok()) return answer;
    if (!MayPass(status) && !CutOff(said)) return status;
    impl_->Failed();
    hint = Impl::HintOf(context, address);
    if (Clock::now() >= until) return impl_->Explain(status, address);
    std::this_thread::sleep_for(kPause);
  }
}

absl::Status RemoteTasks::Watch(const TaskId& id, int64_t after, const OnEvent& on_event,
                                const std::stop_token& stop) {
  auto until = Clock::now() + impl_->options.patience;
  std::string hint;
  while (true) {
    const std::string address = impl_->Next(std::exchange(hint, ""));
    const std::unique_ptr<Stub> stub = impl_->StubOf(address);
    grpc::ClientContext context;
    impl_->ShowKey(context, address);
    const std::stop_callback cancel(stop, [&context] { context.TryCancel(); });
    pb::WatchTaskRequest request;
    request.set_id(id);
    request.set_after(after);
    const auto begun = Clock::now();
    const auto reader = stub->WatchTask(&context, request);
    pb::TaskEvent message;
    bool wanted = true;
    absl::Status wrong;
    while (wanted && wrong.ok() && reader->Read(&message)) {
      until = Clock::now() + impl_->options.patience;
      const absl::StatusOr<TaskEvent> event = ReadEvent(message);
      if (!event.ok()) {
        wrong = event.status();
      } else if (event->number != after + 1) {
        wrong = absl::DataLossError(
            absl::StrCat(address, " sent event ", event->number, " of the task after event ", after));
      } else {
        after = event->number;
        wanted = on_event(*event, TaskJson(message));
      }
    }
    if (!wanted || !wrong.ok()) context.TryCancel();
    const grpc::Status said = reader->Finish();
    const absl::Status status = FromGrpc(said);
    if (!wrong.ok()) return wrong;
    if (!wanted || stop.stop_requested() || status.ok()) return absl::OkStatus();
    if (!MayPass(status) && !CutOff(said)) return status;
    impl_->Failed();
    hint = Impl::HintOf(context, address);
    // It was connected, and there was nothing to tell: that was no failure until now.
    if (Clock::now() - begun > 2 * kConnecting) until = Clock::now() + impl_->options.patience;
    if (Clock::now() >= until) return impl_->Explain(status, address);
    std::this_thread::sleep_for(kPause);
  }
}

absl::Status RemoteTasks::FetchArtifact(const TaskId& id, const std::string& name,
                                        const std::function<absl::Status(std::string_view piece)>& write) {
  Sha256 hash;
  pb::GetArtifactRequest request;
  request.set_id(id);
  request.set_name(name);
  pb::GetArtifactResponse piece;
  do {
    const absl::StatusOr<std::string> answer = Call("GetArtifact", TaskJson(request));
    if (!answer.ok()) return answer.status();
    piece.Clear();
    if (!ReadTaskJson(*answer, &piece).ok())
      return absl::InternalError("the answer is no piece of an artifact");
    hash.Update(piece.data().data(), piece.data().size());
    if (absl::Status s = write(piece.data()); !s.ok()) return s;
    request.set_event(piece.event());  // the same one, even if another attempt leaves one of that name
    request.set_offset(request.offset() + static_cast<int64_t>(piece.data().size()));
  } while (request.offset() < piece.size() && !piece.data().empty());
  if (request.offset() == piece.size() && hash.Hex() == piece.sha256()) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(Quoted(name),
                                          ": what came is not what its hash says; it was damaged ",
                                          "on the way or on the disk of ", piece.node()));
}

}  // namespace omni
