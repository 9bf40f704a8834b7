#include "cluster/tile_service.h"

#include <algorithm>
#include <atomic>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <absl/strings/str_cat.h>
#include <grpcpp/grpcpp.h>

#include "cluster/grpc_status.h"
#include "cluster/send_stream.h"
#include "omni/cluster/v1/tiles.grpc.pb.h"
#include "store/file/random_reader.h"

namespace omni {
namespace {

namespace v1 = cluster::v1;

constexpr int64_t kChunkBytes = 256 << 10;

}  // namespace

class TileService::Impl final : public v1::Tiles::CallbackService {
 public:
  Impl(std::shared_ptr<const PartialModel> model, const TileServiceLimits& limits,
       std::unique_ptr<DiskPool> pool, std::map<std::string, FileDigest> files)
      : model_(std::move(model)), limits_(limits), pool_(std::move(pool)), files_(std::move(files)) {}

  grpc::ServerUnaryReactor* Describe(grpc::CallbackServerContext* context, const v1::DescribeRequest* request,
                                     v1::DescribeResponse* response) override {
    const grpc::Status status = CheckModel(request->model_hash());
    if (status.ok()) {
      const std::vector<std::string> missing = model_->MissingFiles();
      for (const auto& [name, digest] : files_) {
        if (std::find(missing.begin(), missing.end(), name) != missing.end()) continue;
        v1::ModelFile& file = *response->add_files();
        file.set_name(name);
        file.set_bytes(static_cast<uint64_t>(digest.bytes));
        file.set_digest(digest.hash.Hex());
      }
      for (const RegionId region : model_->HeldRegions()) response->add_regions(region.value);
    }
    grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
    reactor->Finish(status);
    return reactor;
  }

  grpc::ServerWriteReactor<v1::FileChunk>* FetchFile(grpc::CallbackServerContext*,
                                                     const v1::FetchFileRequest* request) override {
    const std::optional<grpc::Status> refused = Begin(request->model_hash());
    if (refused.has_value()) return Refuse<v1::FileChunk>(*refused);
    return new SendStream<v1::FileChunk>(pool_.get(), FileMaker(request->name(), request->offset()),
                                         [this] { --fetches_; });
  }

  grpc::ServerWriteReactor<v1::TileChunk>* FetchTiles(grpc::CallbackServerContext*,
                                                      const v1::FetchTilesRequest* request) override {
    const std::optional<grpc::Status> refused = Begin(request->model_hash());
    if (refused.has_value()) return Refuse<v1::TileChunk>(*refused);
    int64_t asked = 0;
    for (const auto& pack : request->packs()) asked += pack.tiles_size();
    if (asked > limits_.tiles) {
      --fetches_;
      return Refuse<v1::TileChunk>(
          {grpc::INVALID_ARGUMENT, absl::StrCat("asked for ", asked, " tiles, at most ", limits_.tiles)});
    }
    std::vector<TilePlace> places;
    places.reserve(static_cast<size_t>(asked));
    for (const auto& pack : request->packs()) {
      for (const uint32_t tile : pack.tiles()) places.push_back({pack.pack(), tile});
    }
    return new SendStream<v1::TileChunk>(pool_.get(), TileMaker(std::move(places)), [this] { --fetches_; });
  }

  Stats stats() const { return {tiles_, tile_bytes_, missing_, file_bytes_, refused_}; }

 private:
  grpc::Status CheckModel(const std::string& hash) const {
    if (hash == model_->hash()) return grpc::Status::OK;
    return {grpc::NOT_FOUND, absl::StrCat("serves the model ", model_->hash())};
  }
  // Takes a place among the fetches; else why there is none.
  std::optional<grpc::Status> Begin(const std::string& hash) {
    if (const grpc::Status status = CheckModel(hash); !status.ok()) return status;
    if (++fetches_ <= limits_.fetches) return std::nullopt;
    --fetches_;
    return grpc::Status(grpc::RESOURCE_EXHAUSTED,
                        absl::StrCat("serves ", limits_.fetches, " fetches at a time; ask again later"));
  }
  template <typename Message>
  grpc::ServerWriteReactor<Message>* Refuse(const grpc::Status& status) {
    ++refused_;
    return new EndedStream<Message>(status);
  }

  SendStream<v1::FileChunk>::Make FileMaker(const std::string& name, uint64_t offset) {
    const auto file = files_.find(name);
    struct State {
      std::optional<RandomReader> reader;
      int64_t at = 0;
    };
    auto state = std::make_shared<State>();
    return [this, name, offset, file, state](v1::FileChunk* chunk, grpc::Status* status) {
      if (file == files_.end()) {
        *status = {grpc::NOT_FOUND, "the model has no such file"};
        return false;
      }
      const int64_t bytes = file->second.bytes;
      if (!state->reader.has_value()) {
        if (offset > static_cast<uint64_t>(bytes)) {
          *status = {grpc::OUT_OF_RANGE, absl::StrCat(name, " is ", bytes, " bytes long")};
          return false;
        }
        absl::StatusOr<RandomReader> opened = RandomReader::Open(model_->files().PathOf(name));
        if (!opened.ok()) {
          *status = absl::IsNotFound(opened.status())
                        ? grpc::Status(grpc::NOT_FOUND, absl::StrCat("has no ", name))
                        : ToGrpc(opened.status());
          return false;
        }
        state->reader.emplace(*std::move(opened));
        state->at = static_cast<int64_t>(offset);
      }
      const int64_t n = std::min(kChunkBytes, bytes - state->at);
      if (n == 0) return false;
      chunk->mutable_data()->resize(static_cast<size_t>(n));
      if (absl::Status s = state->reader->ReadAt(state->at, chunk->mutable_data()->data(), n); !s.ok()) {
        *status = ToGrpc(s);
        return false;
      }
      state->at += n;
      file_bytes_ += n;
      return true;
    };
  }

  SendStream<v1::TileChunk>::Make TileMaker(std::vector<TilePlace> places) {
    return [this, places = std::move(places), next = size_t{0}](v1::TileChunk* chunk, grpc::Status*) mutable {
      if (next == places.size()) return false;
      const TilePlace place = places[next++];
      chunk->set_pack(place.pack);
      chunk->set_tile(place.tile);
      chunk->mutable_data()->resize(static_cast<size_t>(model_->tile_bytes()));
      if (model_->Read(place, reinterpret_cast<uint8_t*>(chunk->mutable_data()->data())).ok()) {
        ++tiles_;
        tile_bytes_ += model_->tile_bytes();
      } else {
        chunk->clear_data();
        ++missing_;
      }
      return true;
    };
  }

  const std::shared_ptr<const PartialModel> model_;
  const TileServiceLimits limits_;
  const std::unique_ptr<DiskPool> pool_;
  const std::map<std::string, FileDigest> files_;  // that may be sent
  std::atomic<int> fetches_ = 0;
  std::atomic<int64_t> tiles_ = 0, tile_bytes_ = 0, missing_ = 0, file_bytes_ = 0, refused_ = 0;
};

absl::StatusOr<std::unique_ptr<TileService>> TileService::Make(std::shared_ptr<const PartialModel> model,
                                                               const TileServiceLimits& limits) {
  const ModelFiles& of = model->files();
  std::map<std::string, FileDigest> files;
  for (const char* name : {kModelFile, kDeltasFile}) {
    absl::StatusOr<FileDigest> digest = DigestFile(of.PathOf(name));
    if (!digest.ok()) return digest.status();
    files[name] = *digest;
  }
  for (const auto& [name, digest] : of.deltas.files) files[name] = digest;
  for (const char* name : {kSharedFile, kTokenizerFile}) files[name] = of.manifest.files.at(name);
  absl::StatusOr<std::unique_ptr<DiskPool>> pool = DiskPool::Start(limits.threads);
  if (!pool.ok()) return pool.status();
  return std::unique_ptr<TileService>(
      new TileService(std::make_unique<Impl>(std::move(model), limits, *std::move(pool), std::move(files))));
}

TileService::TileService(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
TileService::~TileService() = default;
grpc::Service& TileService::service() { return *impl_; }
TileService::Stats TileService::stats() const { return impl_->stats(); }

}  // namespace omni
