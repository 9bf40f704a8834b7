#include "cluster/etcd_watch.h"

#include <algorithm>
#include <utility>

#include <absl/strings/match.h>
#include <absl/strings/str_cat.h>

#include "cluster/etcd_calls.h"
#include "cluster/etcd_messages.h"

namespace omni {

struct EtcdWatch::Stream {
  EtcdMember* member = nullptr;
  grpc::ClientContext context;
  std::unique_ptr<grpc::ClientAsyncReaderWriter<etcdserverpb::WatchRequest, etcdserverpb::WatchResponse>>
      calls;
  etcdserverpb::WatchRequest request;
  etcdserverpb::WatchResponse response;
  grpc::Status status;
  bool writing = false, asked = false;
  EtcdLoop::Time asked_at;  // the first question that has not been answered
};

EtcdWatch::EtcdWatch(EtcdLoop& loop, EtcdMembers& members, const EtcdOptions& options,
                     const std::string& prefix, Revision from, std::shared_ptr<WatchDelivery> delivery)
    : loop_(loop),
      members_(members),
      options_(options),
      prefix_(prefix),
      delivery_(std::move(delivery)),
      next_(std::max<Revision>(from, 1)) {}

void EtcdWatch::Begin() {
  if (over_) return;
  loop_.CancelTimer(timer_);
  EtcdMember* member = members_.Pick();
  waiting_ = member == nullptr;
  if (waiting_) return;
  pending_ = {};
  auto stream = std::make_shared<Stream>();
  stream_ = stream;
  stream->member = member;
  RequireLeader(stream->context);
  stream->calls = member->watch->PrepareAsyncWatch(&stream->context, &loop_.queue());
  const auto self = shared_from_this();
  stream->calls->StartCall(loop_.Tag([this, self, stream](bool ok) {
    if (stream_ != stream) return;
    if (!ok) return OnEnd(stream);
    etcdserverpb::WatchCreateRequest& create = *stream->request.mutable_create_request();
    const EtcdRange range = PrefixRange(options_.prefix + prefix_);
    create.set_key(range.key);
    create.set_range_end(range.end);
    create.set_start_revision(next_);
    create.set_progress_notify(true);
    create.set_fragment(true);
    Write(stream);
    Read(stream);
  }));
  stream->asked = true;
  stream->asked_at = std::chrono::steady_clock::now();
  timer_ = loop_.After(options_.probe_interval, [this, self, stream] { Probe(stream); });
}

void EtcdWatch::OnMembersChange() {
  if (waiting_) Begin();
}

void EtcdWatch::Stop() {
  over_ = true;
  waiting_ = false;
  loop_.CancelTimer(timer_);
  if (stream_ != nullptr) stream_->context.TryCancel();
  stream_ = nullptr;
}

void EtcdWatch::Write(const std::shared_ptr<Stream>& stream) {
  stream->writing = true;
  // A write that fails is seen by the read, too.
  stream->calls->Write(stream->request, loop_.Tag([stream](bool ok) { stream->writing = !ok; }));
}

void EtcdWatch::Read(const std::shared_ptr<Stream>& stream) {
  stream->calls->Read(&stream->response, loop_.Tag([this, self = shared_from_this(), stream](bool ok) {
    if (stream_ != stream) return;
    if (!ok) return OnEnd(stream);
    stream->asked = false;
    OnResponse(stream);
    if (stream_ == stream) Read(stream);
  }));
}

void EtcdWatch::Probe(const std::shared_ptr<Stream>& stream) {
  if (stream_ != stream) return;
  const EtcdLoop::Time now = std::chrono::steady_clock::now();
  if (stream->asked && now - stream->asked_at >= options_.attempt_timeout) {
    members_.Failed(*stream->member);
    return BeginAgain(stream);
  }
  if (!stream->asked && !stream->writing) {
    stream->asked = true;
    stream->asked_at = now;
    stream->request.mutable_progress_request();
    Write(stream);
  }
  timer_ = loop_.After(options_.probe_interval, [this, self = shared_from_this(), stream] { Probe(stream); });
}

void EtcdWatch::OnResponse(const std::shared_ptr<Stream>& stream) {
  const etcdserverpb::WatchResponse& response = stream->response;
  const uint64_t cluster = response.header().cluster_id();
  if (cluster_id_ != 0 && cluster != cluster_id_) {
    return End(absl::OutOfRangeError(absl::StrCat(
        "etcd: ", stream->member->address,
        " belongs to another cluster than before, whose revisions mean something else: read afresh")));
  }
  cluster_id_ = cluster;
  failures_ = 0;
  members_.Answered(*stream->member);
  if (response.canceled()) return OnCanceled(stream);
  if (response.created()) return;
  // The answer to a question, number -1, may come before changes that happened earlier; etcd's own
  // announcement of how far it is comes in their order.
  if (response.watch_id() < 0) return;
  if (response.events().empty() && !response.fragment() && pending_.revision == 0) {
    next_ = std::max<Revision>(next_, response.header().revision() + 1);
    return;
  }
  OnEvents(response);
}

void EtcdWatch::OnEvents(const etcdserverpb::WatchResponse& response) {
  for (const mvccpb::Event& event : response.events()) {
    const Revision revision = event.kv().mod_revision();
    if (revision < next_) continue;
    if (pending_.revision != revision) TellPending();
    if (over_) return;
    std::optional<Record> record = ToRecord(options_.prefix, event.kv());
    if (!record.has_value()) continue;
    pending_.revision = revision;
    if (event.type() == mvccpb::Event::DELETE) {
      pending_.deleted.push_back(std::move(record->key));
    } else {
      pending_.put.push_back(*std::move(record));
    }
  }
  if (!response.fragment()) TellPending();
}

void EtcdWatch::TellPending() {
  if (pending_.revision == 0) return;
  Changes changes = std::exchange(pending_, {});
  std::sort(changes.put.begin(), changes.put.end(),
            [](const Record& a, const Record& b) { return a.key < b.key; });
  std::sort(changes.deleted.begin(), changes.deleted.end());
  next_ = changes.revision + 1;
  delivery_->Tell(std::move(changes));
  if (delivery_->closed()) Stop();
}

void EtcdWatch::OnCanceled(const std::shared_ptr<Stream>& stream) {
  const etcdserverpb::WatchResponse& response = stream->response;
  if (response.compact_revision() != 0) {
    return End(absl::OutOfRangeError(
        absl::StrCat("etcd: changes from revision ", next_, " on are asked for, and those before ",
                     response.compact_revision(), " were compacted: read afresh")));
  }
  if (absl::StrContains(response.cancel_reason(), "permission denied"))
    return End(absl::PermissionDeniedError(absl::StrCat("etcd: watch: ", response.cancel_reason())));
  BeginAgain(stream);
}

void EtcdWatch::OnEnd(const std::shared_ptr<Stream>& stream) {
  stream->calls->Finish(&stream->status, loop_.Tag([this, self = shared_from_this(), stream](bool) {
    if (stream_ != stream) return;
    switch (stream->status.error_code()) {
      case grpc::StatusCode::PERMISSION_DENIED:
      case grpc::StatusCode::UNAUTHENTICATED:
      case grpc::StatusCode::UNIMPLEMENTED:
        return End(FromEtcd("watch", stream->status));
      default:
        members_.Failed(*stream->member);
        return BeginAgain(stream);
    }
  }));
}

void EtcdWatch::BeginAgain(const std::shared_ptr<Stream>& stream) {
  stream->context.TryCancel();
  stream_ = nullptr;
  loop_.CancelTimer(timer_);
  const EtcdMember* next = members_.Pick();
  const bool at_once = failures_++ == 0 && next != nullptr && !members_.Suspect(*next);
  const auto delay = at_once ? std::chrono::milliseconds(0) : members_.Backoff(failures_);
  timer_ = loop_.After(delay, [this, self = shared_from_this()] { Begin(); });
}

void EtcdWatch::End(const absl::Status& status) {
  Stop();
  delivery_->Tell(status);
}

}  // namespace omni
