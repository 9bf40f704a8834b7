// The coordination store as simulated processes reach it: the product's state and its database behind calls
// that may be lost on their way, answered late, or not at all.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "cluster/coordination.h"
#include "cluster/store_database.h"
#include "cluster/store_state.h"
#include "tests/testing/simulation/world.h"

namespace omni::simulation {

// Where the state is: a process of its own, or a coordinator's.
class StoreServer {
 public:
  // Sees each transaction that was applied, and the leader record as it was before it; null: there was none.
  using OnCommit =
      std::function<void(const std::string& caller, const Transaction& transaction, const Record* leader)>;

  StoreServer(Process& home, std::string folder, OnCommit on_commit)
      : home_(home), folder_(std::move(folder)), on_commit_(std::move(on_commit)) {}

  void Open();   // when the process starts
  void Close();  // when it has ended
  bool open() const { return state_ != nullptr; }
  StoreState& state() { return *state_; }
  Process& home() { return home_; }
  Time now() const { return home_.Clock(); }

  absl::StatusOr<Committed> Commit(const std::string& caller, const Transaction& transaction);
  // After whatever may have changed something.
  void Tell();

  // Shares of the calls that are lost, that come after their caller has given up, and of the answers that are
  // lost.
  double losing = 0, late = 0, silent = 0;
  bool available = true;
  std::string cut_off;  // the process that cannot reach it

  struct Watch {
    std::string prefix;
    Revision next;
    std::optional<StoreState::WatchId> id;
    std::function<void(absl::StatusOr<Changes>)> tell;
  };
  std::map<int64_t, std::weak_ptr<Watch>> watches;
  int64_t next_watch = 0;

 private:
  void SetTimer();

  Process& home_;
  const std::string folder_;
  const OnCommit on_commit_;
  std::unique_ptr<StoreDatabase> database_;
  std::unique_ptr<StoreState> state_;
  std::optional<Time> timer_;
};

class StoreClient : public CoordinationStore {
 public:
  StoreClient(Process& home, StoreServer& server) : home_(home), server_(server) {}
  ~StoreClient() override { *alive_ = false; }

  void Read(std::string prefix, Callback<Records> done) override;
  void Commit(Transaction transaction, Callback<Committed> done) override;
  void GrantLease(milliseconds ttl, Callback<LeaseId> done) override;
  void KeepAlive(LeaseId lease, Callback<milliseconds> done) override;
  void RevokeLease(LeaseId lease, Callback<bool> done) override;
  std::unique_ptr<Watcher> Watch(std::string prefix, Revision from, Callback<Changes> on_changes) override;

 private:
  template <typename T>
  void Call(std::function<absl::StatusOr<T>(StoreState&, Time)> what, Callback<T> done);
  Duration Way();

  Process& home_;
  StoreServer& server_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace omni::simulation
