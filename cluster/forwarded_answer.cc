#include "cluster/forwarded_answer.h"

#include <absl/strings/str_cat.h>

#include "cluster/channel_credentials.h"
#include "cluster/cluster_client.h"
#include "cluster/grpc_access.h"
#include "cluster/grpc_cut_off.h"
#include "cluster/grpc_errors.h"
#include "cluster/grpc_status.h"

namespace omni {
namespace {

namespace pb = ::omni::inference::v1;
using Clock = std::chrono::steady_clock;

constexpr std::chrono::seconds kPatience{30};  // without a message of anybody
constexpr std::chrono::milliseconds kPause{100}, kPauseWithHint{10};

}  // namespace

std::string Forwarding::Leader(size_t turn) {
  std::lock_guard lock(mutex_);
  return leader_ ? leader_(turn) : "";
}

std::shared_ptr<grpc::Channel> Forwarding::ChannelTo(const std::string& address) {
  std::lock_guard lock(mutex_);
  std::shared_ptr<grpc::Channel>& channel = channels_[address];
  if (channel != nullptr) return channel;
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  // How long one attempt to connect may take, and until the next.
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 2000);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2000);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, static_cast<int>(kPause.count()));
  // A node that has been silently cut off is noticed by its silence.
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, static_cast<int>(kClientPing.count()));
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 1000);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  return channel = grpc::CreateCustomChannel(address, credentials_, arguments);
}

bool Forwarding::Enter(const std::shared_ptr<ForwardedAnswer>& answer) {
  std::lock_guard lock(mutex_);
  if (!leader_) return false;
  answers_.insert(answer);
  return true;
}

void Forwarding::Leave(ForwardedAnswer* answer) {
  std::lock_guard lock(mutex_);
  answers_.erase(answer->shared_from_this());
  if (answers_.empty()) none_.notify_all();
}

void Forwarding::EnterOther() {
  std::lock_guard lock(mutex_);
  ++others_;
}

void Forwarding::LeaveOther() {
  std::lock_guard lock(mutex_);
  if (--others_ == 0) none_.notify_all();
}

bool Forwarding::WaitForNone(std::chrono::steady_clock::time_point until) {
  std::unique_lock lock(mutex_);
  return none_.wait_until(lock, until, [this] { return answers_.empty() && others_ == 0; });
}

bool Forwarding::over() {
  std::lock_guard lock(mutex_);
  return !leader_;
}

void Forwarding::End() {
  std::unique_lock lock(mutex_);
  leader_ = nullptr;
  const std::set<std::shared_ptr<ForwardedAnswer>> left = answers_;
  lock.unlock();
  for (const auto& answer : left) answer->Cancel();
  lock.lock();
  none_.wait(lock, [this] { return answers_.empty() && others_ == 0; });
  // With the last channel gRPC joins the threads that call back. Some of them may hold this a while longer:
  // they must not be the ones that let go of it.
  const std::map<std::string, std::shared_ptr<grpc::Channel>> channels = std::exchange(channels_, {});
  lock.unlock();
}

CallMetadata ForwardedFor(const std::string& caller, const RequestIds& ids) {
  CallMetadata metadata = {{kForwardedMetadata, caller}};
  if (!ids.request.empty()) metadata.emplace_back(kRequestIdHeader, ids.request);
  if (!ids.traceparent.empty()) metadata.emplace_back(kTraceparentHeader, ids.traceparent);
  return metadata;
}

std::string Forwarding::HintOf(const grpc::ClientContext& context) {
  const auto& trailing = context.GetServerTrailingMetadata();
  const auto found = trailing.find(kCoordinatorMetadata);
  if (found == trailing.end()) return "";
  const std::string hint(found->second.data(), found->second.size());
  std::lock_guard lock(mutex_);
  return leader_ && own_ && hint == own_() ? "" : hint;
}

grpc::Status SaidBy(const std::string& address, const grpc::Status& status) {
  if (status.ok()) return status;
  if (CutOff(status)) {
    return ToDetailedGrpc(
        absl::UnavailableError(absl::StrCat("the coordinator at ", address, " ended in the middle of it")));
  }
  const std::string message = absl::StrCat("the coordinator at ", address, ": ", status.error_message());
  if (status.error_details().empty())  // nobody was reached who could have said more
    return ToDetailedGrpc(absl::Status(static_cast<absl::StatusCode>(status.error_code()), message));
  return {status.error_code(), message, status.error_details()};
}

struct ForwardedAnswer::Call final : public grpc::ClientReadReactor<pb::GenerateResponse> {
  explicit Call(std::shared_ptr<ForwardedAnswer> a) : answer(std::move(a)) {}
  void OnReadDone(bool ok) override {
    if (ok) answer->OnMessage();
  }
  void OnDone(const grpc::Status& status) override {
    const std::shared_ptr<ForwardedAnswer> keep = answer;
    keep->OnOver(status);  // deletes this
  }
  const std::shared_ptr<ForwardedAnswer> answer;
  grpc::ClientContext context;
  pb::GenerateResponse message;
};

void ForwardedAnswer::Start(Client& client) {
  client_ = &client;
  if (!forwarding_->Enter(shared_from_this()))
    return client.OnEnd(ToDetailedGrpc(absl::UnavailableError("the node is shutting down")));
  Attempt();
}

void ForwardedAnswer::Attempt() {
  const std::string leader = hint_.empty() ? forwarding_->Leader(turn_++) : std::exchange(hint_, "");
  std::unique_lock lock(mutex_);
  if (cancelled_) {
    lock.unlock();
    return End(grpc::Status(grpc::StatusCode::CANCELLED, "the answer was cancelled"));
  }
  if (leader.empty()) {
    if (Clock::now() - heard_ <= kPatience && !forwarding_->over()) return AskAgainSoon();
    lock.unlock();
    return End(
        ToDetailedGrpc(absl::UnavailableError("no coordinator is known to which the request could go")));
  }
  address_ = leader;
  stub_ = pb::Inference::NewStub(forwarding_->ChannelTo(leader));
  ask_.set_have(have_);
  call_ = new Call(shared_from_this());
  for (const auto& [key, value] : metadata_) call_->context.AddMetadata(key, value);
  call_->context.set_deadline(deadline_);
  stub_->async()->GenerateStream(&call_->context, &ask_, call_);
  call_->StartRead(&call_->message);
  call_->StartCall();
}

void ForwardedAnswer::Cancel() {
  std::lock_guard lock(mutex_);
  cancelled_ = true;
  if (call_ != nullptr) {
    call_->context.TryCancel();
    if (std::exchange(paused_, false)) call_->RemoveHold();
  } else if (alarm_ != nullptr) {
    alarm_->Cancel();
  }
}

void ForwardedAnswer::Resume() {
  std::lock_guard lock(mutex_);
  if (!std::exchange(paused_, false)) {
    resumed_ = true;
    return;
  }
  call_->StartRead(&call_->message);
  call_->RemoveHold();
}

void ForwardedAnswer::OnMessage() {
  const pb::GenerateResponse& message = call_->message;
  heard_ = Clock::now();
  bool tell = true;
  if (message.has_token()) {
    if (message.token().number() != have_ + 1) {
      broken_ =
          ToDetailedGrpc(absl::DataLossError("it sent another token of the answer than the one that is due"));
      return call_->context.TryCancel();
    }
    ++have_;
  } else if (message.has_begun()) {
    tell = !std::exchange(heard_any_, true);
  } else if (message.has_progress()) {
    tell = have_ == 0;
  }
  finished_ = finished_ || message.has_finished();
  const bool room = !tell || client_->OnMessage(message);
  std::lock_guard lock(mutex_);
  if (!room && !cancelled_ && !std::exchange(resumed_, false)) {
    paused_ = true;
    call_->AddHold();
  } else {
    call_->StartRead(&call_->message);
  }
}

bool ForwardedAnswer::MayAskAgain(const grpc::Status& over) const {
  if (!over.ok() && over.error_code() != grpc::StatusCode::UNAVAILABLE && !CutOff(over)) return false;
  // Who does not lead has done nothing. What else has broken off unheard may have been saved.
  const bool anew = !heard_any_ && (!hint_.empty() || ask_.save_as().empty());
  return (!ask_.request_id().empty() || anew) && Clock::now() - heard_ <= kPatience && !forwarding_->over();
}

void ForwardedAnswer::OnOver(const grpc::Status& over) {
  std::unique_lock lock(mutex_);
  hint_ = forwarding_->HintOf(call_->context);
  delete std::exchange(call_, nullptr);
  paused_ = resumed_ = false;
  if (!cancelled_ && !finished_ && broken_.ok() && MayAskAgain(over)) return AskAgainSoon();
  const bool cancelled = cancelled_;
  lock.unlock();
  if (finished_) return End(grpc::Status::OK);
  if (cancelled) return End(grpc::Status(grpc::StatusCode::CANCELLED, "the answer was cancelled"));
  const grpc::Status status = !broken_.ok() ? broken_
                              : over.ok()   ? ToDetailedGrpc(absl::UnavailableError("the answer broke off"))
                                            : over;
  End(SaidBy(address_, status));
}

void ForwardedAnswer::AskAgainSoon() {
  alarm_ = std::make_unique<grpc::Alarm>();
  alarm_->Set(std::chrono::system_clock::now() + (hint_.empty() ? kPause : kPauseWithHint),
              [this](bool) { shared_from_this()->Attempt(); });  // the forwarding keeps it until its end
}

void ForwardedAnswer::End(const grpc::Status& status) {
  const std::shared_ptr<ForwardedAnswer> self = shared_from_this();  // until the forwarding is unlocked
  client_->OnEnd(status);
  stub_ = nullptr;
  forwarding_->Leave(this);
}

}  // namespace omni
