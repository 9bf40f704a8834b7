// What a node answers to others that ask for parts of its model, whatever they ask.
#include "cluster/tile_service.h"

#include <filesystem>
#include <mutex>
#include <set>
#include <thread>

#include <gmock/gmock.h>
#include <grpcpp/generic/generic_stub.h>
#include <gtest/gtest.h>

#include "tests/cluster/tile_fixture.h"
#include "tests/testing/file_calls.h"
#include "tests/testing/random_model.h"

namespace omni {
namespace {

namespace v1 = cluster::v1;
using testing::FileBytes;
using testing::FileCall;
using ::testing::HasSubstr;
using testing::Regions;
using testing::TileNode;

class TileServiceTest : public testing::TileTransferTest {
 protected:
  static std::shared_ptr<grpc::Channel> Channel(const TileNode& node) {
    return grpc::CreateChannel(node.address(), grpc::InsecureChannelCredentials());
  }
  static std::unique_ptr<v1::Tiles::Stub> Stub(const TileNode& node) {
    return v1::Tiles::NewStub(Channel(node));
  }
  grpc::Status Fetch(v1::Tiles::Stub& stub, const v1::FetchTilesRequest& request,
                     std::vector<v1::TileChunk>* chunks) {
    grpc::ClientContext context;
    const auto reader = stub.FetchTiles(&context, request);
    v1::TileChunk chunk;
    while (reader->Read(&chunk)) chunks->push_back(chunk);
    return reader->Finish();
  }
  grpc::Status Fetch(v1::Tiles::Stub& stub, const std::string& name, uint64_t offset, std::string* bytes) {
    grpc::ClientContext context;
    v1::FetchFileRequest request;
    request.set_model_hash(whole_->hash());
    request.set_name(name);
    request.set_offset(offset);
    const auto reader = stub.FetchFile(&context, request);
    v1::FileChunk chunk;
    while (reader->Read(&chunk)) *bytes += chunk.data();
    return reader->Finish();
  }
};

TEST_F(TileServiceTest, DescribesWhatLiesHere) {
  Part({2, 0});
  const TileNode all(whole()), some(dir());
  v1::DescribeRequest request;
  request.set_model_hash(whole_->hash());
  for (const TileNode* node : {&all, &some}) {
    grpc::ClientContext context;
    v1::DescribeResponse response;
    ASSERT_TRUE(Stub(*node)->Describe(&context, request, &response).ok());
    std::set<std::string> names;
    for (const v1::ModelFile& file : response.files()) {
      names.insert(file.name());
      const std::string bytes = FileBytes(whole_dir() + "/" + file.name());
      EXPECT_EQ(file.bytes(), bytes.size());
      EXPECT_EQ(file.digest(), ContentHash(bytes).Hex());
    }
    EXPECT_TRUE(names.contains("model.json") && names.contains("deltas.json"));
    EXPECT_EQ(names.contains("shared.bin"), node == &all);
    EXPECT_FALSE(names.contains("packs/tiles-000.bin"));
    const std::vector<int32_t> held(response.regions().begin(), response.regions().end());
    EXPECT_EQ(held, node == &all ? (std::vector<int32_t>{0, 1, 2}) : (std::vector<int32_t>{0, 2}));
  }
  request.set_model_hash("another");
  grpc::ClientContext context;
  v1::DescribeResponse response;
  const grpc::Status refused = Stub(all)->Describe(&context, request, &response);
  EXPECT_EQ(refused.error_code(), grpc::NOT_FOUND);
  EXPECT_THAT(refused.error_message(), HasSubstr(whole_->hash()));
}

TEST_F(TileServiceTest, SendsTilesInTheOrderAskedAndSaysWhichAreNotHere) {
  const auto part = Part({0});
  const std::vector<TilePlace> missing = *part->MissingTiles(Regions({0, 1, 2}));
  ASSERT_FALSE(missing.empty());
  const TileNode node(std::shared_ptr<const PartialModel>(part.get(), [](const PartialModel*) {}));
  const TilePlace here = {0, 0}, gone = missing[0];
  v1::FetchTilesRequest request;
  request.set_model_hash(whole_->hash());
  const std::vector<TilePlace> asked = {gone, here, {0, 999}, {999999, 0}, {UINT32_MAX, UINT32_MAX}, here};
  for (const TilePlace& place : asked) {
    auto& pack = *request.add_packs();
    pack.set_pack(place.pack);
    pack.add_tiles(place.tile);
  }
  std::vector<v1::TileChunk> chunks;
  ASSERT_TRUE(Fetch(*Stub(node), request, &chunks).ok());
  ASSERT_EQ(chunks.size(), asked.size());
  std::string bytes(static_cast<size_t>(part->tile_bytes()), '\0');
  ASSERT_TRUE(whole_->Read(here, reinterpret_cast<uint8_t*>(bytes.data())).ok());
  for (size_t i = 0; i < asked.size(); ++i) {
    EXPECT_EQ((TilePlace{chunks[i].pack(), chunks[i].tile()}), asked[i]);
    EXPECT_EQ(chunks[i].data(), asked[i] == here ? bytes : "") << i;
  }
  EXPECT_EQ(node.stats().missing, 4);
  EXPECT_EQ(node.stats().tile_bytes, 2 * part->tile_bytes());
}

TEST_F(TileServiceTest, SendsFilesFromAnyOffset) {
  const TileNode node(whole());
  const auto stub = Stub(node);
  const std::string want = FileBytes(whole_dir() + "/shared.bin");
  for (const size_t offset : {size_t{0}, size_t{1}, want.size() / 2, want.size() - 1, want.size()}) {
    std::string bytes;
    ASSERT_TRUE(Fetch(*stub, "shared.bin", offset, &bytes).ok());
    EXPECT_EQ(bytes, want.substr(offset));
  }
  std::string none;
  EXPECT_EQ(Fetch(*stub, "shared.bin", want.size() + 1, &none).error_code(), grpc::OUT_OF_RANGE);
  EXPECT_EQ(Fetch(*stub, "shared.bin", UINT64_MAX, &none).error_code(), grpc::OUT_OF_RANGE);
}

TEST_F(TileServiceTest, RequestsBeyondItsLimitsAreRefused) {
  TileServiceLimits limits;
  limits.tiles = 3;
  limits.fetches = 1;
  const TileNode node(whole(), limits);
  const auto stub = Stub(node);
  v1::FetchTilesRequest request;
  request.set_model_hash(whole_->hash());
  for (uint32_t i = 0; i < 4; ++i) request.add_packs()->add_tiles(i);
  std::vector<v1::TileChunk> chunks;
  EXPECT_EQ(Fetch(*stub, request, &chunks).error_code(), grpc::INVALID_ARGUMENT);
  request.mutable_packs()->RemoveLast();
  EXPECT_TRUE(Fetch(*stub, request, &chunks).ok());
  limits.fetches = 0;
  const TileNode busy(whole(), limits);
  EXPECT_EQ(Fetch(*Stub(busy), request, &chunks).error_code(), grpc::RESOURCE_EXHAUSTED);
  EXPECT_EQ(busy.stats().refused, 1);
}

// A client that asks for much, takes little, and goes: its place is another's.
TEST_F(TileServiceTest, AFetchEndsWhenItsClientGoesAway) {
  TileServiceLimits limits;
  limits.fetches = 1;
  const TileNode node(whole(), limits);
  const auto stub = Stub(node);
  v1::FetchTilesRequest request;
  request.set_model_hash(whole_->hash());
  auto& pack = *request.add_packs();
  for (int i = 0; i < 100000; ++i) pack.add_tiles(static_cast<uint32_t>(i % 3));
  v1::FetchTilesRequest one = request;
  one.mutable_packs(0)->mutable_tiles()->Truncate(1);
  for (int round = 0; round < 3; ++round) {
    {
      grpc::ClientContext context;
      const auto reader = stub->FetchTiles(&context, request);
      v1::TileChunk chunk;
      ASSERT_TRUE(reader->Read(&chunk));
      std::vector<v1::TileChunk> chunks;
      EXPECT_EQ(Fetch(*stub, one, &chunks).error_code(), grpc::RESOURCE_EXHAUSTED);
      context.TryCancel();
      while (reader->Read(&chunk)) {
      }
      EXPECT_EQ(reader->Finish().error_code(), grpc::CANCELLED);
    }
    std::vector<v1::TileChunk> chunks;
    grpc::Status again;
    for (int tries = 0; tries < 100000; ++tries) {  // the server hears of it a little later
      again = Fetch(*stub, one, &chunks);
      if (again.ok()) break;
    }
    EXPECT_TRUE(again.ok()) << again.error_message();
  }
  EXPECT_LT(node.stats().tiles, 300000 / 2);
}

// Notes what is opened outside a directory.
class Outside : public testing::FileWatcher {
 public:
  explicit Outside(std::string dir) : dir_(std::move(dir)) {}
  int Before(const FileCall& call) override {
    const bool system = call.path.starts_with("/proc/") || call.path.starts_with("/sys/");
    if (call.kind == FileCall::Kind::kOpen && !system && !call.path.starts_with(dir_))
      opened.insert(call.path);
    return 0;
  }
  std::set<std::string> opened;

 private:
  const std::string dir_;
};

TEST_F(TileServiceTest, NoNameReachesAnythingButTheModelsFiles) {
  Part({0});
  const TileNode node(dir());
  const auto stub = Stub(node);
  Outside outside(dir());
  const testing::WatchFiles watch(outside);
  for (const std::string name : {"", ".", "..", "/etc/passwd", "../whole/model.json", "deltas/../model.json",
                                 "deltas", "deltas/", "partial/present", "partial/lock",
                                 "packs/tiles-000.bin", "./model.json", "model.json/", "MODEL.JSON"}) {
    std::string bytes;
    EXPECT_EQ(Fetch(*stub, name, 0, &bytes).error_code(), grpc::NOT_FOUND) << name;
    EXPECT_EQ(bytes, "");
  }
  std::string bytes;
  EXPECT_EQ(Fetch(*stub, std::string("model.json\0x", 12), 0, &bytes).error_code(), grpc::NOT_FOUND);
  EXPECT_EQ(Fetch(*stub, "shared.bin", 0, &bytes).error_code(), grpc::NOT_FOUND);  // not in this part
  EXPECT_TRUE(Fetch(*stub, "model.json", 0, &bytes).ok());
  EXPECT_THAT(outside.opened, ::testing::IsEmpty());
}

TEST_F(TileServiceTest, ArbitraryRequestsNeitherEndNorHangIt) {
  Part({0});
  const TileNode node(dir());
  const auto channel = Channel(node);
  const auto stub = v1::Tiles::NewStub(channel);
  grpc::GenericStub generic(channel);
  Outside outside(dir());
  testing::Random random(9);
  const auto any = [&](int64_t most) {
    std::string bytes(static_cast<size_t>(random.Below(most)), '\0');
    for (char& c : bytes) c = static_cast<char>(random.Next());
    return bytes;
  };
  {
    const testing::WatchFiles watch(outside);
    const std::string methods[] = {"Describe", "FetchFile", "FetchTiles", "Other"};
    for (int i = 0; i < 400; ++i) {
      std::string message = any(200);
      if (random.Below(2) == 0) {  // well formed, and of this model
        v1::FetchTilesRequest request;
        request.set_model_hash(whole_->hash());
        for (int64_t n = random.Below(5); n > 0; --n) {
          auto& pack = *request.add_packs();
          pack.set_pack(static_cast<uint32_t>(random.Next() >> random.Below(64)));
          for (int64_t t = random.Below(20); t > 0; --t)
            pack.add_tiles(static_cast<uint32_t>(random.Next() >> random.Below(64)));
        }
        message = request.SerializeAsString();
        if (random.Below(2) == 0)
          message[static_cast<size_t>(random.Below(static_cast<int64_t>(message.size())))] ^= 8;
      }
      const grpc::Slice slice(message);
      grpc::ByteBuffer request(&slice, 1);
      grpc::ClientContext context;
      grpc::CompletionQueue queue;
      const auto call =
          generic.PrepareCall(&context, "/omni.cluster.v1.Tiles/" + methods[random.Below(4)], &queue);
      const auto next = [&] {
        void* tag = nullptr;
        bool ok = false;
        return queue.Next(&tag, &ok) && ok;
      };
      call->StartCall(nullptr);
      bool open = next();
      if (open) {
        call->WriteLast(request, grpc::WriteOptions(), nullptr);
        open = next();
      }
      for (grpc::ByteBuffer answer; open; open = next()) call->Read(&answer, nullptr);
      grpc::Status status;
      call->Finish(&status, nullptr);
      next();
      queue.Shutdown();
    }
  }
  EXPECT_THAT(outside.opened, ::testing::IsEmpty());
  std::string bytes;
  EXPECT_TRUE(Fetch(*stub, "model.json", 0, &bytes).ok());
  EXPECT_EQ(bytes, FileBytes(dir() + "/model.json"));
}

}  // namespace
}  // namespace omni
