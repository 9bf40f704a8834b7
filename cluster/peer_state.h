// The coordinator's end of its stream to one node: connects, and again when that breaks, says hello, sends
// requests and takes answers, and notices when nothing is heard any more. Without the actor (peer.h).
//
//     kWaiting --(time)--> kConnecting --(welcome)--> kUp
//        ^                      |                      |
//        +------- closed, refused, silent -------------+
//
// Who is refused may refuse too: a node whose protocol is another is told so, and given up when it has closed
// the stream.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include <absl/container/flat_hash_map.h>
#include <absl/status/status.h>

#include "actors/counters.h"
#include "cluster/frames.h"
#include "cluster/latency.h"
#include "cluster/routes.h"
#include "cluster/transport.h"

namespace omni {

struct PeerOptions {
  std::chrono::milliseconds heartbeat{250};  // between pings
  std::chrono::milliseconds silence{3000};   // after which the stream is given up
  std::chrono::milliseconds connect{3000};   // for a connection and a welcome
  std::chrono::milliseconds first_wait{50};  // before connecting again; doubled each time
  std::chrono::milliseconds longest_wait{2000};
  int64_t most_unanswered_bytes = 64 << 20;  // more is not sent: the node is not up to it
};

// Written by the peer, read by any thread.
struct PeerCounters {
  Counter sent_bytes, received_bytes, requests, answers, refused, connections;
  Counter rtt_p50_ns, rtt_p99_ns;  // of late, of requests of one row
};

class PeerState {
 public:
  using Clock = std::chrono::steady_clock;

  // What the node says of itself, and what becomes of it. Called from within the calls below.
  class Owner {
   public:
    virtual ~Owner() = default;
    virtual void OnUp(const WelcomeFrame& welcome) = 0;
    virtual void OnDown(const absl::Status& reason) = 0;  // it was up, or a try to connect has failed
    virtual void OnHoldings(const HoldingsFrame& holdings) = 0;
    virtual void OnFree(uint64_t bytes) = 0;
  };

  // Opens a stream whose frames and end come as OnFrame and OnClosed, as long as no later one is opened.
  using Opener = std::function<std::unique_ptr<FrameStream>(const std::string& address)>;

  // All references outlive it; `events` may be of a coordinator that has ended.
  PeerState(const ModelConfig& config, const PeerOptions& options, std::string address, HelloFrame hello,
            Opener open, NodeHealth& health, PeerCounters& counters, RegionLinkEvents& events, Owner& owner,
            uint64_t seed, int32_t source);
  ~PeerState();

  void Start(Clock::time_point now);
  void Stop();                                                               // for good
  void Send(std::vector<RegionRequestPtr> requests, Clock::time_point now);  // of one layer; in one frame
  void Assign(AssignFrame assign, Clock::time_point now);  // sent again after every reconnection
  void Prefetch(const PrefetchFrame& prefetch);
  void Cancel(uint64_t request_id);
  void SetAddress(std::string address);  // for the next connection

  // Of the present stream; `number` is the stream's, and what an earlier one says does not count.
  void OnFrame(const FrameBytes& frame, Clock::time_point now);
  void OnClosed(const absl::Status& status, Clock::time_point now);
  void OnTick(Clock::time_point now);
  std::chrono::milliseconds TickEvery() const { return options_.heartbeat / 2; }

  bool up() const { return phase_ == Phase::kUp; }

 private:
  enum class Phase { kStopped, kWaiting, kConnecting, kUp };
  struct Open {
    RegionId region;
    int64_t rows = 0, bytes = 0;
    Clock::time_point sent;
  };

  void Connect(Clock::time_point now);
  void GoDown(const absl::Status& reason, Clock::time_point now);
  void Write(const Frame& frame);
  void Handle(const WelcomeFrame& f, Clock::time_point now);
  void Handle(const AnswersFrame& f, Clock::time_point now);
  void Handle(const RefusedFrame& f, Clock::time_point now);
  void Handle(const HoldingsFrame& f, Clock::time_point now);
  void Handle(const PongFrame& f, Clock::time_point now);
  template <typename F>
  void Handle(const F&, Clock::time_point now);  // what a node does not say
  void OnAnswer(RegionReplyPtr reply, Clock::time_point now);
  void Measure(const Open& open, Clock::time_point now);

  const ModelConfig& config_;
  const PeerOptions options_;
  std::string address_;
  const HelloFrame hello_;
  const Opener open_stream_;
  NodeHealth& health_;
  PeerCounters& counters_;
  RegionLinkEvents& events_;
  Owner& owner_;
  const int32_t source_;
  std::minstd_rand random_;  // of the waits

  Phase phase_ = Phase::kStopped;
  std::unique_ptr<FrameStream> stream_;
  Clock::time_point since_, heard_, pinged_;  // since_: of the phase
  std::chrono::milliseconds wait_;
  std::optional<absl::Status> unfit_;  // why the node that has just answered is not taken
  std::string refused_;                // the reason that was logged last
  uint64_t pings_ = 0;
  absl::flat_hash_map<uint64_t, Open> open_;  // by request
  int64_t unanswered_bytes_ = 0;
  std::optional<AssignFrame> assign_;
  LatencyHistogram times_[NodeHealth::kShapes];
};

}  // namespace omni
