#include "cluster/tasks/remote_lender.h"

#include <chrono>
#include <condition_variable>
#include <future>
#include <map>
#include <mutex>
#include <set>
#include <type_traits>
#include <utility>

#include <absl/strings/str_cat.h>
#include <grpcpp/grpcpp.h>

#include "cluster/channel_credentials.h"
#include "cluster/cluster_client.h"
#include "cluster/grpc_errors.h"
#include "cluster/grpc_status.h"
#include "cluster/tasks/lending_messages.h"
#include "omni/tasks/v1/lending.grpc.pb.h"

namespace omni {
namespace {

namespace pb = ::omni::tasks::v1;

constexpr std::chrono::seconds kOneCall{5};   // a lease lasts for some of them
constexpr std::chrono::seconds kLastCall{1};  // of a process that ends
constexpr int kMostMessage = 256 << 20;       // a checkpoint can be as much as a task's events

// What may be another answer next time.
absl::Status Passing(const grpc::Status& status) {
  const absl::Status s = FromGrpc(status);
  if (absl::IsCancelled(s) || absl::IsDeadlineExceeded(s) || absl::IsUnknown(s) || absl::IsInternal(s) ||
      absl::IsUnimplemented(s) || absl::IsUnauthenticated(s) || absl::IsPermissionDenied(s))
    return absl::UnavailableError(s.message());
  return s;
}

}  // namespace

struct RemoteLender::Impl {
  explicit Impl(RemoteLenderOptions o) : options(std::move(o)) {}

  TaskLender* Own() const { return options.own != nullptr && options.own_keeps() ? options.own : nullptr; }

  template <typename Request, typename Response>
  struct Call {
    std::unique_ptr<grpc::ClientContext> context = std::make_unique<grpc::ClientContext>();
    Request request;
    Response response;
    std::unique_ptr<pb::TaskLending::Stub> stub;
    std::string address;
    std::function<void(absl::Status, Response&)> done;
  };

  // `ask` begins the call.
  template <typename Request, typename Response, typename Ask>
  void Start(std::shared_ptr<Call<Request, Response>> call, std::chrono::milliseconds most, const Ask& ask) {
    {
      const std::lock_guard lock(mutex);
      bool takes_one = false;
      if constexpr (std::is_same_v<Request, pb::TakeRequest>) takes_one = !call->request.ends();
      if (!over && !(takes_one && stopped_taking)) call->address = hint.empty() ? options.keeper(turn) : hint;
      if (!call->address.empty()) {
        call->stub = pb::TaskLending::NewStub(ChannelTo(call->address));
        ++under_way;
        calls.insert(call->context.get());
        if (takes_one) takes.insert(call->context.get());
      }
    }
    if (call->stub == nullptr)
      return call->done(absl::UnavailableError("nobody is known who keeps the tasks"), call->response);
    call->context->set_deadline(std::chrono::system_clock::now() + most);
    ask(*call->stub->async(), *call, [this, call](const grpc::Status& status) {
      const absl::Status s = Passing(status);
      {
        const std::lock_guard lock(mutex);
        if (absl::IsUnavailable(s)) {
          const auto& trailing = call->context->GetServerTrailingMetadata();
          const auto found = trailing.find(kCoordinatorMetadata);
          hint = found == trailing.end() ? "" : std::string(found->second.data(), found->second.size());
          if (hint == call->address) hint.clear();
          if (hint.empty()) ++turn;
        }
      }
      call->done(s, call->response);
      {
        const std::lock_guard lock(mutex);
        calls.erase(call->context.get());
        takes.erase(call->context.get());
      }
      // With the last channel gRPC joins the threads that call back, of which this is one: what holds on to
      // the channel goes while `channels` still has it.
      call->done = nullptr;
      call->stub = nullptr;
      call->context = nullptr;
      // The last thing: whoever ends this waits for it.
      const std::lock_guard lock(mutex);
      if (--under_way == 0) none.notify_all();
    });
  }

  std::shared_ptr<grpc::Channel> ChannelTo(const std::string& address) {
    std::shared_ptr<grpc::Channel>& channel = channels[address];
    if (channel != nullptr) return channel;
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
    arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
    arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 2000);
    arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2000);
    // A node that has been silently cut off is noticed by its silence.
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, static_cast<int>(kClientPing.count()));
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 5000);
    arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
    arguments.SetMaxReceiveMessageSize(kMostMessage);
    return channel = grpc::CreateCustomChannel(address, options.credentials, arguments);
  }

  void End(pb::EndRequest request, Told told) {
    auto call = std::make_shared<Call<pb::EndRequest, pb::EndResponse>>();
    call->request = std::move(request);
    call->done = [told = std::move(told)](const absl::Status& s, pb::EndResponse&) { told(s); };
    Start(call, kOneCall, [](auto& stub, auto& c, auto done) {
      stub.End(c.context.get(), &c.request, &c.response, std::move(done));
    });
  }

  // A call that was cancelled may have been given a task already: nobody would do it until its lease is over.
  void SayThatItEnds(std::string node, std::string worker, std::function<void()> done) {
    auto call = std::make_shared<Call<pb::TakeRequest, pb::TakeResponse>>();
    call->request.set_node(std::move(node));
    call->request.set_worker(std::move(worker));
    call->request.set_ends(true);
    call->done = [done = std::move(done)](const absl::Status&, const pb::TakeResponse&) { done(); };
    Start(call, kLastCall, [](auto& stub, auto& c, auto told) {
      stub.Take(c.context.get(), &c.request, &c.response, std::move(told));
    });
  }

  const RemoteLenderOptions options;
  std::mutex mutex;
  std::condition_variable none;
  std::set<grpc::ClientContext*> calls, takes;  // that can be cancelled; takes: those of the calls that are
  int64_t under_way = 0;                        // calls that have something of gRPC's left
  std::map<std::string, std::shared_ptr<grpc::Channel>> channels;
  std::string hint;  // whom the last one named
  size_t turn = 0;
  bool over = false, stopped_taking = false;
  std::string node, worker;  // who has taken last
  bool unsure = false;       // its calls were cancelled
};

RemoteLender::RemoteLender(RemoteLenderOptions options) : impl_(std::make_unique<Impl>(std::move(options))) {}
RemoteLender::~RemoteLender() {
  std::unique_lock lock(impl_->mutex);
  if (impl_->unsure) {
    lock.unlock();
    std::promise<void> told;
    impl_->SayThatItEnds(impl_->node, impl_->worker, [&told] { told.set_value(); });
    told.get_future().wait();
    lock.lock();
  }
  impl_->over = true;
  for (grpc::ClientContext* context : impl_->calls) context->TryCancel();
  impl_->none.wait(lock, [this] { return impl_->under_way == 0; });
}

void RemoteLender::StopTaking() {
  const std::lock_guard lock(impl_->mutex);
  impl_->stopped_taking = true;
  impl_->unsure = impl_->unsure || !impl_->takes.empty();
  for (grpc::ClientContext* context : impl_->takes) context->TryCancel();
}

void RemoteLender::Take(std::string worker, std::string node, std::vector<TaskOffer> offers,
                        Done<std::optional<TaskAssignment>> done) {
  Await(std::move(worker), std::move(node), std::move(offers), TaskDuration(0), std::move(done));
}

void RemoteLender::Await(std::string worker, std::string node, std::vector<TaskOffer> offers,
                         TaskDuration most, Done<std::optional<TaskAssignment>> done) {
  if (TaskLender* own = impl_->Own())
    return own->Await(std::move(worker), std::move(node), std::move(offers), most, std::move(done));
  auto call = std::make_shared<Impl::Call<pb::TakeRequest, pb::TakeResponse>>();
  pb::TakeRequest& request = call->request;
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->worker = worker;
    impl_->node = node;
  }
  request.set_worker(std::move(worker));
  request.set_node(std::move(node));
  for (TaskOffer& offer : offers) {
    pb::Offer& told = *request.add_offers();
    told.set_executor(std::move(offer.executor));
    told.set_target(std::move(offer.target));
  }
  if (impl_->options.address) request.set_address(impl_->options.address());
  if (impl_->options.places) {
    for (TaskPlaces& place : impl_->options.places()) {
      pb::Offer& told = *request.add_all();
      told.set_executor(std::move(place.executor));
      told.set_target(std::move(place.target));
      told.set_description(std::move(place.description));
      told.set_slots(place.slots);
      told.set_running(place.running);
    }
  }
  request.mutable_wait()->set_seconds(std::chrono::duration_cast<std::chrono::seconds>(most).count());
  call->done = [done = std::move(done)](const absl::Status& s, const pb::TakeResponse& response) {
    if (!s.ok()) return done(s);
    done(response.has_task() ? std::optional(ReadAssignment(response.task())) : std::nullopt);
  };
  impl_->Start(call, most + kOneCall, [](auto& stub, auto& c, auto told) {
    stub.Take(c.context.get(), &c.request, &c.response, std::move(told));
  });
}

void RemoteLender::Report(std::string token, TaskReport report, Done<TaskLedger::Told> done) {
  if (TaskLender* own = impl_->Own())
    return own->Report(std::move(token), std::move(report), std::move(done));
  auto call = std::make_shared<Impl::Call<pb::ReportRequest, pb::ReportResponse>>();
  call->request.set_token(std::move(token));
  TellReport(report, *call->request.mutable_report());
  call->done = [done = std::move(done)](const absl::Status& s, const pb::ReportResponse& response) {
    if (!s.ok()) return done(s);
    done(TaskLedger::Told{{}, response.cancel()});
  };
  impl_->Start(call, kOneCall, [](auto& stub, auto& c, auto told) {
    stub.Report(c.context.get(), &c.request, &c.response, std::move(told));
  });
}

void RemoteLender::Succeed(std::string token, TaskReport last, std::string result, Told told) {
  if (TaskLender* own = impl_->Own())
    return own->Succeed(std::move(token), std::move(last), std::move(result), std::move(told));
  pb::EndRequest request;
  request.set_token(std::move(token));
  TellReport(last, *request.mutable_report());
  request.mutable_succeeded()->set_result(std::move(result));
  impl_->End(std::move(request), std::move(told));
}

void RemoteLender::Fail(std::string token, TaskReport last, std::string error, std::string message,
                        Told told) {
  if (TaskLender* own = impl_->Own())
    return own->Fail(std::move(token), std::move(last), std::move(error), std::move(message),
                     std::move(told));
  pb::EndRequest request;
  request.set_token(std::move(token));
  TellReport(last, *request.mutable_report());
  request.mutable_failed()->set_error(std::move(error));
  request.mutable_failed()->set_message(std::move(message));
  impl_->End(std::move(request), std::move(told));
}

void RemoteLender::Return(std::string token, Told told) {
  if (TaskLender* own = impl_->Own()) return own->Return(std::move(token), std::move(told));
  pb::EndRequest request;
  request.set_token(std::move(token));
  request.mutable_returned();
  impl_->End(std::move(request), std::move(told));
}

void RemoteLender::AddListener(TaskListener* listener) {
  if (impl_->options.own != nullptr) impl_->options.own->AddListener(listener);
}
void RemoteLender::RemoveListener(TaskListener* listener) {
  if (impl_->options.own != nullptr) impl_->options.own->RemoveListener(listener);
}

}  // namespace omni
