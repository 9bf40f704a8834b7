#include "tests/testing/simulation/worker.h"

#include <algorithm>
#include <utility>

#include "tests/testing/simulation/toy_model.h"

namespace omni::simulation {

Worker::Worker(simulation::World& world, std::string name, Network& network, Checks& checks, uint64_t offered)
    : Process(world, std::move(name)), network_(network), checks_(checks), offered_(offered) {
  network.Listen(this->name, *this, *this);
}

void Worker::OnStart() {
  HostOptions options;
  options.node = {name};
  options.model_hash = "toy";
  options.offered_bytes = offered_;
  options.threads = 1;
  // Every second is of a program before this one, and upgraded by its first restart.
  if (incarnation() == 1 && name.back() % 2 == 0) options.protocols = {1, 1};
  mailbox_ = std::make_unique<Mailbox>(*this);
  state_ =
      std::make_unique<HostState>(ToyConfig(), options, counters_, static_cast<HostState::World&>(*this));
  joined_.clear();
  hellos_.clear();
  assigned_.reset();
  assigned_cluster_.clear();
  assigned_term_ = 0;
  AskToJoin(0, milliseconds(100));
}

void Worker::OnKill(bool power) {
  network_.OnGone(*this, !power);
  wanted_.reset();
  held_.clear();
  ++filling_;
  mailbox_ = nullptr;
  state_ = nullptr;
}

// As long as nobody leads it (cluster/joiner.cc).
void Worker::AskToJoin(size_t next, milliseconds wait) {
  if (coordinators.empty()) return;
  const int64_t heard = counters_.heard.Get();
  if (std::exchange(heard_, heard) != heard) {
    AtOwn(milliseconds(200), [this, next] { AskToJoin(next, milliseconds(100)); });
    return;
  }
  coordinators[next % coordinators.size()]({name, offered_, false},
                                           [this](const std::optional<ClusterRecord>& joined) {
                                             if (!joined.has_value()) return;
                                             mailbox_->Post([this, joined] {
                                               joined_ = joined->id;
                                               state_->OnJoined(joined->name, joined->id);
                                             });
                                           });
  AtOwn(wait, [this, next, wait] { AskToJoin(next + 1, std::min(2 * wait, milliseconds(800))); });
}

void Worker::OnOpened(uint64_t stream) {
  mailbox_->Post([this, stream] { state_->OnOpened(stream); });
}

void Worker::OnFrame(uint64_t stream, std::string frame) {
  mailbox_->Post([this, stream, frame = std::move(frame)] {
    present_ = stream;
    if (!hellos_.contains(stream)) {
      const absl::StatusOr<Frame> first =
          DecodeFrame({reinterpret_cast<const uint8_t*>(frame.data()), frame.size()}, ToyConfig());
      if (!first.ok()) {
        world.Fail(
            absl::StrCat(name, " got a frame that cannot be read: ", std::string(first.status().message())));
        return;
      }
      if (const auto* hello = std::get_if<HelloFrame>(&*first)) hellos_[stream] = *hello;
    }
    state_->OnFrame(stream, FrameBytesOf(frame));
    present_ = 0;
  });
}

void Worker::OnClosed(uint64_t stream, absl::Status status) {
  mailbox_->Post([this, stream, status = std::move(status)] { state_->OnClosed(stream, status); });
}

// Nothing is computed but for the coordinator of the highest term in the cluster that was joined last, by the
// epoch of its last word, of a region that is all here.
void Worker::Compute(RegionRequestPtr request) {
  const RegionId region = request->region;
  uint64_t epoch = 0;
  if (assigned_.has_value()) {
    for (const AssignFrame::Region& r : assigned_->regions)
      if (r.region == region) epoch = r.epoch;
  }
  const HelloFrame& hello = hellos_[present_];
  if (hello.term != state_->term()) {
    world.Fail(
        absl::StrCat(name, " computes for a coordinator of term ", hello.term, " in term ", state_->term()));
  }
  if (!joined_.empty() && hello.cluster_id != joined_)
    world.Fail(absl::StrCat(name, " computes for cluster ", hello.cluster_id, " and has joined ", joined_));
  if (epoch != request->epoch) {
    world.Fail(absl::StrCat(name, " computes region ", region.value, " for epoch ", request->epoch,
                            " and has been assigned epoch ", epoch));
  }
  const bool all_here = held_.contains(region);
  At(Work(compute / 2 + Duration(world.chance().Below(compute.count() + 1))), [this, request, all_here] {
    std::shared_ptr<RegionReply> reply = ToyAnswer(*request);
    if (failing > 0 && world.chance().Of(failing)) {
      world.Count(FaultKind::expert_error);
      reply->statuses[0] = absl::DataLossError("a tile cannot be read");
    } else if (!all_here) {
      // It was let go of after it had been told: the tiles are read from disk, or are not there.
      if (!on_disk_.contains(request->region)) reply->statuses[0] = absl::NotFoundError("a tile is not here");
    }
    mailbox_->Post([this, reply] { state_->OnReply(reply); });
  });
}

void Worker::FlushSoon() {
  mailbox_->Post([this] { state_->Flush(); });
}

void Worker::Hold(const AssignFrame& assign) {
  const HelloFrame& hello = hellos_[present_];
  const uint64_t term = hello.term;
  if (!joined_.empty() && hello.cluster_id != joined_)
    world.Fail(absl::StrCat(name, " obeys cluster ", hello.cluster_id, " and has joined ", joined_));
  if (std::exchange(assigned_cluster_, hello.cluster_id) != hello.cluster_id) {
    assigned_term_ = 0;
    assigned_.reset();
  }
  if (term < assigned_term_ || term != state_->term()) {
    world.Fail(absl::StrCat(name, " obeys a coordinator of term ", term, " in term ",
                            std::max(assigned_term_, state_->term())));
  }
  if (term == assigned_term_ && assigned_.has_value() && assign.revision < assigned_->revision) {
    world.Fail(
        absl::StrCat(name, " obeys revision ", assign.revision, " after revision ", assigned_->revision));
  }
  assigned_ = assign;
  assigned_term_ = term;
  for (const AssignFrame::Region& r : assign.regions) {
    if (r.role == HoldingRole::kOwner) checks_.OnOwner(hello.cluster_id, r.region, r.epoch, name, name);
  }
  // As the thread that fills does it (host.cc).
  wanted_ = assign;
  ++filling_;
  std::erase_if(held_, [&](RegionId held) {
    return std::none_of(assign.regions.begin(), assign.regions.end(),
                        [&](const AssignFrame::Region& r) { return r.region == held; });
  });
  At(Work(microseconds(50)), [this, number = filling_] {
    if (number != filling_) return;
    Tell();
    Fill();
  });
}

void Worker::Tell() {
  HoldingsFrame holdings;
  holdings.regions.assign(held_.begin(), held_.end());
  holdings.filling = static_cast<uint32_t>(wanted_->regions.size() - held_.size());
  mailbox_->Post([this, holdings] { state_->OnHeld(holdings); });
}

void Worker::Fill() {
  for (const HoldingRole role : {HoldingRole::kOwner, HoldingRole::kTarget, HoldingRole::kShadow}) {
    for (const AssignFrame::Region& r : wanted_->regions) {
      if (r.role != role || held_.contains(r.region)) continue;
      const bool fails = failing_fills > 0 && world.chance().Of(failing_fills);
      Duration time = on_disk_.contains(r.region) ? milliseconds(2) : milliseconds(40);
      time += Duration(world.chance().Below(time.count()));
      if (fails) {
        world.Count(FaultKind::disk_error);
        time += milliseconds(200);
      }
      At(Work(time), [this, region = r.region, fails, number = filling_] {
        if (number != filling_) return;
        if (!fails) {
          held_.insert(region);
          on_disk_.insert(region);
        }
        Tell();
        Fill();
      });
      return;
    }
  }
}

}  // namespace omni::simulation
