// One watcher of etcd, over as many streams and members as it lives through. Sees gRPC; for cluster/etcd_*.cc
// alone.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include <grpcpp/client_context.h>
#include <grpcpp/support/async_stream.h>
#include <third_party/etcd.grpc.pb.h>

#include "cluster/etcd_loop.h"
#include "cluster/etcd_members.h"
#include "cluster/watch_delivery.h"

namespace omni {

// Problem: a stream ends with its member, or stays open and silent when the member is stopped, and the
// watcher is to see every change once. Solution: `next_` is the first revision that has not been told as
// a whole; every stream begins there. A question on the stream at regular times, which etcd answers,
// tells silence from peace.
//
// For the loop's thread.
class EtcdWatch : public std::enable_shared_from_this<EtcdWatch> {
 public:
  EtcdWatch(EtcdLoop& loop, EtcdMembers& members, const EtcdOptions& options, const std::string& prefix,
            Revision from, std::shared_ptr<WatchDelivery> delivery);

  void Begin();
  void OnMembersChange();
  void Stop();
  bool over() const { return over_; }

 private:
  struct Stream;

  void Read(const std::shared_ptr<Stream>& stream);
  void Write(const std::shared_ptr<Stream>& stream);
  void Probe(const std::shared_ptr<Stream>& stream);
  void OnResponse(const std::shared_ptr<Stream>& stream);
  void OnEvents(const etcdserverpb::WatchResponse& response);
  void OnCanceled(const std::shared_ptr<Stream>& stream);
  void OnEnd(const std::shared_ptr<Stream>& stream);
  void TellPending();
  // Leaves the stream and goes on at another member, or at the same one later.
  void BeginAgain(const std::shared_ptr<Stream>& stream);
  void End(const absl::Status& status);

  EtcdLoop& loop_;
  EtcdMembers& members_;
  const EtcdOptions& options_;
  const std::string prefix_;  // of the watched keys, without that of the options
  const std::shared_ptr<WatchDelivery> delivery_;
  Revision next_;
  Changes pending_;  // of a revision that may not be complete; revision 0: none
  uint64_t cluster_id_ = 0;
  int failures_ = 0;  // since a member's last answer
  bool waiting_ = false, over_ = false;
  std::shared_ptr<Stream> stream_;
  EtcdLoop::TimerId timer_;
};

}  // namespace omni
