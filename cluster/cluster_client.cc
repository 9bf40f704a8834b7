#include "cluster/cluster_client.h"

#include <algorithm>
#include <utility>

#include <absl/strings/str_cat.h>
#include <grpcpp/grpcpp.h>
#include <third_party/health.grpc.pb.h>

#include "cluster/asked_nodes.h"
#include "cluster/confidence_proto.h"
#include "cluster/grpc_status.h"
#include "cluster/report_proto.h"
#include "cluster/request_ids.h"
#include "cluster/sampler_proto.h"
#include "omni/cluster/v1/admin.grpc.pb.h"
#include "omni/inference/v1/inference.grpc.pb.h"

namespace omni {
namespace {

namespace admin = ::omni::cluster::v1;
namespace texts = ::omni::inference::v1;
using Clock = std::chrono::steady_clock;

constexpr std::chrono::seconds kPlainCall{5};  // one that is answered at once

}  // namespace

struct ClusterClient::Impl {
  // A new one for each call, which notices silence within a second: somebody waits for an answer.
  std::shared_ptr<grpc::Channel> ChannelTo(const std::string& address) const {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
    arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, static_cast<int>(kConnecting.count()));
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, static_cast<int>(kClientPing.count()));
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 1000);
    arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
    return grpc::CreateCustomChannel(address, nodes->credentials().channel(), arguments);
  }

  template <typename F>
  absl::Status Ask(F&& ask) {
    return nodes->Call(kPlainCall, [&](const std::string& address, grpc::ClientContext& context) {
      return ask(*admin::Admin::NewStub(ChannelTo(address)), context);
    });
  }

  std::unique_ptr<AskedNodes> nodes;
};

ClusterClient::ClusterClient(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ClusterClient::~ClusterClient() = default;

absl::StatusOr<std::unique_ptr<ClusterClient>> ClusterClient::Make(ClusterClientOptions options) {
  auto impl = std::make_unique<Impl>();
  absl::StatusOr<std::unique_ptr<AskedNodes>> nodes = AskedNodes::Make(std::move(options));
  if (!nodes.ok()) return nodes.status();
  impl->nodes = *std::move(nodes);
  return std::unique_ptr<ClusterClient>(new ClusterClient(std::move(impl)));
}

absl::Status ClusterClient::Health() {
  namespace health = ::grpc::health::v1;
  constexpr std::chrono::seconds kPatience{2};
  const std::string& address = impl_->nodes->options().addresses.front();
  grpc::ClientContext context;
  context.set_wait_for_ready(true);  // a first look-up may fail, or take a moment
  context.set_deadline(std::chrono::system_clock::now() + kPatience);
  health::HealthCheckResponse response;
  absl::Status asked = FromGrpc(health::Health::NewStub(impl_->ChannelTo(address))
                                    ->Check(&context, health::HealthCheckRequest(), &response));
  if (absl::IsDeadlineExceeded(asked)) asked = absl::UnavailableError("it does not answer");
  if (!asked.ok()) {
    return impl_->nodes->Explain(asked, address);
  }
  if (response.status() == health::HealthCheckResponse::SERVING) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat(
      address, " does not serve now: it is about to end, or coordinates and does not lead (yet)"));
}

absl::StatusOr<ClusterReport> ClusterClient::Status() {
  admin::ClusterStatus response;
  const absl::Status status = impl_->Ask([&](admin::Admin::Stub& stub, grpc::ClientContext& context) {
    return stub.Status(&context, admin::StatusRequest(), &response);
  });
  if (!status.ok()) return status;
  return FromProto(response);
}

absl::Status ClusterClient::Watch(const std::function<bool(const ClusterReport&)>& on_report,
                                  const std::stop_token& stop) {
  Silence silence(*impl_->nodes);
  std::string hint;
  while (true) {
    const std::string address = impl_->nodes->Next(std::exchange(hint, ""));
    const auto stub = admin::Admin::NewStub(impl_->ChannelTo(address));
    grpc::ClientContext context;
    impl_->nodes->ShowKey(context, address);
    const std::stop_callback cancel(stop, [&context] { context.TryCancel(); });
    const auto reader = stub->Watch(&context, admin::StatusRequest());
    admin::ClusterStatus message;
    bool wanted = true;
    while (wanted && reader->Read(&message)) {
      silence.Heard();
      wanted = on_report(FromProto(message));
    }
    if (!wanted) context.TryCancel();
    const grpc::Status said = reader->Finish();
    const absl::Status status = FromGrpc(said);
    if (!wanted || stop.stop_requested()) return absl::OkStatus();
    if (!status.ok() && !AskedNodes::MayPass(said)) return status;
    impl_->nodes->Failed();
    hint = AskedNodes::HintOf(context, address);
    const absl::Status over = silence.Failed(address, status, hint);
    if (absl::IsCancelled(over)) return absl::OkStatus();
    if (!over.ok()) return over;
  }
}

absl::Status ClusterClient::Place(RegionId region, const NodeId& node) {
  admin::PlaceRequest request;
  request.set_region(static_cast<uint32_t>(region.value));
  request.set_node(node.value);
  return impl_->Ask([&](admin::Admin::Stub& stub, grpc::ClientContext& context) {
    admin::PlaceResponse response;
    return stub.Place(&context, request, &response);
  });
}

absl::Status ClusterClient::Drain(const NodeId& node, bool undo) {
  admin::DrainRequest request;
  request.set_node(node.value);
  request.set_undo(undo);
  return impl_->Ask([&](admin::Admin::Stub& stub, grpc::ClientContext& context) {
    admin::DrainResponse response;
    return stub.Drain(&context, request, &response);
  });
}

absl::Status ClusterClient::Forget(const NodeId& node) {
  admin::ForgetRequest request;
  request.set_node(node.value);
  return impl_->Ask([&](admin::Admin::Stub& stub, grpc::ClientContext& context) {
    admin::ForgetResponse response;
    return stub.Forget(&context, request, &response);
  });
}

absl::StatusOr<int> ClusterClient::Rebalance() {
  admin::RebalanceResponse response;
  const absl::Status status = impl_->Ask([&](admin::Admin::Stub& stub, grpc::ClientContext& context) {
    return stub.Rebalance(&context, admin::RebalanceRequest(), &response);
  });
  if (!status.ok()) return status;
  return static_cast<int>(response.moves());
}

absl::StatusOr<std::vector<OfferedAdapter>> ClusterClient::Adapters() {
  texts::ListAdaptersResponse response;
  const absl::Status status =
      impl_->nodes->Call(kPlainCall, [&](const std::string& address, grpc::ClientContext& context) {
        return texts::Inference::NewStub(impl_->ChannelTo(address))
            ->ListAdapters(&context, texts::ListAdaptersRequest(), &response);
      });
  if (!status.ok()) return status;
  std::vector<OfferedAdapter> list;
  for (const texts::Adapter& one : response.adapters()) {
    list.push_back({one.name(), one.hash(), one.model_hash(), static_cast<int64_t>(one.tokens()),
                    static_cast<int64_t>(one.held_out_tokens()), static_cast<int64_t>(one.values()),
                    one.gain()});
  }
  return list;
}

namespace {

texts::GenerateRequest ToProto(const ClusterClient::Request& request) {
  texts::GenerateRequest ask;
  ask.set_request_id(request.id.empty() ? NewRequestId() : request.id);
  ask.set_prompt(request.prompt);
  ask.set_max_tokens(static_cast<uint64_t>(request.max_tokens));
  TellSampler(request.sampler, *ask.mutable_sampler());
  for (const std::string& stop : request.stops) ask.add_stops(stop);
  ask.set_ignore_end_of_text(!request.stop_at_end_of_text);
  if (request.perspectives.has_value()) ask.set_perspectives(PerspectiveText(*request.perspectives));
  ask.set_safety(request.safety);
  ask.set_adapter(request.adapter);
  ask.set_context_memory(request.context_memory);
  ask.set_memory(request.memory);
  return ask;
}

// An answer as one stream after another tells it.
class ToldAnswer {
 public:
  ToldAnswer(bool adapted, const GenerateCallback& on_event) : adapted_(adapted), on_event_(on_event) {}

  // Whether more is wanted. `address`: who sent it, for errors.
  absl::StatusOr<bool> Take(const texts::GenerateResponse& message, const std::string& address) {
    switch (message.kind_case()) {
      case texts::GenerateResponse::kBegun:
        if (absl::Status s = Begin(message.begun(), address); !s.ok()) return s;
        return true;
      case texts::GenerateResponse::kProgress: {
        GenerateEvent event;
        event.position = static_cast<int64_t>(message.progress().prompt_tokens());
        return !on_event_ || !answer.tokens.empty() || on_event_(event);
      }
      case texts::GenerateResponse::kToken:
        return Add(message.token(), address);
      case texts::GenerateResponse::kFinished:
        Finish(message.finished());
        return true;
      default:
        return true;
    }
  }

  ClusterClient::Answer answer;
  bool known = false;  // to a coordinator that lasts
  bool finished = false;

 private:
  absl::Status Begin(const texts::Begun& begun, const std::string& address) {
    known = true;
    answer.model_hash = begun.model_hash();
    answer.safety_hash = begun.safety_hash();
    answer.memory_version = begun.memory_version();
    answer.adapter_hash = begun.adapter_hash();
    if (adapted_ && answer.adapter_hash.empty()) return NotAdapted(address);
    answer.prompt_tokens = static_cast<int64_t>(begun.prompt_tokens());
    return absl::OkStatus();
  }

  absl::StatusOr<bool> Add(const texts::Token& token, const std::string& address) {
    if (token.number() != answer.tokens.size() + 1) {
      return absl::DataLossError(absl::StrCat(address, " sent token ", token.number(),
                                              " of the answer after token ", answer.tokens.size()));
    }
    const Clock::time_point now = Clock::now();
    if (!answer.tokens.empty())
      answer.longest_gap = std::max<std::chrono::nanoseconds>(answer.longest_gap, now - last_);
    last_ = now;
    answer.tokens.push_back(TokenId(token.id()));
    answer.text += token.text();
    GenerateEvent event;
    event.is_token = true;
    event.position = answer.prompt_tokens + static_cast<int64_t>(answer.tokens.size());
    event.token = TokenId(token.id());
    event.probability = token.probability();
    event.text = token.text();
    if (token.has_confidence()) event.confidence = FromProto(token.confidence(), event.token);
    event.notes = NotesOf(token);
    return !on_event_ || on_event_(event);
  }

  void Finish(const texts::Finished& told) {
    const auto nanoseconds = [](double seconds) {
      return std::chrono::nanoseconds(static_cast<int64_t>(seconds * 1e9));
    };
    finished = true;
    answer.reason = told.reason();
    answer.text += told.text();
    answer.queued = nanoseconds(told.queued_seconds());
    answer.prefill = nanoseconds(told.prefill_seconds());
    answer.decode = nanoseconds(told.decode_seconds());
    GenerateEvent event;
    event.position = answer.prompt_tokens + static_cast<int64_t>(answer.tokens.size());
    event.text = told.text();
    if (on_event_ && !event.text.empty()) on_event_(event);
  }

  const bool adapted_;
  const GenerateCallback& on_event_;
  Clock::time_point last_;  // a token came
};

}  // namespace

absl::StatusOr<ClusterClient::Answer> ClusterClient::Generate(const Request& request,
                                                              const GenerateCallback& on_event) {
  texts::GenerateRequest ask = ToProto(request);
  ToldAnswer told(!request.adapter.empty(), on_event);
  Silence silence(*impl_->nodes);
  std::string hint;
  while (true) {
    const std::string address = impl_->nodes->Next(std::exchange(hint, ""));
    const auto stub = texts::Inference::NewStub(impl_->ChannelTo(address));
    grpc::ClientContext context;
    impl_->nodes->ShowKey(context, address);
    const std::stop_callback cancel(request.cancel, [&context] { context.TryCancel(); });
    ask.set_have(told.answer.tokens.size());
    const auto reader = stub->GenerateStream(&context, ask);
    texts::GenerateResponse message;
    absl::StatusOr<bool> wanted = true;
    while (wanted.ok() && *wanted && reader->Read(&message)) {
      silence.Heard();
      wanted = told.Take(message, address);
    }
    if (!wanted.ok() || !*wanted) context.TryCancel();
    const grpc::Status said = reader->Finish();
    if (!wanted.ok()) return wanted.status();
    const absl::Status status = FromGrpc(said);
    if (told.finished) return told.answer;
    const auto cancelled = [&told] {
      told.answer.reason = StopReasonName(StopReason::kCancelled);
      return told.answer;
    };
    if (!*wanted || request.cancel.stop_requested()) return cancelled();
    if (!status.ok() && !AskedNodes::MayPass(said)) return status;
    impl_->nodes->Failed();
    hint = AskedNodes::HintOf(context, address);
    told.answer.reconnects += told.known;
    const absl::Status over = silence.Failed(address, status, hint);
    if (absl::IsCancelled(over)) return cancelled();
    if (!over.ok()) return over;
  }
}

}  // namespace omni
