#include "cluster/tasks/task_client.h"

#include <chrono>
#include <string_view>
#include <utility>

#include <absl/strings/str_cat.h>
#include <grpcpp/grpcpp.h>

#include "cluster/asked_nodes.h"
#include "cluster/grpc_status.h"
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
  std::unique_ptr<Stub> StubOf(const std::string& address) {
    return pb::SwarmTasks::NewStub(nodes->ChannelTo(address));
  }

  std::unique_ptr<AskedNodes> nodes;
};

RemoteTasks::RemoteTasks(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
RemoteTasks::~RemoteTasks() = default;

absl::StatusOr<std::unique_ptr<RemoteTasks>> RemoteTasks::Make(ClusterClientOptions options) {
  auto impl = std::make_unique<Impl>();
  absl::StatusOr<std::unique_ptr<AskedNodes>> nodes = AskedNodes::Make(std::move(options));
  if (!nodes.ok()) return nodes.status();
  impl->nodes = *std::move(nodes);
  return std::unique_ptr<RemoteTasks>(new RemoteTasks(std::move(impl)));
}

absl::StatusOr<std::string> RemoteTasks::Call(const std::string& method, const std::string& request) {
  const absl::StatusOr<JsonCall> call = PrepareByName(method, request);
  if (!call.ok()) return call.status();
  std::string answer;
  const absl::Status status =
      impl_->nodes->Call(kOneCall, [&](const std::string& address, grpc::ClientContext& context) {
        answer.clear();
        return (*call)(*impl_->StubOf(address), &context, &answer);
      });
  if (!status.ok()) return status;
  return answer;
}

absl::Status RemoteTasks::Watch(const TaskId& id, int64_t after, const OnEvent& on_event,
                                const std::stop_token& stop) {
  Silence silence(*impl_->nodes);
  std::string hint;
  while (true) {
    const std::string address = impl_->nodes->Next(std::exchange(hint, ""));
    const std::unique_ptr<Stub> stub = impl_->StubOf(address);
    grpc::ClientContext context;
    impl_->nodes->ShowKey(context, address);
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
      silence.Heard();
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
    if (!AskedNodes::MayPass(said)) return status;
    impl_->nodes->Failed();
    hint = AskedNodes::HintOf(context, address);
    // It was connected, and there was nothing to tell: that was no failure until now.
    if (Clock::now() - begun > 2 * kConnecting) silence.Heard();
    const absl::Status over = silence.Failed(address, status, hint);
    if (absl::IsCancelled(over)) return absl::OkStatus();
    if (!over.ok()) return over;
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
