// The server's side of a call that answers with a stream of messages made by waiting for a disk. For the few
// files that see gRPC.
#pragma once

#include <functional>
#include <mutex>
#include <utility>

#include <grpcpp/grpcpp.h>

#include "cluster/disk_pool.h"
#include "cluster/grpc_status.h"

namespace omni {

// One message is made while the one before it is sent; none is made that the client does not take. Owns
// itself: gone when the call is over.
template <typename Message>
class SendStream final : public grpc::ServerWriteReactor<Message> {
 public:
  // Called on a thread of the pool, one call at a time: the next message; false: there is none, and `*status`
  // is how the call ends.
  using Make = std::function<bool(Message*, grpc::Status* status)>;

  // `over` is called once, when nothing more is made or sent.
  SendStream(DiskPool* pool, Make make, std::function<void()> over)
      : pool_(pool), make_(std::move(make)), over_(std::move(over)) {
    Go([] {});
  }

 private:
  // Makes a change and what follows from it. Whoever has nothing more to do must not touch this again: it may
  // be gone. gRPC is called outside the lock, since it may call back at once.
  template <typename Change>
  void Go(const Change& change) {
    bool make = false, send = false, finish = false;
    {
      const std::lock_guard lock(mutex_);
      change();
      if (!sending_ && made_ && !cancelled_) {
        std::swap(next_, sent_);
        made_ = false;
        send = sending_ = true;
      }
      if (!making_ && !made_ && !ended_ && !cancelled_) make = making_ = true;
      if (!finished_ && !sending_ && !making_ && (cancelled_ || (ended_ && !made_)))
        finish = finished_ = true;
    }
    if (make)
      pool_->Run([this] { MakeNext(); }, [this](const absl::Status& thrown) { NotMade(ToGrpc(thrown)); });
    if (send) this->StartWrite(&sent_);
    if (!finish) return;
    over_();  // before the client knows: it may ask again at once
    this->Finish(cancelled_ ? grpc::Status::CANCELLED : status_);
  }
  void MakeNext() {
    grpc::Status status;
    const bool made = make_(&next_, &status);
    Go([&] {
      making_ = false;
      made_ = made;
      if (!made) ended_ = true, status_ = std::move(status);
    });
  }
  void NotMade(const grpc::Status& status) {
    Go([&] {
      making_ = false;
      ended_ = true, status_ = status;
    });
  }
  void OnWriteDone(bool ok) override {
    Go([&] {
      sending_ = false;
      cancelled_ = cancelled_ || !ok;
    });
  }
  void OnCancel() override {
    Go([&] { cancelled_ = true; });
  }
  void OnDone() override { delete this; }

  DiskPool* const pool_;
  const Make make_;
  const std::function<void()> over_;
  std::mutex mutex_;
  Message next_, sent_;  // next_: the maker's while making_, else the lock's; sent_: gRPC's while sending_
  bool making_ = false, made_ = false, sending_ = false, ended_ = false, cancelled_ = false,
       finished_ = false;
  grpc::Status status_;
};

// A call that was refused.
template <typename Message>
class EndedStream final : public grpc::ServerWriteReactor<Message> {
 public:
  explicit EndedStream(const grpc::Status& status) { this->Finish(status); }

 private:
  void OnDone() override { delete this; }
};

}  // namespace omni
