// Streams of frames between nodes, whatever carries them: gRPC, or a simulation.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include <absl/status/status.h>

#include "cluster/frames.h"

namespace omni {

// This end of an open stream. Destroying it closes it: nothing is told any more when that returns.
// One thread at a time.
class FrameStream {
 public:
  virtual ~FrameStream() = default;
  // In order, and never waits: what the other end does not take yet is kept.
  virtual void Write(std::string frame) = 0;
  virtual int64_t unsent_bytes() const = 0;  // of what is kept
};

// Told on a thread of the transport, which may not be held up.
class FrameStreamEvents {
 public:
  virtual ~FrameStreamEvents() = default;
  virtual void OnFrame(FrameBytes frame) = 0;
  virtual void OnClosed(absl::Status status) = 0;  // the last; OK: the other end closed it in order
};

class FrameTransport {
 public:
  virtual ~FrameTransport() = default;  // after its streams
  // Begins to connect; what is written meanwhile is sent then. `events` outlives the stream.
  virtual std::unique_ptr<FrameStream> Open(const std::string& address, FrameStreamEvents& events) = 0;
};

}  // namespace omni
