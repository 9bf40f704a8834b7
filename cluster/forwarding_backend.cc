#include "cluster/forwarding_backend.h"

#include <chrono>
#include <utility>

#include <absl/strings/str_cat.h>

#include "actors/session.h"
#include "cluster/confidence_proto.h"
#include "cluster/forwarded_answer.h"
#include "cluster/grpc_status.h"
#include "cluster/request_ids.h"
#include "cluster/sampler_proto.h"

namespace omni {
namespace {

namespace pb = ::omni::inference::v1;

constexpr size_t kUnread = 256;  // tokens: a client so far behind is waited for

StopReason ReasonOf(const std::string& name) {
  for (const StopReason reason :
       {StopReason::kEndOfText, StopReason::kStop, StopReason::kContext, StopReason::kCancelled}) {
    if (name == StopReasonName(reason)) return reason;
  }
  return StopReason::kLength;
}

pb::GenerateRequest ToProto(const GenerateRequest& request) {
  pb::GenerateRequest ask;
  ask.set_request_id("forwarded-" + NewRequestId());
  for (TokenId token : request.prompt) ask.add_tokens(token.value);
  ask.set_max_tokens(static_cast<uint64_t>(request.max_tokens));
  TellSampler(request.sampler, *ask.mutable_sampler());
  for (const std::string& stop : request.stops) ask.add_stops(stop);
  ask.set_ignore_end_of_text(!request.stop_at_end_of_text);
  ask.set_alternatives(static_cast<uint32_t>(request.alternatives));
  ask.set_routes(request.routes);
  if (request.perspectives.has_value()) ask.set_perspectives(PerspectiveText(*request.perspectives));
  ask.set_safety(request.safety.polytope);
  ask.set_safety_hash(request.safety.hash);
  ask.set_adapter(request.adapter.name);
  ask.set_adapter_hash(request.adapter.hash);
  ask.set_context_memory(request.context_memory);
  ask.set_memory(request.memory.scope);
  ask.set_memory_version(request.memory.version);
  return ask;
}

GenerateEvent ToEvent(const pb::Token& token) {
  GenerateEvent event;
  event.is_token = true;
  event.token = TokenId(token.id());
  event.probability = token.probability();
  event.text = token.text();
  for (const pb::Alternative& other : token.alternatives())
    event.alternatives.push_back({TokenId(other.id()), other.probability()});
  for (uint32_t expert : token.experts()) event.routes.emplace_back(static_cast<int32_t>(expert));
  if (token.has_confidence()) event.confidence = FromProto(token.confidence(), event.token);
  event.notes = NotesOf(token);
  return event;
}

// What an answer says becomes a session's news; it ends with the answer.
class ToChannel final : public ForwardedAnswer::Client {
 public:
  ToChannel(int64_t prompt, std::string adapter, std::shared_ptr<SessionChannel> channel)
      : prompt_(prompt), channel_(std::move(channel)) {
    result_.adapter.name = std::move(adapter);
  }

  bool OnMessage(const pb::GenerateResponse& message) override {
    if (message.has_begun() && !result_.adapter.name.empty()) {
      result_.adapter.hash = message.begun().adapter_hash();
      if (result_.adapter.hash.empty()) channel_->Close(NotAdapted(message.begun().coordinator()));
    }
    if (message.has_progress()) {
      GenerateEvent event;
      event.position = static_cast<int64_t>(message.progress().prompt_tokens());
      return channel_->Push(std::move(event));
    }
    if (message.has_token()) {
      GenerateEvent event = ToEvent(message.token());
      result_.tokens.push_back(event.token);
      result_.text += event.text;
      event.position = prompt_ + static_cast<int64_t>(result_.tokens.size());
      return channel_->Push(std::move(event));
    }
    if (message.has_finished()) OnFinished(message.finished());
    return true;
  }
  void OnEnd(const grpc::Status& status) override {
    if (status.error_code() == grpc::StatusCode::CANCELLED) {
      result_.reason = StopReason::kCancelled;
    } else if (!status.ok()) {
      channel_->Close(FromGrpc(status));
      delete this;
      return;
    }
    channel_->Close(std::move(result_));
    delete this;
  }

 private:
  void OnFinished(const pb::Finished& finished) {
    const auto nanoseconds = [](double seconds) {
      return std::chrono::nanoseconds(static_cast<int64_t>(seconds * 1e9));
    };
    result_.reason = ReasonOf(finished.reason());
    result_.timings.prompt_tokens = prompt_;
    result_.timings.generated_tokens = static_cast<int64_t>(result_.tokens.size());
    result_.timings.queued = nanoseconds(finished.queued_seconds());
    result_.timings.prefill = nanoseconds(finished.prefill_seconds());
    result_.timings.decode = nanoseconds(finished.decode_seconds());
    if (finished.text().empty()) return;
    GenerateEvent rest;
    rest.position = prompt_ + static_cast<int64_t>(result_.tokens.size());
    rest.text = finished.text();
    result_.text += rest.text;
    channel_->Push(std::move(rest));
  }

  const int64_t prompt_;
  const std::shared_ptr<SessionChannel> channel_;
  GenerateResult result_;
};

}  // namespace

ForwardingBackend::ForwardingBackend(InferenceBackend& own,
                                     std::shared_ptr<grpc::ChannelCredentials> credentials, Leader leader)
    : own_(own),
      stopping_(std::move(leader.stopping)),
      forwarding_(std::make_shared<Forwarding>(std::move(credentials), std::move(leader.address),
                                               std::move(leader.own))) {}
ForwardingBackend::~ForwardingBackend() { forwarding_->End(); }

bool ForwardingBackend::WaitForNone(std::chrono::steady_clock::time_point until) {
  return forwarding_->WaitForNone(until);
}

absl::Status ForwardingBackend::Serving() {
  const absl::Status own = own_.Serving();
  if (own.ok() || stopping_() || own_.Elsewhere().empty()) return own;
  if (own_.tokenizer().vocab() == 0) {
    return absl::UnavailableError(
        absl::StrCat(own.message(), "; this node could ask it if its model's folder had the tokenizer"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<OfferedAdapter>> ForwardingBackend::Adapters() {
  if (absl::Status s = own_.Serving(); !s.ok()) return s;
  return own_.Adapters();
}

absl::StatusOr<std::unique_ptr<SessionHandle>> ForwardingBackend::SubmitNamed(GenerateRequest request,
                                                                              SubmitOptions options,
                                                                              const RequestIds& ids) {
  const absl::Status own = own_.Serving();
  if (own.ok()) return own_.Submit(std::move(request), std::move(options));
  if (absl::Status s = Serving(); !s.ok()) return s;
  if (request.embed || request.keep || options.from != nullptr || request.route_policy != nullptr ||
      !request.generated.empty()) {
    return absl::UnavailableError(absl::StrCat("this is done where the cluster is led: ", own.message()));
  }
  const int64_t vocab = own_.tokenizer().vocab();
  if (absl::Status s = CheckRequest(request, vocab, own_.max_context()); !s.ok()) return s;
  auto channel = std::make_shared<SessionChannel>(kUnread, std::move(options.notify));
  auto answer =
      std::make_shared<ForwardedAnswer>(forwarding_, ToProto(request), ForwardedFor(request.caller, ids),
                                        std::chrono::system_clock::time_point::max());
  auto* client = new ToChannel(static_cast<int64_t>(request.prompt.size()), request.adapter.name, channel);
  answer->Start(*client);
  return SessionHandle::OfAnother(
      channel,
      [weak = std::weak_ptr(answer)] {
        if (const auto held = weak.lock()) held->Resume();
      },
      [weak = std::weak_ptr(answer)] {
        if (const auto held = weak.lock()) held->Cancel();
      });
}

}  // namespace omni
