// A node's end: serves regions to whoever coordinates, and holds what it was told to. Without the actor
// (host.h).
//
// Any number of streams may be open, but one coordinator is obeyed: that of the highest term seen in the
// cluster that the node has joined last. What an earlier one still asks is refused, and what it assigns is
// not done.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <absl/container/flat_hash_map.h>
#include <absl/status/status.h>

#include "actors/counters.h"
#include "cluster/frames.h"
#include "cluster/transport.h"

namespace omni {

struct HostOptions {
  NodeId node;
  std::string cluster;  // empty: that of the first coordinator
  std::string model_hash;
  uint64_t offered_bytes = 0;
  uint32_t threads = 0;
  int64_t most_open = 4096;                     // requests being computed; more are refused
  ProtocolRange protocols = kClusterProtocols;  // fewer: as another program has them
  std::string program = {};                     // this one's version
};

struct HostCounters {
  Counter requests, answers, refused, cancelled, failed, streams;
  Counter heard;  // frames of whoever is obeyed: they come all the time
};

class HostState {
 public:
  using StreamId = uint64_t;

  // What the state makes happen. Called from within the calls below.
  class World {
   public:
    virtual ~World() = default;
    virtual void Write(StreamId stream, std::string frame) = 0;
    virtual void Close(StreamId stream, absl::Status status) = 0;  // OnClosed need not follow
    // Leads to OnReply, once. `request`'s id is distinct among those under way.
    virtual void Compute(RegionRequestPtr request) = 0;
    virtual void Prefetch(const PrefetchFrame& prefetch) = 0;
    // These regions are to be held from now on: leads to OnHeld whenever what is held changes.
    virtual void Hold(const AssignFrame& assign) = 0;
    virtual void FlushSoon() = 0;  // call Flush after the messages waiting now
    virtual uint64_t FreeBytes() = 0;
  };

  HostState(const ModelConfig& config, HostOptions options, HostCounters& counters, World& world)
      : config_(config), options_(std::move(options)), counters_(counters), world_(world) {}

  void set_node(NodeId node) { options_.node = std::move(node); }  // before anything is opened

  // A cluster's coordinator has taken the node. One that was made anew begins its terms again; whoever led
  // the one before is obeyed no more.
  void OnJoined(const std::string& name, const std::string& id);
  void OnOpened(StreamId stream);
  void OnFrame(StreamId stream, const FrameBytes& frame);
  void OnClosed(StreamId stream, const absl::Status& status);
  void OnReply(RegionReplyPtr reply);
  void Flush();
  void OnHeld(HoldingsFrame holdings);  // its revision is filled in

  uint64_t term() const { return term_; }
  const std::vector<RegionId>& held() const { return holdings_.regions; }

 private:
  struct Stream {
    bool welcome = false;
    NodeId coordinator;
    uint64_t term = 0;
    std::vector<RegionReplyPtr> answers;  // gathered
    // What it has asked and not been answered: by its number, the number under which it is computed.
    absl::flat_hash_map<uint64_t, uint64_t> asked;
  };
  struct Open {
    StreamId stream;
    uint64_t id;  // the coordinator's
    bool cancelled = false;
  };

  void Refuse(StreamId stream, absl::Status status);
  void Say(StreamId stream, const Frame& frame) { world_.Write(stream, EncodeFrame(frame)); }
  uint64_t EpochOf(RegionId region) const;
  absl::Status Check(const HelloFrame& hello) const;
  absl::Status OfAnotherCluster(const std::string& id) const;
  void Handle(StreamId id, Stream& stream, const HelloFrame& f);
  void Handle(StreamId id, Stream& stream, const ComputeFrame& f);
  void Handle(StreamId id, Stream& stream, const PrefetchFrame& f);
  void Handle(StreamId id, Stream& stream, const AssignFrame& f);
  void Handle(StreamId id, Stream& stream, const CancelFrame& f);
  void Handle(StreamId id, Stream& stream, const PingFrame& f);
  void Handle(StreamId id, Stream& stream, const GoodbyeFrame& f);
  template <typename F>
  void Handle(StreamId id, Stream& stream, const F&);  // what a coordinator does not say

  const ModelConfig& config_;
  HostOptions options_;
  HostCounters& counters_;
  World& world_;
  std::string cluster_id_;  // empty: of none yet
  uint64_t term_ = 0;
  uint64_t next_ = 1;
  std::map<StreamId, Stream> streams_;
  absl::flat_hash_map<uint64_t, Open> open_;  // by the id under which it is computed
  std::optional<AssignFrame> assign_;
  HoldingsFrame holdings_;
  bool flush_wanted_ = false;
};

}  // namespace omni
