#include "store/cache/torus_policy.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "store/format/torus.h"

namespace omni {
namespace {

// None of these matters much: docs/decisions/0011-which-tiles-stay.md lists what else was tried.
constexpr float kGamma = 0.8f;
constexpr int kSolveSteps = 8;          // kGamma^8 = 0.17 of h is left out, of all tiles about alike
constexpr double kWalkHalfLife = 1024;  // tokens
constexpr double kHabitHalfLife = 256;  // visits
constexpr int64_t kSolveEvery = 32;     // tokens; sooner at first: after 1, 2, 4, ...
constexpr double kPriorPerHop =
    0.25;                           // the walk before anything is known: a hop further, this much less likely
constexpr double kPriorSteps = 32;  // and what that is worth in counted steps
constexpr float kPriorHabit = 1;    // choices of every expert
constexpr double kShareRate = 0.002;  // how fast the weights of the guesses follow
constexpr double kPredictionRate = 0.01;
// Beyond it, shapes cost more than they bring: solving takes experts^2 steps each.
constexpr int64_t kMaxWalkExperts = 1024;

bool Has(const std::vector<uint16_t>& experts, int64_t expert) {
  return std::find(experts.begin(), experts.end(), expert) != experts.end();
}

}  // namespace

TorusPolicy::TorusPolicy(int64_t slots, const TileUsers& users, const ModelConfig& config)
    : groups_(slots, users),
      experts_(users.experts),
      prediction_right_(0.7),
      places_(static_cast<size_t>(groups_.places())) {
  for (Place& place : places_) {
    place.habit.assign(static_cast<size_t>(experts_), kPriorHabit);
    place.habit_total = static_cast<double>(kPriorHabit) * static_cast<double>(experts_);
  }
  if (experts_ <= kMaxWalkExperts) {
    walk_share_ = 0.5;
    for (int64_t from = 0; from < experts_; ++from) {
      for (int64_t to = 0; to < experts_; ++to) {
        offset_.push_back(static_cast<uint16_t>(TorusOffset(config, from, to)));
      }
    }
    for (int64_t o = 0; o < experts_; ++o) {
      walk_.push_back(std::pow(kPriorPerHop, static_cast<double>(TorusDistance(config, 0, o))));
      walk_total_ += walk_.back();
    }
    for (double& count : walk_) count *= kPriorSteps / walk_total_;
    walk_total_ = kPriorSteps;
    std::map<std::vector<uint16_t>, uint32_t> number;
    for (uint32_t g = 0; g < groups_.groups(); ++g) {
      const int64_t place = groups_.PlaceOf(g), first = *groups_.UsersBegin(g) % experts_;
      std::vector<uint16_t> offsets;
      for (const uint32_t* u = groups_.UsersBegin(g); u != groups_.UsersEnd(g); ++u) {
        if (*u / experts_ == place) offsets.push_back(Offset(first, *u % experts_));
      }
      const auto [at, fresh] = number.try_emplace(offsets, static_cast<uint32_t>(shapes_.size()));
      if (fresh) shapes_.push_back({offsets, std::vector<float>(static_cast<size_t>(experts_))});
      shape_of_.push_back(at->second);
      origin_.push_back(static_cast<uint16_t>(first));
    }
  }
  for (int64_t p = 0; p < groups_.places(); ++p) MarkStale(p);
}

void TorusPolicy::OnExpert(int64_t number, int64_t expert) {
  Place& place = places_[static_cast<size_t>(number)];
  if (number != current_ || places_.size() == 1 || Has(place.last, expert)) BeginVisit(number, expert);
  place.last.push_back(static_cast<uint16_t>(expert));
  Learn(place, expert);
  MarkStale(number);
}

void TorusPolicy::OnPredict(int64_t number, int64_t expert) {
  Place& place = places_[static_cast<size_t>(number)];
  if (Has(place.predicted, expert)) return;
  place.predicted.push_back(static_cast<uint16_t>(expert));
  MarkStale(number);
}

int64_t TorusPolicy::Victim(absl::FunctionRef<bool(uint32_t)> free_to_go) {
  if (token_ >= next_solve_) {
    Solve();
    next_solve_ = token_ + std::clamp<int64_t>(token_, 1, kSolveEvery);
  }
  for (const int64_t place : stale_) Rate(place);
  stale_.clear();
  return groups_.Victim(free_to_go);
}

void TorusPolicy::MarkStale(int64_t number) {
  Place& place = places_[static_cast<size_t>(number)];
  if (!place.stale) stale_.push_back(number);
  place.stale = true;
}

void TorusPolicy::BeginVisit(int64_t number, int64_t expert) {
  Place& place = places_[static_cast<size_t>(number)];
  if (!place.predicted.empty()) {
    prediction_right_ += kPredictionRate * ((Has(place.predicted, expert) ? 1 : 0) - prediction_right_);
    place.predicted.clear();
  }
  std::swap(place.before, place.last);
  place.last.clear();
  const auto keep_habit = static_cast<float>(std::exp2(-1 / kHabitHalfLife));
  for (float& count : place.habit) count *= keep_habit;
  place.habit_total *= keep_habit;
  if (number <= current_) {  // the next token
    ++token_;
    const double keep_walk = std::exp2(-1 / kWalkHalfLife);
    for (double& count : walk_) count *= keep_walk;
    walk_total_ *= keep_walk;
  }
  current_ = number;
  place.visit =
      static_cast<double>(token_) + static_cast<double>(number) / static_cast<double>(groups_.places());
}

void TorusPolicy::Learn(Place& place, int64_t expert) {
  if (walks() && !place.before.empty()) {
    // Of several experts before, it came from the one that makes it likeliest.
    size_t step = Offset(place.before[0], expert);
    for (const uint16_t from : place.before) {
      if (walk_[Offset(from, expert)] > walk_[step]) step = Offset(from, expert);
    }
    const double by_walk = walk_share_ * walk_[step] / walk_total_;
    const double by_habit =
        (1 - walk_share_) * static_cast<double>(place.habit[static_cast<size_t>(expert)]) / place.habit_total;
    walk_share_ += kShareRate * (by_walk / (by_walk + by_habit) - walk_share_);
    walk_[step] += 1;
    walk_total_ += 1;
  }
  place.habit[static_cast<size_t>(expert)] += 1;
  place.habit_total += 1;
}

// Iterates the equation for h from h = 0: after n rounds, h counts what happens within n visits.
void TorusPolicy::Solve() {
  const auto n = static_cast<size_t>(experts_);
  if (!walks()) return;
  std::vector<float> p(n), gain(n);
  for (size_t o = 0; o < n; ++o) p[o] = static_cast<float>(walk_[o] / walk_total_);
  for (Shape& shape : shapes_) {
    std::fill(shape.worth.begin(), shape.worth.end(), 0.0f);
    for (int round = 0; round < kSolveSteps; ++round) {
      for (size_t y = 0; y < n; ++y) gain[y] = kGamma * shape.worth[y];
      for (const uint16_t user : shape.offsets) gain[user] = 1;
      for (size_t x = 0; x < n; ++x) {
        float sum = 0;
        for (size_t y = 0; y < n; ++y) sum += p[offset_[x * n + y]] * gain[y];
        shape.worth[x] = sum;
      }
    }
  }
}

float TorusPolicy::Worth(const Place& place, uint32_t group) const {
  float share = 0;
  for (const uint32_t* u = groups_.UsersBegin(group); u != groups_.UsersEnd(group); ++u) {
    share += place.habit[*u % static_cast<uint32_t>(experts_)];
  }
  share = std::min(share / static_cast<float>(place.habit_total), 1.0f);
  const float by_habit = share / (1 - kGamma * (1 - share));
  if (!walks()) return by_habit;
  float missed = 1;  // by all tokens of a batch
  for (const uint16_t last : place.last) {
    missed *= 1 - shapes_[shape_of_[group]].worth[Offset(origin_[group], last)];
  }
  const auto walk_share = static_cast<float>(walk_share_);
  return walk_share * (1 - missed) + (1 - walk_share) * by_habit;
}

void TorusPolicy::Rate(int64_t number) {
  Place& place = places_[static_cast<size_t>(number)];
  place.stale = false;
  // log2(worth) as seen from token 0: the same for every place, whenever each was rated.
  const double log_gamma = std::log2(static_cast<double>(kGamma));
  const auto set = [&](uint32_t group, float worth) {
    groups_.SetWorth(group,
                     std::log2(static_cast<double>(std::max(worth, 1e-20f))) + log_gamma * place.visit);
  };
  for (const uint32_t group : groups_.InPlace(number)) set(group, Worth(place, group));
  const auto right = static_cast<float>(prediction_right_);
  for (const uint16_t expert : place.predicted) {
    for (const uint32_t group : groups_.OfTable(number * experts_ + expert)) {
      if (groups_.PlaceOf(group) == number) set(group, right + (1 - right) * Worth(place, group));
    }
  }
  groups_.Order(number);
}

}  // namespace omni
