// Streams whose messages cannot all be made.
#include "cluster/send_stream.h"

#include <atomic>
#include <memory>
#include <new>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/cluster/tile_fixture.h"

namespace omni::testing {
namespace {

using ::testing::HasSubstr;

// Gives three chunks, and has no memory for the fourth.
class Forgetful final : public v1::Tiles::CallbackService {
 public:
  grpc::ServerWriteReactor<v1::FileChunk>* FetchFile(grpc::CallbackServerContext*,
                                                     const v1::FetchFileRequest*) override {
    return new SendStream<v1::FileChunk>(
        pool_.get(),
        [made = 0](v1::FileChunk* chunk, grpc::Status*) mutable {
          if (++made > 3) throw std::bad_alloc();
          chunk->set_data("abc");
          return true;
        },
        [this] { ++over_; });
  }
  int over() const { return over_; }

 private:
  std::atomic<int> over_{0};
  const std::unique_ptr<DiskPool> pool_ = *DiskPool::Start(1);
};

TEST(SendStream, AMessageThatCannotBeMadeEndsItsCallWithAnError) {
  Forgetful service;
  const LoopbackServer server(service);
  const auto stub =
      v1::Tiles::NewStub(grpc::CreateChannel(server.address(), grpc::InsecureChannelCredentials()));
  for (int call = 1; call <= 2; ++call) {
    grpc::ClientContext context;
    const auto reader = stub->FetchFile(&context, {});
    v1::FileChunk chunk;
    std::string got;
    while (reader->Read(&chunk)) got += chunk.data();
    const grpc::Status status = reader->Finish();
    EXPECT_EQ(got, "abcabcabc");
    EXPECT_EQ(status.error_code(), grpc::RESOURCE_EXHAUSTED);
    EXPECT_THAT(status.error_message(), HasSubstr("there is no memory for this call"));
    EXPECT_EQ(service.over(), call);
  }
}

}  // namespace
}  // namespace omni::testing
