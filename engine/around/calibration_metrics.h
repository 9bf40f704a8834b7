// How far probabilities and confidences are from what comes true. Sums are in double, in the order of the
// tokens.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/base/ids.h"

namespace omni {

inline constexpr size_t kReliabilityBins = 15;

// One token as one method sees it.
struct TokenScore {
  float confidence = 0;  // in [0, 1], that the predicted token is right
  float ranking = 0;     // what tokens are ordered by for the risk: of a map, what goes into it
  bool right = false;
  double nats = 0;                               // -log p(target)
  double brier = 0;                              // sum over the vocabulary of (p - [target])^2
  std::array<float, kReliabilityBins> gap = {};  // per bin of p: sum of p - [target]
};

// Of a distribution, its likeliest token as the prediction. p: [V], its largest probability is confidence and
// ranking.
TokenScore ScoreDistribution(std::span<const float> p, TokenId target);

struct ReliabilityBin {
  double low = 0, high = 0;             // the least and the largest confidence in it
  double confidence = 0, accuracy = 0;  // means
  int64_t tokens = 0;
};

struct CalibrationReport {
  int64_t tokens = 0;
  double accuracy = 0;
  double nats_per_token = 0;
  double brier = 0;  // mean
  // sum over 15 bins of equally many tokens, by confidence, of (tokens of the bin / all) |accuracy - mean
  // confidence|
  double ece = 0;
  // The same over all V probabilities of every token, in 15 bins of equal width over [0, 1], each counting
  // once and their number divided by the number of tokens (Liu et al. 2024).
  double full_ece = 0;
  // Area under the risk-coverage curve: the mean over k of the share of wrong ones among the k tokens of
  // highest ranking; of equally ranked ones the errors are spread evenly.
  double aurc = 0;
  std::vector<ReliabilityBin> reliability;
};

class CalibrationMetrics {
 public:
  void Add(const TokenScore& score);
  CalibrationReport Report() const;

 private:
  struct Kept {
    float confidence, ranking;
    bool right;
  };
  std::vector<Kept> kept_;
  double nats_ = 0, brier_ = 0;
  std::array<double, kReliabilityBins> gap_ = {};
};

}  // namespace omni
