// The inside of cluster/forwarding_backend.h: an answer that another node gives. Nobody includes this but
// forwarded_answer.cc, forwarding_backend.cc and what sends calls on: forwarding_service.cc,
// forwarded_unary.h, forwarded_tasks.cc and forwarded_memory.cc.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <grpcpp/alarm.h>
#include <grpcpp/grpcpp.h>

#include "cluster/request_ids.h"
#include "omni/inference/v1/inference.grpc.pb.h"

namespace omni {

class ForwardedAnswer;

// What all that is forwarded shares. Thread-safe.
class Forwarding {
 public:
  // `leader`: the address of whoever leads, or of who may know; empty: nobody is known. The number says the
  // how manieth question it is about one request. It is not called after End.
  using AskForLeader = std::function<std::string(size_t)>;
  // `own`: this node's address.
  Forwarding(std::shared_ptr<grpc::ChannelCredentials> credentials, AskForLeader leader,
             std::function<std::string()> own)
      : credentials_(std::move(credentials)), leader_(std::move(leader)), own_(std::move(own)) {}

  std::string Leader(size_t turn);  // empty after End
  // Where a status that came over the wire says to ask instead; empty: nowhere, or this node itself, which
  // has just asked because it does not lead.
  std::string HintOf(const grpc::ClientContext& context);
  std::shared_ptr<grpc::Channel> ChannelTo(const std::string& address);
  // Whether there may be another; it keeps the answer until it leaves.
  bool Enter(const std::shared_ptr<ForwardedAnswer>& answer);
  void Leave(ForwardedAnswer* answer);
  // The same for what has its answer in one call, and ends by itself with its client's. What leaves has
  // nothing of gRPC's left.
  void EnterOther();
  void LeaveOther();
  bool WaitForNone(std::chrono::steady_clock::time_point until);  // whether nothing is forwarded by then
  bool over();
  // Cancels answers that are under way and waits until nothing is; not by a thread of gRPC's.
  void End();

 private:
  const std::shared_ptr<grpc::ChannelCredentials> credentials_;
  std::mutex mutex_;
  std::condition_variable none_;
  AskForLeader leader_;               // empty: the end
  std::function<std::string()> own_;  // as leader_
  std::map<std::string, std::shared_ptr<grpc::Channel>> channels_;
  std::set<std::shared_ptr<ForwardedAnswer>> answers_;
  int64_t others_ = 0;
};

// For whom a call is made, and that it is not to be sent on once more: NOT_LEADING is the answer then.
using CallMetadata = std::vector<std::pair<std::string, std::string>>;
CallMetadata ForwardedFor(const std::string& caller, const RequestIds& ids);
// With the address of whoever said it.
grpc::Status SaidBy(const std::string& address, const grpc::Status& status);

// One answer, over as many calls as it takes: a request that has a name is taken up again wherever somebody
// leads, for as long as nobody may answer; one without is asked again only if nothing of it has been begun.
class ForwardedAnswer : public std::enable_shared_from_this<ForwardedAnswer> {
 public:
  // Whom it is for. One call after another.
  class Client {
   public:
    virtual ~Client() = default;
    // Of the one answer: what has been told is not told again. False: nothing more until Resume.
    virtual bool OnMessage(const inference::v1::GenerateResponse& message) = 0;
    virtual void OnEnd(const grpc::Status& status) = 0;  // the last, on whatever thread
  };

  ForwardedAnswer(std::shared_ptr<Forwarding> forwarding, inference::v1::GenerateRequest ask,
                  CallMetadata metadata, std::chrono::system_clock::time_point deadline)
      : forwarding_(std::move(forwarding)),
        metadata_(std::move(metadata)),
        deadline_(deadline),
        ask_(std::move(ask)),
        have_(ask_.have()) {}

  void Start(Client& client);  // once
  // These may be called at any time, by any thread.
  void Resume();
  void Cancel();

 private:
  struct Call;

  void Attempt();
  void OnMessage();
  void OnOver(const grpc::Status& over);
  bool MayAskAgain(const grpc::Status& over) const;
  void AskAgainSoon();  // with the lock held
  void End(const grpc::Status& status);

  const std::shared_ptr<Forwarding> forwarding_;
  const CallMetadata metadata_;
  const std::chrono::system_clock::time_point deadline_;
  // Of the reactions, which come one after another.
  Client* client_ = nullptr;
  inference::v1::GenerateRequest ask_;
  uint64_t have_;
  size_t turn_ = 0;
  bool heard_any_ = false, finished_ = false;
  grpc::Status broken_;
  std::chrono::steady_clock::time_point heard_ = std::chrono::steady_clock::now();
  std::string address_, hint_;
  std::unique_ptr<inference::v1::Inference::Stub> stub_;

  std::mutex mutex_;
  Call* call_ = nullptr;
  bool cancelled_ = false, paused_ = false, resumed_ = false;  // resumed: before it was paused
  std::unique_ptr<grpc::Alarm> alarm_;
};

}  // namespace omni
