#include "cluster/peer_state.h"

#include <algorithm>
#include <utility>

#include <absl/strings/str_cat.h>

#include "cluster/cluster_log.h"
#include "engine/base/simulated.h"

namespace omni {

PeerState::PeerState(const ModelConfig& config, const PeerOptions& options, std::string address,
                     HelloFrame hello, Opener open, NodeHealth& health, PeerCounters& counters,
                     RegionLinkEvents& events, Owner& owner, uint64_t seed, int32_t source)
    : config_(config),
      options_(options),
      address_(std::move(address)),
      hello_(std::move(hello)),
      open_stream_(std::move(open)),
      health_(health),
      counters_(counters),
      events_(events),
      owner_(owner),
      source_(source),
      random_(static_cast<uint32_t>(seed)),
      wait_(options.first_wait) {}

PeerState::~PeerState() { Stop(); }

void PeerState::Start(Clock::time_point now) {
  if (phase_ == Phase::kStopped) Connect(now);
}

void PeerState::Stop() {
  phase_ = Phase::kStopped;
  stream_ = nullptr;
  health_.SetUp(false);
}

void PeerState::SetAddress(std::string address) { address_ = std::move(address); }

void PeerState::Connect(Clock::time_point now) {
  phase_ = Phase::kConnecting;
  since_ = heard_ = pinged_ = now;
  unfit_.reset();
  stream_ = open_stream_(address_);
  Write(hello_);
}

void PeerState::GoDown(const absl::Status& reason, Clock::time_point now) {
  const bool was_up = phase_ == Phase::kUp;
  phase_ = Phase::kWaiting;
  since_ = now;
  stream_ = nullptr;
  health_.SetUp(false);
  // Not all nodes come back at the same moment after something that struck all of them.
  std::uniform_int_distribution<int64_t> jitter(wait_.count() / 2, wait_.count());
  const std::chrono::milliseconds wait(jitter(random_));
  wait_ = std::min(2 * wait_, options_.longest_wait);
  since_ = now + wait;
  if (!open_.empty()) OMNI_REACHED(kPeerLostWithRequests);
  if (was_up) {
    LogNodeLost(hello_.cluster, address_, reason);
  } else if (absl::IsFailedPrecondition(reason)) {
    // It is asked again, since it may be another program by then; once is enough to say so.
    if (std::exchange(refused_, std::string(reason.message())) != reason.message())
      LogNodeRefused(address_, reason);
  } else {
    LogNodeUnreachable(address_, reason, wait);
  }
  owner_.OnDown(reason);
  // After the owner: whoever is asked again is asked elsewhere.
  std::vector<RegionId> lost;
  for (const auto& [id, open] : open_) lost.push_back(open.region);
  open_.clear();
  unanswered_bytes_ = 0;
  std::sort(lost.begin(), lost.end());
  lost.erase(std::unique(lost.begin(), lost.end()), lost.end());
  if (OMNI_PLANTED(kLostRequestsUnreported)) return;
  for (RegionId region : lost) events_.OnLost(region, std::string(reason.message()));
}

void PeerState::Write(const Frame& frame) {
  std::string bytes = EncodeFrame(frame);
  counters_.sent_bytes.Add(static_cast<int64_t>(bytes.size()));
  stream_->Write(std::move(bytes));
}

void PeerState::Send(std::vector<RegionRequestPtr> requests, Clock::time_point now) {
  if (!up()) {
    for (const RegionRequestPtr& r : requests)
      events_.OnLost(r->region, absl::StrCat("the connection to ", address_, " is broken"));
    return;
  }
  int64_t bytes = 0;
  for (const RegionRequestPtr& r : requests) bytes += r->rows * (r->width + 4);
  if (unanswered_bytes_ > 0 && unanswered_bytes_ + bytes > options_.most_unanswered_bytes) {
    // The links ask another one when their time is over; this one is behind with what it has.
    return;
  }
  for (const RegionRequestPtr& r : requests) {
    open_.insert_or_assign(r->id, Open{r->region, r->rows, r->rows * (r->width + 4), now});
    counters_.requests.Add(1);
  }
  unanswered_bytes_ += bytes;
  Write(ComputeFrame{std::move(requests)});
}

void PeerState::Assign(AssignFrame assign, Clock::time_point) {
  if (assign_.has_value() && *assign_ == assign) return;
  assign_ = std::move(assign);
  if (up()) Write(*assign_);
}

void PeerState::Prefetch(const PrefetchFrame& prefetch) {
  if (up()) Write(prefetch);
}

void PeerState::Cancel(uint64_t request_id) {
  const auto found = open_.find(request_id);
  if (found == open_.end()) return;
  unanswered_bytes_ -= found->second.bytes;
  open_.erase(found);
  if (up()) Write(CancelFrame{{request_id}});
}

void PeerState::OnFrame(const FrameBytes& bytes, Clock::time_point now) {
  if (phase_ != Phase::kConnecting && phase_ != Phase::kUp) return;
  heard_ = now;
  health_.Heard(now);
  counters_.received_bytes.Add(static_cast<int64_t>(bytes.bytes.size()));
  if (unfit_.has_value()) return;
  absl::StatusOr<Frame> frame = DecodeFrame(bytes.bytes, config_);
  if (!frame.ok()) {
    GoDown(frame.status(), now);
    return;
  }
  std::visit([&](const auto& f) { Handle(f, now); }, *frame);
}

void PeerState::OnClosed(const absl::Status& status, Clock::time_point now) {
  if (phase_ != Phase::kConnecting && phase_ != Phase::kUp) return;
  if (unfit_.has_value()) return GoDown(absl::Status(*unfit_), now);
  GoDown(status.ok() ? absl::UnavailableError(absl::StrCat(address_, " closed the connection")) : status,
         now);
}

void PeerState::OnTick(Clock::time_point now) {
  switch (phase_) {
    case Phase::kStopped:
      return;
    case Phase::kWaiting:
      if (now >= since_) Connect(now);
      return;
    case Phase::kConnecting:
      if (now - since_ >= options_.connect) {
        OMNI_REACHED(kPeerConnectTimeout);
        if (unfit_.has_value()) return GoDown(absl::Status(*unfit_), now);
        GoDown(absl::UnavailableError(
                   absl::StrCat("no answer from ", address_, " within ", options_.connect.count(), " ms")),
               now);
      }
      return;
    case Phase::kUp:
      if (now - heard_ >= options_.silence) {
        OMNI_REACHED(kPeerSilent);
        GoDown(absl::UnavailableError(
                   absl::StrCat("nothing heard of ", address_, " for ", options_.silence.count(), " ms")),
               now);
      } else if (now - pinged_ >= options_.heartbeat) {
        // Who owes an answer to two pings is silent, though nothing be asked of it.
        if (now - heard_ >= 2 * options_.heartbeat && !health_.suspect()) health_.Suspect(now);
        pinged_ = now;
        Write(PingFrame{++pings_});
      }
      return;
  }
}

template <typename F>
void PeerState::Handle(const F&, Clock::time_point now) {
  GoDown(absl::InvalidArgumentError(absl::StrCat(address_, " sent what only a coordinator says")), now);
}

void PeerState::Handle(const WelcomeFrame& f, Clock::time_point now) {
  if (phase_ == Phase::kUp) return;
  if (!hello_.protocols.Has(f.protocol)) {
    unfit_ = absl::FailedPreconditionError(absl::StrCat(
        "the node's protocol is ", f.protocol, ", the coordinator's is ", ToString(hello_.protocols)));
    since_ = now;
    Write(GoodbyeFrame{std::string(unfit_->message())});
    return;
  }
  phase_ = Phase::kUp;
  refused_.clear();
  since_ = pinged_ = now;
  wait_ = options_.first_wait;
  counters_.connections.Add(1);
  health_.SetUp(true);
  LogNodeUp(f.node.value, address_);
  owner_.OnUp(f);
  if (assign_.has_value() && up()) Write(*assign_);
}

void PeerState::Handle(const HoldingsFrame& f, Clock::time_point) {
  size_t next = 0;
  for (int32_t r = 0; r < static_cast<int32_t>(config_.num_regions()); ++r) {
    const bool holds = next < f.regions.size() && f.regions[next] == RegionId(r);
    if (holds) ++next;
    health_.SetHolds(RegionId(r), holds);
  }
  owner_.OnHoldings(f);
}

void PeerState::Handle(const PongFrame& f, Clock::time_point) { owner_.OnFree(f.free_bytes); }

void PeerState::Handle(const RefusedFrame& f, Clock::time_point) {
  const auto found = open_.find(f.id);
  if (found == open_.end()) return;
  unanswered_bytes_ -= found->second.bytes;
  open_.erase(found);
  OMNI_REACHED(kPeerRefused);
  counters_.refused.Add(1);
  health_.SetHolds(f.region, false);  // until it says otherwise
  events_.OnLost(f.region, absl::StrCat(address_, ": ", f.reason));
}

void PeerState::Handle(const AnswersFrame& f, Clock::time_point now) {
  for (const RegionReplyPtr& reply : f.replies) OnAnswer(reply, now);
}

void PeerState::OnAnswer(RegionReplyPtr reply, Clock::time_point now) {
  const auto found = open_.find(reply->request_id);
  if (found == open_.end()) {  // cancelled
    OMNI_REACHED(kPeerAnswerUnasked);
    return;
  }
  const Open open = found->second;
  open_.erase(found);
  unanswered_bytes_ -= open.bytes;
  counters_.answers.Add(1);
  Measure(open, now);
  for (const absl::Status& status : reply->statuses) {
    if (status.ok()) continue;
    OMNI_REACHED(kPeerFailedExpert);
    // Somebody else may have what this one lacks.
    health_.SetHolds(open.region, false);
    events_.OnLost(open.region, absl::StrCat(address_, ": ", status.message()));
    return;
  }
  auto mine = std::const_pointer_cast<RegionReply>(reply);  // made by DecodeFrame, for nobody else
  mine->source = source_;
  mine->compute = std::chrono::nanoseconds(0);
  events_.OnReply(std::move(mine));
}

void PeerState::Measure(const Open& open, Clock::time_point now) {
  const size_t shape = NodeHealth::Shape(open.rows);
  LatencyHistogram& times = times_[shape];
  times.Add(now - open.sent);
  if (times.count() > 64 && times.count() % 16 != 0) return;
  const std::chrono::nanoseconds p99 = times.Quantile(0.99);
  health_.SetUsual(static_cast<int64_t>(shape), p99);
  if (shape != 0) return;
  counters_.rtt_p50_ns.Set(times.Quantile(0.5).count());
  counters_.rtt_p99_ns.Set(p99.count());
}

}  // namespace omni
