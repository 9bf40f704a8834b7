// Calls to etcd that have one answer, over as many attempts and members as that takes. Sees gRPC; for
// cluster/etcd_*.cc alone.
#pragma once

#include <chrono>
#include <functional>
#include <list>
#include <memory>
#include <string>
#include <utility>

#include <absl/status/status.h>
#include <grpcpp/client_context.h>
#include <grpcpp/support/async_unary_call.h>
#include <grpcpp/support/status.h>

#include "cluster/coordination.h"
#include "cluster/etcd_loop.h"
#include "cluster/etcd_members.h"

namespace omni {

// For the loop's thread.
class EtcdCalls {
 public:
  enum class Repeat {
    kSafe,   // asking twice is as good as once
    kNever,  // after an attempt that may have done something the outcome is unknown, and told so
  };
  using Done = std::function<void(const grpc::Status&)>;
  // Asks a member once. `done` is told on the loop's thread, once; what is returned cancels it.
  using Attempt =
      std::function<std::shared_ptr<grpc::ClientContext>(EtcdMember&, gpr_timespec deadline, Done)>;
  using Told = std::function<void(const absl::Status&)>;

  EtcdCalls(EtcdLoop& loop, EtcdMembers& members, const EtcdOptions& options)
      : loop_(loop), members_(members), options_(options) {}

  // `what`, as "commit", is for messages.
  void Run(std::string what, Repeat repeat, Attempt attempt, Told told);
  void OnMembersChange();
  void CancelAll();

 private:
  struct Call {
    std::string what;
    Repeat repeat;
    Attempt attempt;
    Told told;
    EtcdLoop::Time deadline;
    int attempts = 0;
    std::shared_ptr<grpc::ClientContext> context;  // of the attempt under way
    bool waiting = false;                          // for a member to be connected
    EtcdLoop::TimerId timer;
    std::string last_error = "no member is connected";
    bool over = false;
    std::list<std::shared_ptr<Call>>::iterator place;
  };

  void Try(const std::shared_ptr<Call>& call);
  void OnAttempt(const std::shared_ptr<Call>& call, EtcdMember& member, const grpc::Status& status);
  void TryAfter(const std::shared_ptr<Call>& call, std::chrono::milliseconds delay);
  void Finish(const std::shared_ptr<Call>& call, const absl::Status& status);
  absl::Status Unavailable(const Call& call) const;

  EtcdLoop& loop_;
  EtcdMembers& members_;
  const EtcdOptions& options_;
  std::list<std::shared_ptr<Call>> calls_;
};

// An attempt of a call with one request and one answer, which `response` has when it is done. `begin` is as
// [](EtcdMember& m, const auto&... a) { return m.kv->AsyncRange(a...); }
template <typename Request, typename Response, typename Begin>
EtcdCalls::Attempt UnaryAttempt(EtcdLoop& loop, Request request, std::shared_ptr<Response> response,
                                Begin begin) {
  struct UnderWay {
    std::unique_ptr<grpc::ClientAsyncResponseReader<Response>> reader;
    grpc::Status status;
  };
  return [&loop, request = std::move(request), response = std::move(response), begin](
             EtcdMember& member, gpr_timespec deadline, EtcdCalls::Done done) {
    auto context = std::make_shared<grpc::ClientContext>();
    context->set_deadline(deadline);
    RequireLeader(*context);
    response->Clear();
    auto under_way = std::make_shared<UnderWay>();
    under_way->reader = begin(member, context.get(), request, &loop.queue());
    under_way->reader->Finish(
        response.get(), &under_way->status,
        loop.Tag([context, response, under_way, done = std::move(done)](bool) { done(under_way->status); }));
    return context;
  };
}

// etcd keeps leases alive over a stream; this is one question and one answer on one.
EtcdCalls::Attempt KeepAliveAttempt(EtcdLoop& loop, LeaseId lease,
                                    std::shared_ptr<etcdserverpb::LeaseKeepAliveResponse> response);

// The one conversion of gRPC's errors with etcd.
absl::Status FromEtcd(const std::string& what, const grpc::Status& status);

}  // namespace omni
