#include "cluster/tile_peer.h"

#include <algorithm>
#include <mutex>
#include <optional>
#include <set>
#include <utility>

#include <absl/strings/str_cat.h>
#include <grpcpp/grpcpp.h>

#include "omni/cluster/v1/tiles.grpc.pb.h"

namespace omni {
namespace {

namespace v1 = cluster::v1;

std::shared_ptr<grpc::Channel> Connect(const std::string& address,
                                       const std::shared_ptr<grpc::ChannelCredentials>& credentials) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 2000);  // how long one attempt may take
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 5000);
  return grpc::CreateCustomChannel(address, credentials ? credentials : grpc::InsecureChannelCredentials(),
                                   arguments);
}

std::optional<Hash128> ParseDigest(const std::string& text) {
  Hash128 hash;
  if (text.size() != 32) return std::nullopt;
  for (size_t i = 0; i < text.size(); ++i) {
    const size_t digit = std::string_view("0123456789abcdef").find(text[i]);
    if (digit == std::string_view::npos) return std::nullopt;
    uint64_t& half = i < 16 ? hash.high : hash.low;
    half = half << 4 | digit;
  }
  return hash;
}

}  // namespace

class TilePeer::Impl {
 public:
  Impl(const std::string& address, const std::shared_ptr<grpc::ChannelCredentials>& credentials,
       std::chrono::milliseconds timeout)
      : address_(address), timeout_(timeout), stub_(v1::Tiles::NewStub(Connect(address, credentials))) {}

  // A call's context, cancelled with all others.
  class Call {
   public:
    explicit Call(Impl* impl) : impl_(impl) {
      context_.set_deadline(std::chrono::system_clock::now() + impl->timeout_);
      const std::lock_guard lock(impl->mutex_);
      impl->calls_.insert(&context_);
      if (impl->cancelled_) context_.TryCancel();
    }
    ~Call() {
      const std::lock_guard lock(impl_->mutex_);
      impl_->calls_.erase(&context_);
    }
    grpc::ClientContext* context() { return &context_; }

   private:
    Impl* const impl_;
    grpc::ClientContext context_;
  };

  // Reads a stream to its end or to the first error of `take`, which comes before that of the call.
  template <typename Chunk>
  absl::Status ReadAll(Call& call, grpc::ClientReader<Chunk>& reader,
                       const std::function<absl::Status(const Chunk&)>& take) {
    Chunk chunk;
    absl::Status status;
    while (status.ok() && reader.Read(&chunk)) status = take(chunk);
    if (!status.ok()) call.context()->TryCancel();
    const grpc::Status ended = reader.Finish();
    if (!status.ok() || ended.ok()) return status;
    return Failed(static_cast<absl::StatusCode>(ended.error_code()), ended.error_message());
  }
  absl::Status Failed(absl::StatusCode code, const std::string& message) const {
    return absl::Status(code, absl::StrCat(address_, ": ", message));
  }

  void Cancel() {
    const std::lock_guard lock(mutex_);
    cancelled_ = true;
    for (grpc::ClientContext* context : calls_) context->TryCancel();
  }
  v1::Tiles::Stub& stub() { return *stub_; }

 private:
  const std::string address_;
  const std::chrono::milliseconds timeout_;
  const std::unique_ptr<v1::Tiles::Stub> stub_;
  std::mutex mutex_;
  std::set<grpc::ClientContext*> calls_;
  bool cancelled_ = false;
};

TilePeer::TilePeer(std::string address, const std::shared_ptr<grpc::ChannelCredentials>& credentials,
                   std::chrono::milliseconds timeout)
    : address_(std::move(address)), impl_(std::make_unique<Impl>(address_, credentials, timeout)) {}
TilePeer::~TilePeer() = default;

void TilePeer::Cancel() { impl_->Cancel(); }

absl::StatusOr<TilePeer::Description> TilePeer::Describe(const std::string& model_hash) {
  Impl::Call call(impl_.get());
  v1::DescribeRequest request;
  request.set_model_hash(model_hash);
  v1::DescribeResponse response;
  const grpc::Status status = impl_->stub().Describe(call.context(), request, &response);
  if (!status.ok())
    return impl_->Failed(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
  Description description;
  for (const v1::ModelFile& file : response.files()) {
    const std::optional<Hash128> hash = ParseDigest(file.digest());
    if (!hash.has_value() || file.bytes() > INT64_MAX)
      return absl::InternalError(absl::StrCat(address_, ": describes its files in another form"));
    description.files[file.name()] = {static_cast<int64_t>(file.bytes()), *hash};
  }
  description.regions.assign(response.regions().begin(), response.regions().end());
  return description;
}

absl::Status TilePeer::FetchFile(const std::string& model_hash, const std::string& name, int64_t offset,
                                 const std::function<absl::Status(std::string_view)>& take) {
  Impl::Call call(impl_.get());
  v1::FetchFileRequest request;
  request.set_model_hash(model_hash);
  request.set_name(name);
  request.set_offset(static_cast<uint64_t>(offset));
  const auto reader = impl_->stub().FetchFile(call.context(), request);
  return impl_->ReadAll<v1::FileChunk>(call, *reader,
                                       [&](const v1::FileChunk& chunk) { return take(chunk.data()); });
}

absl::Status TilePeer::FetchTiles(const std::string& model_hash, const std::vector<TilePlace>& tiles,
                                  const std::function<absl::Status(TilePlace, std::string_view)>& take) {
  v1::FetchTilesRequest request;
  request.set_model_hash(model_hash);
  v1::FetchTilesRequest::Pack* pack = nullptr;
  for (const TilePlace& tile : tiles) {
    if (pack == nullptr || pack->pack() != tile.pack) {
      pack = request.add_packs();
      pack->set_pack(tile.pack);
    }
    pack->add_tiles(tile.tile);
  }
  std::vector<bool> came(tiles.size());
  Impl::Call call(impl_.get());
  const auto reader = impl_->stub().FetchTiles(call.context(), request);
  const absl::Status status =
      impl_->ReadAll<v1::TileChunk>(call, *reader, [&](const v1::TileChunk& chunk) -> absl::Status {
        const TilePlace place{chunk.pack(), chunk.tile()};
        const auto asked = std::lower_bound(tiles.begin(), tiles.end(), place);
        const auto number = static_cast<size_t>(asked - tiles.begin());
        if (asked == tiles.end() || *asked != place || came[number])
          return impl_->Failed(absl::StatusCode::kInternal, "sends tiles that were not asked for");
        came[number] = true;
        return take(place, chunk.data());
      });
  if (status.ok() && std::find(came.begin(), came.end(), false) != came.end())
    return impl_->Failed(absl::StatusCode::kInternal, "does not send all tiles that were asked for");
  return status;
}

}  // namespace omni
