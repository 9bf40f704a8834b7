// Nodes of one process that give tiles to each other over gRPC on the loopback.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <absl/strings/str_cat.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include "cluster/tile_client.h"
#include "cluster/tile_service.h"
#include "omni/cluster/v1/tiles.grpc.pb.h"
#include "tests/store/partial/partial_fixture.h"

namespace omni::testing {

namespace v1 = cluster::v1;

// A server of one service, on a port of its own.
class LoopbackServer {
 public:
  explicit LoopbackServer(
      grpc::Service& service,
      const std::shared_ptr<grpc::ServerCredentials>& credentials = grpc::InsecureServerCredentials()) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", credentials, &port_);
    builder.RegisterService(&service);
    server_ = builder.BuildAndStart();
    if (server_ == nullptr) ADD_FAILURE() << "no server on 127.0.0.1";
  }
  ~LoopbackServer() { Stop(); }
  std::string address() const { return absl::StrCat("127.0.0.1:", port_); }
  // As if its process was killed: calls under way end.
  void Stop() {
    if (server_ != nullptr) server_->Shutdown(std::chrono::system_clock::now());
  }

 private:
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

// A node that gives what lies in a directory.
class TileNode {
 public:
  explicit TileNode(std::shared_ptr<const PartialModel> model, const TileServiceLimits& limits = {})
      : service_(*TileService::Make(std::move(model), limits)), server_(service_->service()) {}
  explicit TileNode(const std::string& dir) : TileNode(*PartialModel::Open(dir)) {}
  TileNode(const std::string& dir, const std::shared_ptr<grpc::ServerCredentials>& credentials)
      : service_(*TileService::Make(*PartialModel::Open(dir), {})),
        server_(service_->service(), credentials) {}
  std::string address() const { return server_.address(); }
  TileService::Stats stats() const { return service_->stats(); }
  void Stop() { server_.Stop(); }

 private:
  std::unique_ptr<TileService> service_;
  LoopbackServer server_;
};

// A node that gives what a test makes of the answers that a good one would give.
class OddNode final : private v1::Tiles::Service {
 public:
  // Changes the answer to a request for tiles, and says how the call ends.
  using Tiles = std::function<grpc::Status(std::vector<v1::TileChunk>* chunks)>;
  using File = std::function<grpc::Status(const std::string& name, std::string* bytes)>;

  OddNode(std::shared_ptr<const PartialModel> model, Tiles tiles, File file = nullptr)
      : model_(std::move(model)), tiles_(std::move(tiles)), file_(std::move(file)), server_(*this) {}
  std::string address() const { return server_.address(); }
  int calls() const { return calls_; }

 private:
  grpc::Status FetchTiles(grpc::ServerContext*, const v1::FetchTilesRequest* request,
                          grpc::ServerWriter<v1::TileChunk>* writer) override {
    ++calls_;
    std::vector<v1::TileChunk> chunks;
    for (const auto& pack : request->packs()) {
      for (const uint32_t tile : pack.tiles()) {
        v1::TileChunk& chunk = chunks.emplace_back();
        chunk.set_pack(pack.pack());
        chunk.set_tile(tile);
        chunk.mutable_data()->resize(static_cast<size_t>(model_->tile_bytes()));
        if (!model_->Read({pack.pack(), tile}, reinterpret_cast<uint8_t*>(chunk.mutable_data()->data())).ok())
          chunk.clear_data();
      }
    }
    const grpc::Status status = tiles_(&chunks);
    for (const v1::TileChunk& chunk : chunks) writer->Write(chunk);
    return status;
  }
  grpc::Status FetchFile(grpc::ServerContext*, const v1::FetchFileRequest* request,
                         grpc::ServerWriter<v1::FileChunk>* writer) override {
    ++calls_;
    std::string bytes = FileBytes(model_->files().PathOf(request->name())).substr(request->offset());
    const grpc::Status status = file_ ? file_(request->name(), &bytes) : grpc::Status::OK;
    v1::FileChunk chunk;
    chunk.set_data(bytes);
    writer->Write(chunk);
    return status;
  }

  const std::shared_ptr<const PartialModel> model_;
  const Tiles tiles_;
  const File file_;
  std::atomic<int> calls_ = 0;
  LoopbackServer server_;
};

class TileTransferTest : public PartialTest {
 protected:
  // Small batches, and pauses so short that a test need not wait.
  FillOptions From(std::vector<std::string> peers) {
    FillOptions options;
    options.peers = std::move(peers);
    options.batch_bytes = 3 * whole_->tile_bytes();
    options.commit_bytes = 7 * whole_->tile_bytes();
    options.backoff = std::chrono::milliseconds(1);
    options.progress = [this](const FillProgress& progress) {
      EXPECT_GT(progress.tiles, last_.tiles);
      EXPECT_LE(progress.bytes, progress.bytes_wanted);
      last_ = progress;
    };
    last_ = {};
    return options;
  }
  std::shared_ptr<const PartialModel> whole() const {
    return {whole_.get(), [](const PartialModel*) {}};
  }
  std::unique_ptr<PartialModel> Begin(const FillOptions& options) {
    auto part = OpenOrBeginPartial(dir(), whole_->hash(), options);
    EXPECT_TRUE(part.ok()) << part.status();
    return part.ok() ? *std::move(part) : nullptr;
  }

  FillProgress last_;
};

}  // namespace omni::testing
