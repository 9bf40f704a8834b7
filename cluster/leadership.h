// Which coordinator leads: whoever holds the lease of the leader record. Without the actor.
//
// A leader judges the end of its lease by its own clock, counted from before it asked for it, and stops a
// margin before: when the store lets the lease go, the one before has stopped already, whatever it was
// waiting for.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

#include <absl/status/status.h>

#include "cluster/cluster_records.h"
#include "cluster/coordination.h"

namespace omni {

struct LeadershipOptions {
  // With a token: no other process has it now, so a record with it is of an earlier life of this one, which
  // acts no more; its lease need not be waited for.
  LeaderRecord self;
  std::chrono::milliseconds ttl{1500};
  std::chrono::milliseconds margin{300};  // before the lease's end
  // The store is this process's alone: whoever led before is not there any more.
  bool exclusive = false;
};

class Leadership {
 public:
  using Clock = std::chrono::steady_clock;

  class Owner {
   public:
    virtual ~Owner() = default;
    virtual void OnElected(uint64_t term) = 0;
    virtual void OnLost(const absl::Status& reason) = 0;  // led, and does not any more; it may again
    virtual void OnOther(const LeaderRecord& leader) = 0;
    virtual void Post(std::function<void()> f) = 0;  // runs it later on the state's thread; thread-safe
  };

  Leadership(LeadershipOptions options, CoordinationStore& store, Owner& owner)
      : options_(std::move(options)), store_(store), owner_(owner) {}
  ~Leadership() { *alive_ = false; }

  void Start(Clock::time_point now);
  void OnTick(Clock::time_point now);  // at least every margin / 2
  // Lets go of the lease, so that another need not wait for its end. `done` is called once, on any thread,
  // when the store has answered, or at once if there is nothing to let go of.
  void Resign(std::function<void()> done = [] {});
  bool leads() const { return phase_ == Phase::kLeading; }
  uint64_t term() const { return term_; }
  Clock::time_point end() const { return end_; }  // until when it may lead, unless its lease is renewed

 private:
  enum class Phase { kIdle, kAsking, kFollowing, kLeading, kOver };

  template <typename F>
  auto Guard(F f);
  void Ask();
  void OnLeader(absl::StatusOr<Records> records);
  bool IsOwn(const LeaderRecord& leader) const;
  void Stand(Revision before);  // for election: the leader record is of that revision, 0: there is none
  void OnStood(absl::StatusOr<Committed> committed);
  void Follow(const LeaderRecord& leader, Revision from);
  void AskSoon(std::chrono::milliseconds wait);

  const LeadershipOptions options_;
  CoordinationStore& store_;
  Owner& owner_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);

  Phase phase_ = Phase::kIdle;
  uint64_t term_ = 0;
  LeaseId lease_ = 0;
  bool keeping_ = false;
  Clock::time_point now_, asked_, kept_, end_, ask_at_ = Clock::time_point::max();
  std::optional<NodeId> other_;
  std::unique_ptr<CoordinationStore::Watcher> watcher_;
};

}  // namespace omni
