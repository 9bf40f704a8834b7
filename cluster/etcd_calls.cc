#include "cluster/etcd_calls.h"

#include <algorithm>
#include <vector>

#include <absl/strings/match.h>
#include <absl/strings/str_cat.h>

namespace omni {
namespace {

constexpr std::chrono::milliseconds kTick{1};

enum class Meaning {
  kAnswer,       // etcd decided: an answer, or an error that another member would give too
  kNothingDone,  // this member refused before anything was done
  kUnknown,      // it may have been done, or not
};

Meaning MeaningOf(const grpc::Status& status) {
  switch (status.error_code()) {
    case grpc::StatusCode::UNAVAILABLE:
      return absl::StrContains(status.error_message(), "etcdserver: no leader") ? Meaning::kNothingDone
                                                                                : Meaning::kUnknown;
    case grpc::StatusCode::RESOURCE_EXHAUSTED:
      return absl::StrContains(status.error_message(), "too many requests") ? Meaning::kNothingDone
                                                                            : Meaning::kAnswer;
    case grpc::StatusCode::DEADLINE_EXCEEDED:
    case grpc::StatusCode::CANCELLED:
    case grpc::StatusCode::UNKNOWN:
    case grpc::StatusCode::INTERNAL:
    case grpc::StatusCode::ABORTED:
      return Meaning::kUnknown;
    default:
      return Meaning::kAnswer;
  }
}

}  // namespace

absl::Status FromEtcd(const std::string& what, const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  std::string message = absl::StrCat("etcd: ", what, ": ", status.error_message());
  if (absl::StrContains(status.error_message(), "database space exceeded")) {
    absl::StrAppend(&message,
                    "; compact and defragment it, disarm its alarm (etcdctl), and start it with "
                    "--auto-compaction-retention and a larger --quota-backend-bytes");
  }
  return {static_cast<absl::StatusCode>(status.error_code()), message};
}

EtcdCalls::Attempt KeepAliveAttempt(EtcdLoop& loop, LeaseId lease,
                                    std::shared_ptr<etcdserverpb::LeaseKeepAliveResponse> response) {
  struct Stream {
    std::shared_ptr<grpc::ClientContext> context = std::make_shared<grpc::ClientContext>();
    std::unique_ptr<grpc::ClientAsyncReaderWriter<etcdserverpb::LeaseKeepAliveRequest,
                                                  etcdserverpb::LeaseKeepAliveResponse>>
        calls;
    grpc::Status status;
    EtcdCalls::Done done;
  };
  return [&loop, lease, response = std::move(response)](EtcdMember& member, gpr_timespec deadline,
                                                        EtcdCalls::Done done) {
    auto stream = std::make_shared<Stream>();
    stream->done = std::move(done);
    stream->context->set_deadline(deadline);
    RequireLeader(*stream->context);
    response->Clear();
    stream->calls = member.lease->PrepareAsyncLeaseKeepAlive(stream->context.get(), &loop.queue());
    const auto end = [&loop, stream] {
      if (loop.stopping()) return;
      stream->calls->Finish(&stream->status, loop.Tag([stream](bool) {
        // An end without an answer is none.
        stream->done(stream->status.ok() ? grpc::Status(grpc::StatusCode::UNAVAILABLE, "the stream ended")
                                         : stream->status);
      }));
    };
    stream->calls->StartCall(loop.Tag([&loop, stream, response, lease, end](bool ok) {
      if (!ok || loop.stopping()) return end();
      etcdserverpb::LeaseKeepAliveRequest request;
      request.set_id(lease);
      stream->calls->WriteLast(request, {}, loop.Tag([stream](bool) {}));
      stream->calls->Read(response.get(), loop.Tag([stream, response, end](bool ok) {
        if (!ok) return end();
        stream->done(grpc::Status::OK);
        stream->context->TryCancel();
      }));
    }));
    return stream->context;
  };
}

void EtcdCalls::Run(std::string what, Repeat repeat, Attempt attempt, Told told) {
  auto call = std::make_shared<Call>();
  call->what = std::move(what);
  call->repeat = repeat;
  call->attempt = std::move(attempt);
  call->told = std::move(told);
  call->deadline = std::chrono::steady_clock::now() + options_.call_timeout;
  call->place = calls_.insert(calls_.end(), call);
  Try(call);
}

void EtcdCalls::OnMembersChange() {
  std::vector<std::shared_ptr<Call>> waiting;
  for (const auto& call : calls_) {
    if (call->waiting) waiting.push_back(call);
  }
  for (const auto& call : waiting) {
    if (call->waiting) Try(call);
  }
}

void EtcdCalls::CancelAll() {
  while (!calls_.empty()) {
    const std::shared_ptr<Call> call = calls_.front();
    if (call->context != nullptr) call->context->TryCancel();
    Finish(call, absl::CancelledError("the coordination store was closed meanwhile"));
  }
}

void EtcdCalls::Try(const std::shared_ptr<Call>& call) {
  loop_.CancelTimer(call->timer);
  call->waiting = false;
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(call->deadline -
                                                                          std::chrono::steady_clock::now());
  if (left.count() <= 0) return Finish(call, Unavailable(*call));
  EtcdMember* member = members_.Pick();
  if (member == nullptr) {
    call->waiting = true;
    return TryAfter(call, options_.call_timeout);
  }
  ++call->attempts;
  const auto timeout = call->repeat == Repeat::kSafe ? std::min(left, options_.attempt_timeout) : left;
  call->context = call->attempt(*member, DeadlineAfter(timeout),
                                [this, call, member](const grpc::Status& s) { OnAttempt(call, *member, s); });
}

void EtcdCalls::OnAttempt(const std::shared_ptr<Call>& call, EtcdMember& member, const grpc::Status& status) {
  if (call->over) return;
  call->context = nullptr;
  const Meaning meaning = MeaningOf(status);
  if (meaning == Meaning::kAnswer) {
    members_.Answered(member);
    return Finish(call, FromEtcd(call->what, status));
  }
  members_.Failed(member);
  call->last_error = absl::StrCat(member.address, ": ", status.error_message());
  if (meaning == Meaning::kUnknown && call->repeat == Repeat::kNever) return Finish(call, Unavailable(*call));
  const EtcdMember* next = members_.Pick();
  const bool at_once = next != nullptr && !members_.Suspect(*next);
  TryAfter(call, at_once ? std::chrono::milliseconds(0) : members_.Backoff(call->attempts));
}

void EtcdCalls::TryAfter(const std::shared_ptr<Call>& call, std::chrono::milliseconds delay) {
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(call->deadline -
                                                                          std::chrono::steady_clock::now());
  call->timer = loop_.After(std::clamp(delay, std::chrono::milliseconds(0), std::max(left, kTick) + kTick),
                            [this, call] { Try(call); });
}

void EtcdCalls::Finish(const std::shared_ptr<Call>& call, const absl::Status& status) {
  loop_.CancelTimer(call->timer);
  call->over = true;
  calls_.erase(call->place);
  call->told(status);
}

absl::Status EtcdCalls::Unavailable(const Call& call) const {
  return absl::UnavailableError(absl::StrCat(
      members_.names(), ": ", call.what, ": no answer after ", call.attempts, " attempts within ",
      options_.call_timeout.count(), " ms",
      call.repeat == Repeat::kNever && call.attempts > 0 ? ", and whether it was done is unknown" : "", " (",
      call.last_error, "); see that most members run and are reached from here"));
}

}  // namespace omni
