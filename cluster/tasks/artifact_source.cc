#include "cluster/tasks/artifact_source.h"

#include <chrono>
#include <mutex>
#include <utility>

#include <absl/strings/str_cat.h>
#include <grpcpp/grpcpp.h>

#include "cluster/channel_credentials.h"
#include "cluster/grpc_errors.h"
#include "cluster/grpc_status.h"
#include "omni/tasks/v1/lending.grpc.pb.h"

namespace omni {
namespace {

namespace pb = ::omni::tasks::v1;

constexpr size_t kThreads = 2;
constexpr std::chrono::seconds kOneCall{10};
constexpr size_t kMostChannels = 1000;

}  // namespace

ArtifactSource::ArtifactSource(std::shared_ptr<grpc::ChannelCredentials> credentials)
    : credentials_(std::move(credentials)), threads_(std::make_unique<Executor>(kThreads)) {}
ArtifactSource::~ArtifactSource() = default;

void ArtifactSource::SetOwn(std::string node, const ArtifactStore* store) {
  const std::lock_guard lock(mutex_);
  node_ = std::move(node);
  store_ = store;
}

absl::StatusOr<ArtifactPiece> ArtifactSource::ReadHere(const std::string& where, int64_t offset) {
  const std::shared_lock lock(mutex_);
  if (store_ == nullptr) return absl::NotFoundError("this node keeps no artifacts");
  return store_->Read(where, offset, kMostPiece);
}

void ArtifactSource::ReadOwn(const std::string& where, int64_t offset, Done done) {
  threads_->Post([this, where, offset, done = std::move(done)] { done(ReadHere(where, offset)); });
}

void ArtifactSource::Read(const std::string& node, const std::string& address, const std::string& where,
                          int64_t offset, Done done) {
  threads_->Post([this, node, address, where, offset, done = std::move(done)] {
    bool own = false;
    {
      const std::shared_lock lock(mutex_);
      own = node == node_;
    }
    absl::StatusOr<ArtifactPiece> here = ReadHere(where, offset);
    // It is known by its bytes: whoever has them has it.
    if (own || here.ok()) return done(std::move(here));
    done(Ask(node, address, where, offset));
  });
}

absl::StatusOr<ArtifactPiece> ArtifactSource::Ask(const std::string& node, const std::string& address,
                                                  const std::string& where, int64_t offset) {
  if (address.empty() || credentials_ == nullptr) {
    return absl::UnavailableError(
        absl::StrCat("the node ", node, ", which has it on its disk, has not been heard of of late"));
  }
  std::shared_ptr<grpc::Channel> channel;
  {
    const std::lock_guard lock(channels_mutex_);
    if (channels_.size() >= kMostChannels) channels_.clear();  // of nodes that come as others each time
    std::shared_ptr<grpc::Channel>& known = channels_[address];
    if (known == nullptr) {
      grpc::ChannelArguments arguments;
      arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
      known = grpc::CreateCustomChannel(address, credentials_, arguments);
    }
    channel = known;
  }
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kOneCall);
  pb::ReadArtifactRequest request;
  request.set_where(where);
  request.set_offset(offset);
  pb::ReadArtifactResponse response;
  const grpc::Status asked = pb::TaskLending::NewStub(channel)->ReadArtifact(&context, request, &response);
  if (asked.ok()) return ArtifactPiece{std::move(*response.mutable_data()), response.size()};
  const absl::Status s = FromGrpc(asked);
  const std::string message = absl::StrCat("the node ", node, ", which has it on its disk: ", s.message());
  const bool own_words = absl::IsNotFound(s) || absl::IsDataLoss(s) || absl::IsOutOfRange(s);
  return absl::Status(own_words ? s.code() : absl::StatusCode::kUnavailable, message);
}

}  // namespace omni
