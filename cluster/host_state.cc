#include "cluster/host_state.h"

#include <algorithm>
#include <utility>

#include <absl/strings/str_cat.h>

#include "cluster/cluster_log.h"
#include "engine/base/simulated.h"

namespace omni {

void HostState::OnJoined(const std::string& name, const std::string& id) {
  options_.cluster = name;
  if (id == cluster_id_) return;
  const std::string before = std::exchange(cluster_id_, id);
  if (before.empty() && term_ == 0) return;
  OMNI_REACHED(kHostJoinedAnotherCluster);
  term_ = 0;
  assign_.reset();
  std::vector<StreamId> ended;
  for (const auto& [stream, state] : streams_) {
    if (state.welcome) ended.push_back(stream);
  }
  for (StreamId stream : ended) Refuse(stream, OfAnotherCluster(before));
}

absl::Status HostState::OfAnotherCluster(const std::string& id) const {
  return absl::FailedPreconditionError(absl::StrCat(
      "the coordinator's cluster has the id ", id, ", and this node has joined the one of id ", cluster_id_));
}

void HostState::OnOpened(StreamId stream) {
  streams_[stream];
  counters_.streams.Set(static_cast<int64_t>(streams_.size()));
}

void HostState::OnFrame(StreamId id, const FrameBytes& bytes) {
  const auto found = streams_.find(id);
  if (found == streams_.end()) return;
  absl::StatusOr<Frame> frame = DecodeFrame(bytes.bytes, config_);
  if (!frame.ok()) {
    Refuse(id, frame.status());
    return;
  }
  if (!found->second.welcome && !std::holds_alternative<HelloFrame>(*frame)) {
    Refuse(id, absl::FailedPreconditionError("the first frame of a stream is to be a hello"));
    return;
  }
  if (found->second.welcome && found->second.term == term_) counters_.heard.Add(1);
  std::visit([&](const auto& f) { Handle(id, found->second, f); }, *frame);
}

void HostState::Refuse(StreamId id, absl::Status status) {
  const auto found = streams_.find(id);
  LogCoordinatorRefused(found->second.coordinator.value, status);
  OnClosed(id, status);
  world_.Close(id, std::move(status));
}

void HostState::OnClosed(StreamId id, const absl::Status& status) {
  const auto found = streams_.find(id);
  if (found == streams_.end()) return;
  if (found->second.welcome) LogCoordinatorGone(found->second.coordinator.value, status);
  streams_.erase(found);
  counters_.streams.Set(static_cast<int64_t>(streams_.size()));
}

absl::Status HostState::Check(const HelloFrame& hello) const {
  const auto differs = [](std::string_view what, auto theirs, auto ours) {
    return absl::FailedPreconditionError(
        absl::StrCat("the coordinator's ", std::string(what), " is ", theirs, ", this node's is ", ours));
  };
  if (options_.protocols.HighestWith(hello.protocols) == 0)
    return differs("protocol", ToString(hello.protocols), ToString(options_.protocols));
  if (hello.model_hash != options_.model_hash) return differs("model", hello.model_hash, options_.model_hash);
  if (hello.regions != static_cast<uint64_t>(config_.num_regions()))
    return differs("number of regions", hello.regions, config_.num_regions());
  if (!options_.cluster.empty() && hello.cluster != options_.cluster)
    return differs("cluster", hello.cluster, options_.cluster);
  if (!cluster_id_.empty() && hello.cluster_id != cluster_id_ && !OMNI_PLANTED(kOtherClusterObeyed)) {
    OMNI_REACHED(kHostOtherClusterHello);
    return OfAnotherCluster(hello.cluster_id);
  }
  if (hello.term < term_) {
    OMNI_REACHED(kHostOldTermHello);
    return absl::FailedPreconditionError(absl::StrCat(
        "the coordinator's term ", hello.term, " is over: a coordinator of term ", term_, " has come"));
  }
  return absl::OkStatus();
}

void HostState::Handle(StreamId id, Stream& stream, const HelloFrame& f) {
  stream.coordinator = f.coordinator;
  if (absl::Status s = Check(f); !s.ok()) {
    Refuse(id, std::move(s));
    return;
  }
  if (f.term > term_) assign_.reset();  // revisions of another coordinator's placement may be counted anew
  term_ = f.term;
  options_.cluster = f.cluster;
  cluster_id_ = f.cluster_id;
  stream.term = f.term;
  stream.welcome = true;
  LogCoordinatorAccepted(f.coordinator.value, f.term);
  Say(id, WelcomeFrame{options_.protocols.HighestWith(f.protocols), options_.node, options_.offered_bytes,
                       options_.threads, options_.program});
  Say(id, holdings_);
}

uint64_t HostState::EpochOf(RegionId region) const {
  if (!assign_.has_value()) return 0;
  for (const AssignFrame::Region& r : assign_->regions) {
    if (r.region == region) return r.epoch;
  }
  return 0;
}

void HostState::Handle(StreamId id, Stream& stream, const ComputeFrame& f) {
  for (const RegionRequestPtr& request : f.requests) {
    counters_.requests.Add(1);
    const uint64_t epoch = EpochOf(request->region);
    std::string reason;
    if (stream.term != term_ && !OMNI_PLANTED(kOldCoordinatorObeyed)) {
      OMNI_REACHED(kHostOldTermRequest);
      reason = "a coordinator of a later term has come";
    } else if (epoch != request->epoch && !OMNI_PLANTED(kEpochUncheckedByNode)) {
      OMNI_REACHED(kHostWrongEpoch);
      reason = absl::StrCat("region ", request->region.value, " is served here by epoch ", epoch,
                            ", and the request is of epoch ", request->epoch);
    } else if (!std::binary_search(holdings_.regions.begin(), holdings_.regions.end(), request->region)) {
      OMNI_REACHED(kHostNotAllHere);
      reason = absl::StrCat("region ", request->region.value, " is not all here yet");
    } else if (static_cast<int64_t>(open_.size()) >= options_.most_open) {
      reason = absl::StrCat(open_.size(), " requests are being computed already");
    }
    if (!reason.empty()) {
      counters_.refused.Add(1);
      Say(id, RefusedFrame{request->id, request->region, epoch, std::move(reason)});
      continue;
    }
    // Two coordinators, or two streams of one, may use the same number.
    const uint64_t mine = next_++;
    open_.emplace(mine, Open{id, request->id, false});
    stream.asked.insert_or_assign(request->id, mine);
    auto own = std::const_pointer_cast<RegionRequest>(request);  // made by DecodeFrame, for nobody else
    own->id = mine;
    world_.Compute(std::move(own));
  }
}

void HostState::OnReply(RegionReplyPtr reply) {
  const auto found = open_.find(reply->request_id);
  if (found == open_.end()) return;
  const Open open = found->second;
  open_.erase(found);
  const auto stream = streams_.find(open.stream);
  if (stream == streams_.end()) {
    OMNI_REACHED(kHostStreamGoneBeforeAnswer);
  } else if (const auto asked = stream->second.asked.find(open.id);
             asked != stream->second.asked.end() && asked->second == reply->request_id) {
    stream->second.asked.erase(asked);
  }
  if (open.cancelled || stream == streams_.end()) return;
  counters_.answers.Add(1);
  for (const absl::Status& status : reply->statuses) {
    if (!status.ok()) counters_.failed.Add(1);
  }
  auto mine = std::const_pointer_cast<RegionReply>(reply);  // of a region of this node, for nobody else
  mine->request_id = open.id;
  stream->second.answers.push_back(std::move(mine));
  // Answers that are ready at the same time go in one message.
  if (std::exchange(flush_wanted_, true)) return;
  world_.FlushSoon();
}

void HostState::Flush() {
  flush_wanted_ = false;
  for (auto& [id, stream] : streams_) {
    if (!stream.answers.empty()) Say(id, AnswersFrame{std::exchange(stream.answers, {})});
  }
}

void HostState::Handle(StreamId, Stream& stream, const PrefetchFrame& f) {
  if (stream.term == term_) world_.Prefetch(f);
}

void HostState::Handle(StreamId id, Stream& stream, const AssignFrame& f) {
  if (stream.term != term_ && !OMNI_PLANTED(kOldCoordinatorObeyed)) {
    OMNI_REACHED(kHostOldTermAssign);
    return;
  }
  if (assign_.has_value() && f.revision < assign_->revision && !OMNI_PLANTED(kOldAssignObeyed)) {
    OMNI_REACHED(kHostOldAssign);
    return;
  }
  assign_ = f;
  world_.Hold(f);
  holdings_.revision = f.revision;
  Say(id, holdings_);
}

void HostState::OnHeld(HoldingsFrame holdings) {
  holdings.revision = holdings_.revision;
  holdings_ = std::move(holdings);
  for (const auto& [id, stream] : streams_) {
    if (stream.welcome && stream.term == term_) Say(id, holdings_);
  }
}

// What is being computed is computed to its end, and is open until then: that costs less than asking at every
// step whether to go on.
void HostState::Handle(StreamId, Stream& stream, const CancelFrame& f) {
  for (uint64_t cancelled : f.ids) {
    const auto asked = stream.asked.find(cancelled);
    if (asked == stream.asked.end()) continue;
    OMNI_REACHED(kHostCancelled);
    counters_.cancelled.Add(1);
    open_.at(asked->second).cancelled = true;
    stream.asked.erase(asked);
  }
}

void HostState::Handle(StreamId id, Stream&, const PingFrame& f) {
  Say(id, PongFrame{f.number, world_.FreeBytes()});
}

void HostState::Handle(StreamId id, Stream& stream, const GoodbyeFrame& f) {
  const absl::Status reason = absl::FailedPreconditionError(f.reason);
  LogNotJoined(stream.coordinator.value, reason);
  OnClosed(id, reason);
  world_.Close(id, absl::OkStatus());
}

template <typename F>
void HostState::Handle(StreamId id, Stream&, const F&) {
  Refuse(id, absl::InvalidArgumentError("a coordinator sent what only a node says"));
}

}  // namespace omni
