// Faults that simulated clusters ran into, each as small as it can be told.
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <absl/strings/str_cat.h>
#include <gtest/gtest.h>

#include "cluster/cluster_records.h"
#include "cluster/placement.h"
#include "cluster/session_log.h"
#include "cluster/store_state.h"

namespace omni {
namespace {

using std::chrono::milliseconds;

class Lasting : public StorePersistence {
 public:
  absl::Status Persist(const StoreEffect&) override { return absl::OkStatus(); }
  absl::StatusOr<bool> Persisted(const StoreEffect&) override { return true; }
};

// A store that answers at once, unless the next commit is to come later.
class FickleStore : public CoordinationStore {
 public:
  void Read(std::string prefix, Callback<Records> done) override { done(state_.Read(prefix, now_)); }
  void Commit(Transaction transaction, Callback<Committed> done) override {
    if (std::exchange(delay_next, false)) {
      late = [this, transaction] { return state_.Commit(transaction, now_); };
      return done(absl::UnavailableError("no answer"));
    }
    done(state_.Commit(transaction, now_));
  }
  void GrantLease(milliseconds ttl, Callback<LeaseId> done) override { done(state_.GrantLease(ttl, now_)); }
  void KeepAlive(LeaseId lease, Callback<milliseconds> done) override { done(state_.KeepAlive(lease, now_)); }
  void RevokeLease(LeaseId lease, Callback<bool> done) override { done(state_.RevokeLease(lease, now_)); }
  std::unique_ptr<Watcher> Watch(std::string, Revision, Callback<Changes>) override { return nullptr; }

  // Of a coordinator that leads.
  uint64_t Elect() {
    return static_cast<uint64_t>(
        state_.Commit({.changes = {{kLeaderKey, ToJson(LeaderRecord{{"c"}, "c"})}}}, now_)->revision);
  }

  bool delay_next = false;
  std::function<absl::StatusOr<Committed>()> late;

 private:
  Lasting lasting_;
  StoreState::Time now_{};
  StoreState state_{StoreContents(), lasting_, StoreState::Options(), now_};
};

TEST(StoreSessionLogTest, AWriteThatWasGivenUpDoesNotReplaceOneThatCameAfterIt) {
  FickleStore store;
  const uint64_t term = store.Elect();
  const auto log = MakeStoreSessionLog(store, [term] { return term; });
  absl::Status status;
  const auto done = [&](absl::Status s) { status = std::move(s); };
  log->Begin("id", "request", done);
  ASSERT_TRUE(status.ok()) << status;
  store.delay_next = true;
  log->Append({{"id", 0, {TokenId(7), TokenId(8)}, ""}}, done);
  ASSERT_FALSE(status.ok());
  log->Append({{"id", 0, {TokenId(7)}, ""}}, done);
  ASSERT_TRUE(status.ok()) << status;
  log->Append({{"id", 1, {TokenId(8)}, ""}}, done);
  ASSERT_TRUE(status.ok()) << status;

  ASSERT_TRUE(store.late().ok());
  absl::StatusOr<LoggedSession> found = absl::UnknownError("not told");
  log->Find("id", [&](absl::StatusOr<LoggedSession> session) { found = std::move(session); });
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ(found->tokens, (std::vector<TokenId>{TokenId(7), TokenId(8)}));
}

PlacedNode MakeNode(const std::string& id, uint64_t offered, bool self = false) {
  PlacedNode node;
  node.id = {id};
  node.self = self;
  node.up = true;
  node.offered_bytes = offered;
  node.holds = {true, true};
  return node;
}

// Applies what is to be changed until nothing is; false: that has no end.
bool Settles(const std::vector<PlacedNode>& nodes, std::vector<PlacedRegion>& regions) {
  for (int i = 0; i < 50; ++i) {
    const std::vector<RegionChange> changes = NextChanges(nodes, regions, {});
    if (changes.empty()) return true;
    for (const RegionChange& change : changes) regions[change.region.index()].record = change.to;
  }
  return false;
}

// Each move would be as good as none, but for what sums are rounded by.
TEST(PlacementTest, ARegionThatIsNowhereBetterOffStays) {
  for (double load : {0.1, 0.25, 0.3, 1.0 / 3, 0.7, 0.9, 1.0}) {
    for (int workers : {2, 3, 5, 7}) {
      std::vector<PlacedNode> nodes = {MakeNode("c", 100, true)};
      for (int w = 0; w < workers; ++w) nodes.push_back(MakeNode(absl::StrCat("w", w), 300));
      std::vector<PlacedRegion> regions = {{{{"c"}, {}, {}, {}}, 100, 1 - load},
                                           {{{"w0"}, {}, {}, {}}, 100, load}};
      EXPECT_TRUE(Settles(nodes, regions)) << load << " among " << workers;
    }
  }
}

}  // namespace
}  // namespace omni
