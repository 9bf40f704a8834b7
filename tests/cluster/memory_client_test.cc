// What a client of a server's memory says of calls whose answers were lost.
#include "cluster/memory_client.h"

#include <memory>
#include <string>
#include <utility>

#include <absl/strings/str_cat.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include "cluster/grpc_errors.h"
#include "cluster/grpc_status.h"
#include "omni/memory/v1/memory.grpc.pb.h"

namespace omni {
namespace {

namespace pb = ::omni::memory::v1;

// A node that has three records to forget.
class Node final : public pb::Memory::CallbackService {
 public:
  Node() {
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
    address = absl::StrCat("127.0.0.1:", port);
  }
  ~Node() override { server_->Shutdown(); }

  grpc::ServerUnaryReactor* Forget(grpc::CallbackServerContext* context, const pb::ForgetRequest*,
                                   pb::ForgetResponse* response) override {
    auto* reactor = context->DefaultReactor();
    if (!leader.empty()) {
      context->AddTrailingMetadata(kCoordinatorMetadata, leader);
      reactor->Finish(ToDetailedGrpc(absl::UnavailableError("another leads"),
                                     {.reason = "NOT_LEADING", .metadata = {}, .retry = {}}));
      return reactor;
    }
    response->set_forgotten(std::exchange(records, 0));
    // As gRPC does with the calls of a server that ends.
    reactor->Finish(lost-- > 0 ? grpc::Status(grpc::StatusCode::CANCELLED, "CANCELLED") : grpc::Status::OK);
    return reactor;
  }

  std::string address;
  std::string leader;  // another; empty: none
  uint64_t records = 3;
  int lost = 0;  // so many answers to come are

 private:
  std::unique_ptr<grpc::Server> server_;
};

Forgotten ForgetAt(const Node& node) {
  ClusterClientOptions options;
  options.addresses = {node.address};
  const auto memory = RemoteMemory::Make(options);
  EXPECT_TRUE(memory.ok()) << memory.status();
  const absl::StatusOr<Forgotten> forgotten = (*memory)->Forget("s", "a key");
  EXPECT_TRUE(forgotten.ok()) << forgotten.status();
  return forgotten.value_or(Forgotten());
}

TEST(MemoryClient, WhatACallThatWasCutOffHasForgottenIsNotDenied) {
  Node node;
  node.lost = 1;
  const Forgotten done = ForgetAt(node);
  EXPECT_EQ(done.records, 0);
  EXPECT_TRUE(done.perhaps_more);

  const Forgotten nothing = ForgetAt(node);
  EXPECT_EQ(nothing.records, 0);
  EXPECT_FALSE(nothing.perhaps_more) << "nothing was there, and that is known";
}

TEST(MemoryClient, ANodeThatNamesAnotherHasForgottenNothing) {
  Node node, other;
  other.leader = node.address;
  const Forgotten done = ForgetAt(other);
  EXPECT_EQ(done.records, 3);
  EXPECT_FALSE(done.perhaps_more);
}

}  // namespace
}  // namespace omni
