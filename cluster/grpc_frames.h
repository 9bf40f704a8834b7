// Frames over gRPC: the Exchange streams of proto/omni/cluster/v1/regions.proto, as bytes, on the thread of
// the process's actors.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include <absl/status/status.h>

#include "cluster/transport.h"

namespace grpc {
class ChannelCredentials;
class ServerBuilder;
}  // namespace grpc

namespace omni {

class GrpcLoop;

// The coordinator's side. The loop is that of actors that run, until the transport has gone.
class GrpcFrameTransport : public FrameTransport {
 public:
  // Empty credentials: without encryption.
  GrpcFrameTransport(std::shared_ptr<grpc::ChannelCredentials> credentials, GrpcLoop& loop);
  ~GrpcFrameTransport() override;

  std::unique_ptr<FrameStream> Open(const std::string& address, FrameStreamEvents& events) override;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// The node's side: a service of a server that others may have services on too.
class GrpcFrameService {
 public:
  using StreamId = uint64_t;  // from 1 on
  // Told on the actors' thread, which may not be held up.
  class Events {
   public:
    virtual ~Events() = default;
    virtual void OnOpened(StreamId stream) = 0;
    virtual void OnFrame(StreamId stream, FrameBytes frame) = 0;
    virtual void OnClosed(StreamId stream, absl::Status status) = 0;  // not after Close
  };

  // Before the server is built, with the loop that was made for it. Loop and `events` outlive the service,
  // and the service the server.
  GrpcFrameService(grpc::ServerBuilder& builder, GrpcLoop& loop, Events& events);
  ~GrpcFrameService();

  void Start();  // when the server has been built
  // After the server's Shutdown has been called, and before the server goes: waits until all streams have
  // ended.
  void Stop();

  // From any thread; of a stream that has ended: nothing happens.
  void Write(StreamId stream, std::string frame);
  void Close(StreamId stream, const absl::Status& status);  // what was written before is sent

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace omni
