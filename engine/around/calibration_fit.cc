#include "engine/around/calibration_fit.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <vector>

#include <absl/strings/str_cat.h>

#include "engine/around/distribution.h"

namespace omni {
namespace {

constexpr int64_t kFewestTokens = 512;
constexpr size_t kTemperatures = 16;
constexpr float kColdest = 0.70f, kTemperatureStep = 0.05f;
constexpr float kOwnWeights[] = {0.25f, 0.4f, 0.55f, 0.7f, 0.8f, 0.9f, 0.95f, 1.0f};
constexpr size_t kFeatures = 4;

float TemperatureAt(size_t i) { return kColdest + kTemperatureStep * static_cast<float>(i); }

// Where the parabola through the least of equally spaced values and its neighbours is least.
float LeastTemperature(const std::array<double, kTemperatures>& nats) {
  const auto at = static_cast<size_t>(std::min_element(nats.begin(), nats.end()) - nats.begin());
  if (at == 0 || at + 1 == kTemperatures) return TemperatureAt(at);
  const double left = nats[at - 1], right = nats[at + 1], curve = left - 2 * nats[at] + right;
  const double shift = curve > 0 ? 0.5 * (left - right) / curve : 0.0;
  return TemperatureAt(at) + kTemperatureStep * static_cast<float>(shift);
}

float DisagreementOf(const kernels::Ops& ops, const LookedToken& token) {
  std::vector<std::vector<float>> p;
  for (const std::span<const float> logits : token.logits) {
    p.emplace_back(logits.size());
    Softmax(ops, logits, 1.0f, p.back());
  }
  return Disagreement(ops, p);
}

// fn(i) for every token of a pass, on any thread.
template <typename F>
void ForEach(WorkerPool& pool, std::span<const LookedToken> tokens, F&& fn) {
  pool.Run(std::ssize(tokens), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) fn(static_cast<size_t>(i));
  });
}

// The first half: which temperatures and which weight.
class Scales {
 public:
  void Add(WorkerPool& pool, const kernels::Ops& ops, std::span<const LookedToken> tokens) {
    of_tokens_.assign(tokens.size(), {});
    ForEach(pool, tokens, [&](size_t i) {
      std::vector<float> p(tokens[i].logits[0].size());
      for (size_t k = 0; k < kPerspectives; ++k) {
        for (size_t t = 0; t < kTemperatures; ++t) {
          Softmax(ops, tokens[i].logits[k], 1.0f / TemperatureAt(t), p);
          of_tokens_[i][t][k] = p[tokens[i].target.index()];
        }
      }
    });
    for (const auto& token : of_tokens_) {
      for (size_t t = 0; t < kTemperatures; ++t) {
        for (size_t w = 0; w < std::size(kOwnWeights); ++w) {
          const float others = (token[t][1] + token[t][2] + token[t][3]) / 3.0f;
          const float p = kOwnWeights[w] * token[t][0] + (1.0f - kOwnWeights[w]) * others;
          nats_[w][t] -= std::log(std::max(static_cast<double>(p), 1e-38));
        }
      }
    }
  }

  float OwnTemperature() const { return LeastTemperature(nats_[std::size(kOwnWeights) - 1]); }

  void Choose(PerspectiveCalibration& c) const {
    size_t best = 0;
    for (size_t w = 1; w < std::size(kOwnWeights); ++w) {
      if (*std::min_element(nats_[w].begin(), nats_[w].end()) <
          *std::min_element(nats_[best].begin(), nats_[best].end()))
        best = w;
    }
    c.own_weight = kOwnWeights[best];
    c.temperature = LeastTemperature(nats_[best]);
  }

 private:
  static_assert(kPerspectives == 4 && kOwnWeights[std::size(kOwnWeights) - 1] == 1.0f);
  std::array<std::array<double, kTemperatures>, std::size(kOwnWeights)> nats_ = {};
  std::vector<std::array<std::array<float, kPerspectives>, kTemperatures>> of_tokens_;
};

struct Example {
  std::array<float, kFeatures> features = {};
  float disagreement = 0;
  float own = 0;  // the session's own largest probability at its temperature
  uint8_t right = 0, own_right = 0;
};

// The second half: what the confidences are fitted to.
class Examples {
 public:
  explicit Examples(const Calibration& calibration, const PerspectiveCalibration& of_kind)
      : calibration_(calibration), of_kind_(of_kind) {}

  void Add(WorkerPool& pool, const kernels::Ops& ops, std::span<const LookedToken> tokens) {
    const size_t before = all_.size();
    all_.resize(before + tokens.size());
    ForEach(pool, tokens, [&](size_t i) {
      Example& example = all_[before + i];
      const LookedToken& token = tokens[i];
      std::vector<float> own(token.logits[0].size());
      Softmax(ops, token.logits[0], 1.0f / calibration_.temperature, own);
      const int64_t likeliest = ArgMax(own);
      example.own = own[static_cast<size_t>(likeliest)];
      example.own_right = likeliest == token.target.value;
      const float disagreement = DisagreementOf(ops, token);
      const Mixture mixture = MixPerspectives(of_kind_, ops, token.logits, disagreement);
      example.features = mixture.features;
      example.disagreement = disagreement;
      example.right = mixture.likeliest == token.target;
    });
  }

  void Fit(Calibration& calibration, PerspectiveCalibration& of_kind) const {
    std::vector<float> own, scores;
    std::vector<uint8_t> own_right, right;
    of_kind.coefficients = Regress();
    for (const Example& e : all_) {
      own.push_back(e.own);
      own_right.push_back(e.own_right);
      float sum = 0;
      for (size_t i = 0; i < kFeatures; ++i) sum += of_kind.coefficients[i] * e.features[i];
      scores.push_back(kernels::Sigmoid(sum));
      right.push_back(e.right);
    }
    calibration.map = FitIsotonic(own, own_right);
    std::vector<float> disagreements;
    for (const Example& e : all_) disagreements.push_back(e.disagreement);
    const auto twentieth = disagreements.begin() + std::ssize(disagreements) * 19 / 20;
    std::nth_element(disagreements.begin(), twentieth, disagreements.end());
    of_kind.tau = *twentieth;
    of_kind.map = FitIsotonic(scores, right);
  }

 private:
  // Logistic regression by Newton's method, with a ridge that keeps it solvable where a feature is constant.
  std::array<float, kFeatures> Regress() const {
    std::array<double, kFeatures> c = {0, 1, 0, 0};
    for (int step = 0; step < 20; ++step) {
      std::array<std::array<double, kFeatures + 1>, kFeatures> a = {};
      for (size_t i = 0; i < kFeatures; ++i) {
        const double target = i == 1 ? 1.0 : 0.0;
        a[i][i] = 1.0;
        a[i][kFeatures] = target - c[i];
      }
      for (const Example& e : all_) {
        double sum = 0;
        for (size_t i = 0; i < kFeatures; ++i) sum += c[i] * static_cast<double>(e.features[i]);
        const double p = 1 / (1 + std::exp(-sum));
        for (size_t i = 0; i < kFeatures; ++i) {
          const auto of_i = static_cast<double>(e.features[i]);
          for (size_t j = 0; j < kFeatures; ++j)
            a[i][j] += p * (1 - p) * of_i * static_cast<double>(e.features[j]);
          a[i][kFeatures] += (e.right - p) * of_i;
        }
      }
      const std::array<double, kFeatures> change = Solve(a);
      double largest = 0;
      for (size_t i = 0; i < kFeatures; ++i) {
        c[i] += change[i];
        largest = std::max(largest, std::fabs(change[i]));
      }
      if (largest < 1e-9) break;
    }
    std::array<float, kFeatures> coefficients = {};
    for (size_t i = 0; i < kFeatures; ++i) coefficients[i] = static_cast<float>(c[i]);
    return coefficients;
  }

  // Gauss elimination; the matrix is positive definite.
  static std::array<double, kFeatures> Solve(std::array<std::array<double, kFeatures + 1>, kFeatures> a) {
    for (size_t i = 0; i < kFeatures; ++i) {
      for (size_t row = i + 1; row < kFeatures; ++row) {
        const double factor = a[row][i] / a[i][i];
        for (size_t column = i; column <= kFeatures; ++column) a[row][column] -= factor * a[i][column];
      }
    }
    std::array<double, kFeatures> x = {};
    for (size_t i = kFeatures; i-- > 0;) {
      double sum = a[i][kFeatures];
      for (size_t column = i + 1; column < kFeatures; ++column) sum -= a[i][column] * x[column];
      x[i] = sum / a[i][i];
    }
    return x;
  }

  const Calibration& calibration_;
  const PerspectiveCalibration& of_kind_;
  std::vector<Example> all_;
};

}  // namespace

absl::Status FitCalibration(const CalibrationText& on, Calibration& calibration) {
  const kernels::Ops& ops = kernels::ActiveOps();
  const double scale_share = 0.5;
  Scales scales;
  PerspectiveCalibration of_kind;
  Examples examples(calibration, of_kind);
  int64_t tokens = 0, half = 0;
  bool choosing = true;
  double share = 0;
  CalibrationText text = on;
  text.run.progress = [&](double done) {
    share = done;
    if (on.run.progress) on.run.progress(done);
  };
  const absl::Status run = RunPerspectives(
      text.weights, text.source, text.tokenizer, text.pool, text.text, text.run,
      [&](std::span<const LookedToken> looked) {
        if (choosing && share >= scale_share) {
          choosing = false;
          half = tokens;
          calibration.temperature = scales.OwnTemperature();
          scales.Choose(of_kind);
        }
        tokens += std::ssize(looked);
        if (choosing) {
          scales.Add(text.pool, ops, looked);
        } else {
          examples.Add(text.pool, ops, looked);
        }
      },
      ops);
  if (!run.ok()) return run;
  if (half < kFewestTokens / 4 || tokens - half < kFewestTokens / 4 || tokens < kFewestTokens) {
    return absl::InvalidArgumentError(absl::StrCat("a calibration cannot be fitted to ", tokens,
                                                   " tokens, of which one half is ", half,
                                                   "; give a text of at least ", kFewestTokens));
  }
  examples.Fit(calibration, of_kind);
  calibration.tokens = tokens;
  (on.run.kind == PerspectiveKind::kNear ? calibration.near : calibration.far) = of_kind;
  return absl::OkStatus();
}

double CalibrationComparison::BitsPerByte(const CalibrationReport& report) const {
  return bytes > 0 ? report.nats_per_token * static_cast<double>(tokens) / std::numbers::ln2 /
                         static_cast<double>(bytes)
                   : 0;
}

absl::StatusOr<CalibrationComparison> CompareCalibrations(const CalibrationText& on,
                                                          const Calibration& calibration, float tau) {
  struct Scores {
    TokenScore softmax, temperature, isotonic, average, perspectives, plain_rule;
    float disagreement = 0;
    bool uncertain = false;
  };
  const kernels::Ops& ops = kernels::ActiveOps();
  const PerspectiveCalibration& of_kind = *calibration.Of(on.run.kind);
  const PerspectiveCalibration equal;
  CalibrationComparison comparison;
  CalibrationMetrics softmax, temperature, isotonic, average, perspectives, plain_rule;
  std::vector<Scores> scores;
  const auto score = [&](const LookedToken& token, Scores& s) {
    std::vector<float> p(token.logits[0].size());
    Softmax(ops, token.logits[0], 1.0f, p);
    s.softmax = ScoreDistribution(p, token.target);
    Softmax(ops, token.logits[0], 1.0f / calibration.temperature, p);
    s.temperature = s.isotonic = ScoreDistribution(p, token.target);
    s.isotonic.confidence = calibration.map.At(s.temperature.confidence);
    s.disagreement = DisagreementOf(ops, token);
    s.average = ScoreDistribution(MixPerspectives(equal, ops, token.logits, s.disagreement).p, token.target);
    const Mixture mixture = MixPerspectives(of_kind, ops, token.logits, s.disagreement);
    s.perspectives = ScoreDistribution(mixture.p, token.target);
    s.perspectives.confidence = mixture.confidence;
    s.perspectives.ranking = mixture.score;
    s.plain_rule = s.softmax;
    s.plain_rule.ranking = -s.disagreement;
    s.plain_rule.confidence = tau > 0 ? std::max(0.0f, 1.0f - s.disagreement / tau) : 0.0f;
    std::array<int64_t, kPerspectives> named = {};
    for (size_t k = 0; k < kPerspectives; ++k) named[k] = ArgMax(token.logits[k]);
    std::sort(named.begin(), named.end());
    s.uncertain = s.disagreement >= tau && std::adjacent_find(named.begin(), named.end()) == named.end();
  };
  const absl::Status run = RunPerspectives(
      on.weights, on.source, on.tokenizer, on.pool, on.text, on.run,
      [&](std::span<const LookedToken> looked) {
        scores.assign(looked.size(), {});
        ForEach(on.pool, looked, [&](size_t i) { score(looked[i], scores[i]); });
        for (size_t i = 0; i < looked.size(); ++i) {
          const Scores& s = scores[i];
          softmax.Add(s.softmax);
          temperature.Add(s.temperature);
          isotonic.Add(s.isotonic);
          average.Add(s.average);
          perspectives.Add(s.perspectives);
          plain_rule.Add(s.plain_rule);
          comparison.disagreement += static_cast<double>(s.disagreement);
          comparison.disagreeing += s.disagreement >= tau ? 1.0 : 0.0;
          comparison.uncertain += s.uncertain ? 1.0 : 0.0;
          comparison.bytes += looked[i].bytes;
          ++comparison.tokens;
        }
      },
      ops);
  if (!run.ok()) return run;
  const auto tokens = static_cast<double>(comparison.tokens);
  comparison.tau = static_cast<double>(tau);
  comparison.disagreement /= tokens;
  comparison.disagreeing /= tokens;
  comparison.uncertain /= tokens;
  comparison.softmax = softmax.Report();
  comparison.temperature = temperature.Report();
  comparison.isotonic = isotonic.Report();
  comparison.average = average.Report();
  comparison.perspectives = perspectives.Report();
  comparison.plain_rule = plain_rule.Report();
  return comparison;
}

}  // namespace omni
