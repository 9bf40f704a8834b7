// The members of an etcd: connections to all of them, and which of them to ask. Sees gRPC; for
// cluster/etcd_*.cc alone.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <absl/status/statusor.h>
#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <third_party/etcd.grpc.pb.h>

#include "cluster/etcd_loop.h"
#include "cluster/etcd_store.h"

namespace omni {

struct EtcdMember {
  std::string address;
  std::shared_ptr<grpc::Channel> channel;
  std::unique_ptr<etcdserverpb::KV::Stub> kv;
  std::unique_ptr<etcdserverpb::Watch::Stub> watch;
  std::unique_ptr<etcdserverpb::Lease::Stub> lease;
  int failures = 0;  // since its last answer
  EtcdLoop::Time suspect_until;
  bool awaited = false;  // its connection's next state is
};

// For the loop's thread.
class EtcdMembers {
 public:
  // Errors of the TLS files.
  static absl::StatusOr<std::vector<std::unique_ptr<EtcdMember>>> Connect(const EtcdOptions& options);
  // `on_change`: a connection's state has changed.
  EtcdMembers(EtcdLoop& loop, std::vector<std::unique_ptr<EtcdMember>> members,
              std::function<void()> on_change);

  // The member to ask: connected, and the one asked last unless it failed lately. Null: none is connected;
  // on_change comes when one may be.
  EtcdMember* Pick();
  void Answered(EtcdMember& member);
  void Failed(EtcdMember& member);
  bool Suspect(const EtcdMember& member) const;
  void Close();  // drops the connections

  // A delay before attempt `attempt` (1, 2, …) of the same thing: doubles each time up to a second, and is
  // scattered by half so that many who failed together do not come together again.
  std::chrono::milliseconds Backoff(int attempt);
  const std::string& names() const { return names_; }

 private:
  void Await(EtcdMember& member);

  EtcdLoop& loop_;
  std::vector<std::unique_ptr<EtcdMember>> members_;
  const std::function<void()> on_change_;
  std::string names_;  // "etcd at A, B"
  size_t current_ = 0;
  const uint64_t seed_;
  uint64_t drawn_ = 0;
};

// What every call to etcd says: a member that knows of no leader is to refuse at once instead of waiting.
void RequireLeader(grpc::ClientContext& context);

}  // namespace omni
