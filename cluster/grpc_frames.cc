#include "cluster/grpc_frames.h"

#include <atomic>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <utility>

#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include "actors/outstanding.h"
#include "cluster/grpc_loop.h"
#include "cluster/grpc_status.h"
#include "omni/cluster/v1/regions.grpc.pb.h"

namespace omni {
namespace {

namespace pb = ::omni::cluster::v1;
using Bytes = grpc::ByteBuffer;

constexpr char kMethod[] = "/omni.cluster.v1.Regions/Exchange";

using Tag = GrpcLoop::Tag;

template <typename Call>
class OpTag final : public Tag {
 public:
  OpTag(Call* call, void (Call::*done)(bool)) : call_(call), done_(done) {}
  void Done(bool ok) override { (call_->*done_)(ok); }

 private:
  Call* call_;
  void (Call::*done_)(bool);
};

Bytes ToBytes(std::string frame) {
  constexpr size_t kCopied = 1024;
  if (frame.size() <= kCopied) {
    const grpc::Slice slice(frame);
    return Bytes(&slice, 1);
  }
  auto* owned = new std::string(std::move(frame));
  const grpc::Slice slice(
      owned->data(), owned->size(), [](void* s) { delete static_cast<std::string*>(s); }, owned);
  return Bytes(&slice, 1);
}

FrameBytes FromBytes(const Bytes& bytes) {
  auto slice = std::make_shared<grpc::Slice>();
  if (!bytes.TrySingleSlice(slice.get()).ok() && !bytes.DumpToSingleSlice(slice.get()).ok()) return {};
  return {{slice->begin(), slice->size()}, slice};
}

// The frames of a stream that wait to be written: one is under way at a time.
class WriteQueue {
 public:
  // Both return what is to be written now, if anything. Under the call's lock.
  std::optional<std::string> Push(std::string frame) {
    if (writing_) {
      bytes_ += static_cast<int64_t>(frame.size());
      waiting_.push_back(std::move(frame));
      return std::nullopt;
    }
    writing_ = true;
    return frame;
  }
  std::optional<std::string> Next() {
    if (waiting_.empty()) {
      writing_ = false;
      return std::nullopt;
    }
    std::string frame = std::move(waiting_.front());
    waiting_.pop_front();
    bytes_ -= static_cast<int64_t>(frame.size());
    return frame;
  }
  void HoldBack() { writing_ = true; }  // until Next is called
  bool writing() const { return writing_; }
  int64_t bytes() const { return bytes_; }
  void Clear() {
    waiting_.clear();
    bytes_ = 0;
  }

 private:
  std::deque<std::string> waiting_;
  int64_t bytes_ = 0;
  bool writing_ = false;
};

// --- The coordinator's side

// Lives until gRPC has given back the last of its operations.
class ClientCall {
 public:
  ClientCall(const std::shared_ptr<grpc::Channel>& channel, GrpcLoop& loop, FrameStreamEvents& events,
             Outstanding& live)
      : loop_(loop), events_(&events), live_(live), stub_(channel) {
    live_.Add();
    writes_.HoldBack();  // until the call has been started
    call_ = stub_.PrepareCall(&context_, kMethod, &loop_.queue());
    pending_ = 1;
    call_->StartCall(&started_);
  }

  void Write(std::string frame) {
    std::lock_guard lock(mutex_);
    if (over_) return;
    if (std::optional<std::string> now = writes_.Push(std::move(frame))) StartWrite(*std::move(now));
  }
  int64_t unsent_bytes() {
    std::lock_guard lock(mutex_);
    return writes_.bytes();
  }
  // Nothing is told any more.
  void Abandon() {
    {
      std::lock_guard lock(events_mutex_);
      events_ = nullptr;
    }
    std::unique_lock lock(mutex_);
    abandoned_ = true;
    context_.TryCancel();
    EndIfDone(lock);
  }

 private:
  void StartWrite(std::string frame) {
    ++pending_;
    call_->Write(ToBytes(std::move(frame)), &written_);
  }
  void StartRead() {
    ++pending_;
    call_->Read(&read_bytes_, &read_);
  }
  void StartFinish() {
    over_ = true;
    writes_.Clear();
    ++pending_;
    call_->Finish(&status_, &finished_);
  }

  void OnStarted(bool ok) {
    std::unique_lock lock(mutex_);
    --pending_;
    if (!ok) {
      StartFinish();
      return;
    }
    StartRead();
    if (std::optional<std::string> next = writes_.Next()) StartWrite(*std::move(next));
  }
  void OnRead(bool ok) {
    if (ok) {
      FrameBytes frame = FromBytes(read_bytes_);
      std::lock_guard lock(events_mutex_);
      if (events_ != nullptr) events_->OnFrame(std::move(frame));
      // Renews the other side's window, in a message of its own: not before what this frame leads to.
      loop_.Later([this] {
        std::lock_guard l(mutex_);
        --pending_;
        StartRead();
      });
      return;
    }
    std::unique_lock lock(mutex_);
    --pending_;
    StartFinish();
  }
  void OnWritten(bool ok) {
    std::unique_lock lock(mutex_);
    --pending_;
    if (ok && !over_) {
      if (std::optional<std::string> next = writes_.Next()) StartWrite(*std::move(next));
    }
    EndIfDone(lock);
  }
  void OnFinished(bool) {
    {
      std::lock_guard lock(events_mutex_);
      if (events_ != nullptr) events_->OnClosed(FromGrpc(status_));
    }
    std::unique_lock lock(mutex_);
    --pending_;
    has_finished_ = true;
    EndIfDone(lock);
  }
  void EndIfDone(std::unique_lock<std::mutex>& lock) {
    if (pending_ > 0 || !has_finished_ || !abandoned_) return;
    lock.unlock();
    Outstanding& live = live_;
    delete this;
    live.Remove();
  }

  GrpcLoop& loop_;
  std::mutex events_mutex_;
  FrameStreamEvents* events_;  // null: abandoned
  Outstanding& live_;
  std::mutex mutex_;
  grpc::ClientContext context_;
  grpc::GenericStub stub_;
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> call_;
  Bytes read_bytes_;
  grpc::Status status_;
  WriteQueue writes_;
  int pending_ = 0;
  bool over_ = false, has_finished_ = false, abandoned_ = false;
  OpTag<ClientCall> started_{this, &ClientCall::OnStarted}, read_{this, &ClientCall::OnRead},
      written_{this, &ClientCall::OnWritten}, finished_{this, &ClientCall::OnFinished};
};

class ClientStream final : public FrameStream {
 public:
  explicit ClientStream(ClientCall* call) : call_(call) {}
  ~ClientStream() override { call_->Abandon(); }
  void Write(std::string frame) override { call_->Write(std::move(frame)); }
  int64_t unsent_bytes() const override { return call_->unsent_bytes(); }

 private:
  ClientCall* call_;
};

}  // namespace

struct GrpcFrameTransport::Impl {
  Impl(std::shared_ptr<grpc::ChannelCredentials> c, GrpcLoop& l)
      : credentials(c != nullptr ? std::move(c) : grpc::InsecureChannelCredentials()), loop(l) {}
  ~Impl() { live.WaitForNone(); }

  std::shared_ptr<grpc::ChannelCredentials> credentials;
  GrpcLoop& loop;
  Outstanding live;
};

GrpcFrameTransport::GrpcFrameTransport(std::shared_ptr<grpc::ChannelCredentials> credentials, GrpcLoop& loop)
    : impl_(std::make_unique<Impl>(std::move(credentials), loop)) {}
GrpcFrameTransport::~GrpcFrameTransport() = default;

std::unique_ptr<FrameStream> GrpcFrameTransport::Open(const std::string& address, FrameStreamEvents& events) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(static_cast<int>(kMaxFrameBytes));
  arguments.SetMaxSendMessageSize(static_cast<int>(kMaxFrameBytes));
  // A connection of its own, which is tried once, now: when to try again is the caller's affair.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  const auto channel = grpc::CreateCustomChannel(address, impl_->credentials, arguments);
  return std::make_unique<ClientStream>(new ClientCall(channel, impl_->loop, events, impl_->live));
}

// --- The node's side

namespace {

using Service = pb::Regions::WithRawMethod_Exchange<pb::Regions::Service>;

class ServerCall;

// All calls of a service, and what they share.
class ServerCalls {
 public:
  ServerCalls(GrpcFrameService::Events& events_in, GrpcLoop& loop_in)
      : events(events_in), loop(loop_in), queue(*loop.server_queue()) {}

  void Accept();  // one more call
  uint64_t Enter(ServerCall* call) {
    std::lock_guard lock(mutex_);
    by_id_.emplace(++last_, call);
    return last_;
  }
  void Leave(uint64_t id) {
    std::lock_guard lock(mutex_);
    by_id_.erase(id);
  }
  template <typename F>
  void With(uint64_t id, F&& f) {  // the call cannot go meanwhile
    std::lock_guard lock(mutex_);
    const auto found = by_id_.find(id);
    if (found != by_id_.end()) f(*found->second);
  }

  GrpcFrameService::Events& events;
  Service service;
  GrpcLoop& loop;
  grpc::ServerCompletionQueue& queue;
  Outstanding live;

 private:
  std::mutex mutex_;
  std::map<uint64_t, ServerCall*> by_id_;
  uint64_t last_ = 0;
};

// Lives until gRPC has given back the last of its operations.
class ServerCall {
 public:
  explicit ServerCall(ServerCalls& calls) : calls_(calls), stream_(&context_) {
    calls_.live.Add();
    calls_.service.RequestExchange(&context_, &stream_, &calls_.queue, &calls_.queue, &accepted_);
  }

  void Write(std::string frame) {
    std::lock_guard lock(mutex_);
    if (over_ || closing_.has_value()) return;
    if (std::optional<std::string> now = writes_.Push(std::move(frame))) StartWrite(*std::move(now));
  }
  void Close(const absl::Status& status) {
    std::lock_guard lock(mutex_);
    if (over_ || closing_.has_value()) return;
    closing_ = status;
    if (!writes_.writing()) StartFinish(status);
  }

 private:
  void StartWrite(std::string frame) {
    ++pending_;
    stream_.Write(ToBytes(std::move(frame)), &written_);
  }
  void StartRead() {
    ++pending_;
    stream_.Read(&read_bytes_, &read_);
  }
  void StartFinish(const absl::Status& status) {
    if (over_) return;
    over_ = true;
    writes_.Clear();
    ++pending_;
    stream_.Finish(ToGrpc(status), &finished_);
  }

  void OnAccepted(bool ok) {
    if (!ok) {  // the server shuts down
      End();
      return;
    }
    calls_.Accept();
    id_ = calls_.Enter(this);
    calls_.events.OnOpened(id_);
    std::lock_guard lock(mutex_);
    StartRead();
  }
  void OnRead(bool ok) {
    std::unique_lock lock(mutex_);
    const bool tell = !closing_.has_value() && !over_;
    if (ok) {
      FrameBytes frame = FromBytes(read_bytes_);
      lock.unlock();
      if (tell) calls_.events.OnFrame(id_, std::move(frame));
      calls_.loop.Later([this] { ReadOn(); });
      return;
    }
    --pending_;
    StartFinish(absl::OkStatus());
    lock.unlock();
    // Whether it broke or was closed in order cannot be asked here (IsCancelled would want a tag of its own).
    if (tell) calls_.events.OnClosed(id_, absl::UnavailableError("the connection ended"));
    lock.lock();
    EndIfDone(lock);
  }
  // Renews the client's window, in a message of its own: not before what the last frame led to.
  void ReadOn() {
    std::unique_lock lock(mutex_);
    --pending_;
    if (!over_) StartRead();
    EndIfDone(lock);
  }
  void OnWritten(bool ok) {
    std::unique_lock lock(mutex_);
    --pending_;
    if (ok && !over_) {
      if (std::optional<std::string> next = writes_.Next()) {
        StartWrite(*std::move(next));
      } else if (closing_.has_value()) {
        StartFinish(*closing_);
      }
    }
    EndIfDone(lock);
  }
  void OnFinished(bool) {
    std::unique_lock lock(mutex_);
    --pending_;
    has_finished_ = true;
    EndIfDone(lock);
  }
  void EndIfDone(std::unique_lock<std::mutex>& lock) {
    if (pending_ > 0 || !has_finished_) return;
    lock.unlock();
    calls_.Leave(id_);
    End();
  }
  void End() {
    Outstanding& live = calls_.live;
    delete this;
    live.Remove();
  }

  ServerCalls& calls_;
  uint64_t id_ = 0;
  std::mutex mutex_;
  grpc::ServerContext context_;
  grpc::ServerAsyncReaderWriter<Bytes, Bytes> stream_;
  Bytes read_bytes_;
  WriteQueue writes_;
  std::optional<absl::Status> closing_;
  int pending_ = 0;
  bool over_ = false, has_finished_ = false;
  OpTag<ServerCall> accepted_{this, &ServerCall::OnAccepted}, read_{this, &ServerCall::OnRead},
      written_{this, &ServerCall::OnWritten}, finished_{this, &ServerCall::OnFinished};
};

void ServerCalls::Accept() { new ServerCall(*this); }

}  // namespace

struct GrpcFrameService::Impl {
  Impl(Events& events, GrpcLoop& loop) : calls(events, loop) {}
  ServerCalls calls;
};

GrpcFrameService::GrpcFrameService(grpc::ServerBuilder& builder, GrpcLoop& loop, Events& events)
    : impl_(std::make_unique<Impl>(events, loop)) {
  builder.RegisterService(&impl_->calls.service);
}

GrpcFrameService::~GrpcFrameService() { Stop(); }

void GrpcFrameService::Start() { impl_->calls.Accept(); }

void GrpcFrameService::Stop() { impl_->calls.live.WaitForNone(); }

void GrpcFrameService::Write(StreamId stream, std::string frame) {
  impl_->calls.With(stream, [&](ServerCall& call) { call.Write(std::move(frame)); });
}

void GrpcFrameService::Close(StreamId stream, const absl::Status& status) {
  impl_->calls.With(stream, [&](ServerCall& call) { call.Close(status); });
}

}  // namespace omni
