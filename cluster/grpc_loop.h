// A gRPC completion queue as the place where a process's actors wait.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "actors/actor_loop.h"

namespace grpc {
class CompletionQueue;
class ServerBuilder;
class ServerCompletionQueue;
}  // namespace grpc

namespace omni {

// What the queue gives back is done on the actors' thread: no frame wakes more than that one thread.
class GrpcLoop : public ActorLoop {
 public:
  // What the queue gives back.
  class Tag {
   public:
    virtual ~Tag() = default;
    virtual void Done(bool ok) = 0;
  };

  enum class Waiting {
    kSleeping,
    // Watches for what comes a moment before it sleeps: who sleeps is woken tens of microseconds late. Only
    // where no other thread of the process waits for gRPC's events all the time (as one that talks to etcd
    // does): they would be in each other's way.
    kWatching,
  };

  explicit GrpcLoop(Waiting waiting);                       // of a process that serves nobody
  GrpcLoop(grpc::ServerBuilder& builder, Waiting waiting);  // the server is gone before the loop
  ~GrpcLoop() override;

  void Poll() override;
  void Wait() override;
  void Wake() override;
  // How often it was polled or waited at. Thread-safe.
  uint64_t turns() const;

  // Of the actors' thread, from a tag: done when no actor has anything to do, or at the next Poll.
  void Later(std::function<void()> f);

  // For operations whose tags are Tags.
  grpc::CompletionQueue& queue();
  grpc::ServerCompletionQueue* server_queue();  // null if made without a builder

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace omni
