// The policy that ships: tiles are rated by how likely and how soon their experts come up again.
#pragma once

#include <cstdint>
#include <vector>

#include "store/cache/cache_policy.h"
#include "store/cache/ranked_groups.h"

namespace omni {

// Problem: a token visits every expert layer once, so what a cache should keep of a layer is what the next
// tokens will choose there. Recency says little about that: after one token every tile of it is equally
// recent.
//
// Example: expert 5 was chosen last. If tokens go to a neighbour four times in ten, the tiles of 5's
// neighbours are worth more than those of an expert far away on the torus, though it was used more recently;
// and tiles that a whole region shares are worth what all its experts are worth together.
//
// Solution: two guesses at the next expert of a layer, weighed by how well each has done so far:
//   walk   P(offset on the torus from the last expert), counted over all layers, older tokens counting less
//   habit  P(expert of this layer), counted likewise
// A tile is worth h = E[gamma^(k-1)], k = visits of its layer until one of its users is chosen:
//   h(x) = sum over y of P(y | x) * (y uses it ? 1 : gamma * h(y)),  x = the last expert.
// By the walk alone h depends only on where the users lie from x: it is solved once for each shape that
// groups of users have, now and then. By the habit alone it is F / (1 - gamma * (1 - F)), F = the users'
// share. Visits that are further off count less: waiting for one layer costs gamma^(1 / layers).
class TorusPolicy : public CachePolicy {
 public:
  TorusPolicy(int64_t slots, const TileUsers& users, const ModelConfig& config);

  void OnFill(uint32_t slot, uint32_t content) override { groups_.Fill(slot, content); }
  void OnUse(uint32_t) override {}  // OnExpert says the same
  void OnEvict(uint32_t slot) override { groups_.Evict(slot); }
  void OnExpert(int64_t place, int64_t expert) override;
  void OnPredict(int64_t place, int64_t expert) override;
  int64_t Victim(absl::FunctionRef<bool(uint32_t)> free_to_go) override;
  const char* name() const override { return "torus"; }

 private:
  // Where the users of a group lie, from the first of them.
  struct Shape {
    std::vector<uint16_t> offsets;
    std::vector<float> worth;  // h by the walk, by the last expert's offset from the first user
  };
  // An expert layer. A visit is the experts chosen for one batch: one expert for a batch of one token.
  struct Place {
    std::vector<uint16_t> last, before;  // the experts of the newest visit and of the one before
    std::vector<uint16_t> predicted;     // for the next visit
    std::vector<float> habit;            // by expert: decayed count of choices
    double habit_total = 0;
    double visit = 0;    // when it was visited last, in tokens
    bool stale = false;  // is to be rated before the next victim
  };

  bool walks() const { return !offset_.empty(); }
  uint16_t Offset(int64_t from, int64_t to) const {
    return offset_[static_cast<size_t>(from * experts_ + to)];
  }
  void BeginVisit(int64_t number, int64_t expert);
  void Learn(Place& place, int64_t expert);
  void Solve();
  float Worth(const Place& place, uint32_t group) const;
  void MarkStale(int64_t number);
  void Rate(int64_t number);

  RankedGroups groups_;
  int64_t experts_;               // of a layer
  std::vector<uint16_t> offset_;  // [from, to]; empty if there are too many experts for the walk
  std::vector<Shape> shapes_;
  std::vector<uint32_t> shape_of_;  // by group
  std::vector<uint16_t> origin_;    // by group: its first user
  std::vector<double> walk_;        // by offset: decayed count of steps
  double walk_total_ = 0;
  double walk_share_ = 0;    // weight of the walk, 1 - that of the habit
  double prediction_right_;  // how often a prediction comes true
  std::vector<Place> places_;
  std::vector<int64_t> stale_;  // places; nothing is rated while nothing has to go
  int64_t current_ = -1;        // the place visited last
  int64_t token_ = 0, next_solve_ = 0;
};

}  // namespace omni
