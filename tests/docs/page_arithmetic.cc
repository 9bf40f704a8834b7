#include "tests/docs/page_arithmetic.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <set>

namespace omni::page {

float Dot(const float* a, const float* b, int64_t n) {
  float p[16] = {};
  for (int64_t j = 0; j < n; ++j) p[j % 16] = std::fma(a[j], b[j], p[j % 16]);
  for (int half : {8, 4, 2, 1}) {
    for (int i = 0; i < half; ++i) p[i] = p[i] + p[i + half];
  }
  return p[0];
}

float Exp(float x) {
  if (std::isnan(x)) return x;
  x = 89.0f < x ? 89.0f : x;
  x = -104.0f > x ? -104.0f : x;
  const float t = std::fma(x, 0x1.715476p+0f, 0x1.8p+23f);
  const float n = t - 0x1.8p+23f;
  float u = std::fma(n, -0x1.62e43p-1f, x);
  u = std::fma(n, 0x1.05c61p-29f, u);
  float p = 0x1.6a242cp-10f;
  p = std::fma(p, u, 0x1.1239e8p-7f);
  p = std::fma(p, u, 0x1.5558f2p-5f);
  p = std::fma(p, u, 0x1.555492p-3f);
  p = std::fma(p, u, 0x1.fffffcp-2f);
  p = std::fma(p, u * u, u);
  p = 1.0f + p;
  // f64 holds p times any of these powers of two exactly, and the conversion rounds once.
  return static_cast<float>(std::ldexp(static_cast<double>(p), static_cast<int>(n)));
}

float Sigmoid(float x) { return 1.0f / (1.0f + Exp(-x)); }

float Silu(float x) { return x * Sigmoid(x); }

// By the definition of binary16: a multiple of the spacing of its numbers around |x|.
uint16_t ToFp16(float x) {
  const uint16_t sign = std::signbit(x) ? 0x8000 : 0;
  const double magnitude = std::fabs(static_cast<double>(x));
  int exponent = -14;  // of the spacing 2^(exponent - 10): subnormals share the least
  if (magnitude >= 0x1p-14) exponent = std::ilogb(magnitude);
  const double units = std::nearbyint(std::ldexp(magnitude, 10 - exponent));  // ties to even
  const double rounded = std::ldexp(units, exponent - 10);
  if (rounded >= 0x1p16) return sign | 0x7c00;
  if (rounded < 0x1p-14) return static_cast<uint16_t>(sign | static_cast<int>(std::ldexp(rounded, 24)));
  const int e = std::ilogb(rounded);
  const int mantissa = static_cast<int>(std::ldexp(rounded, 10 - e)) - 1024;
  return static_cast<uint16_t>(sign | (e + 15) << 10 | mantissa);
}

float FromFp16(uint16_t bits) {
  const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
  float magnitude = std::ldexp(static_cast<float>(1024 + mantissa), exponent - 25);
  if (exponent == 0) magnitude = std::ldexp(static_cast<float>(mantissa), -24);
  if (exponent == 31) magnitude = std::numeric_limits<float>::infinity();
  return bits >> 15 ? -magnitude : magnitude;
}

Floats RmsNorm(const Floats& x, const float* g) {
  const int64_t n = static_cast<int64_t>(x.size());
  const float mean = Dot(x.data(), x.data(), n) / static_cast<float>(n);
  const float inv = 1.0f / std::sqrt(mean + 0x1.0c6f7ap-20f);
  Floats y;
  for (size_t i = 0; i < x.size(); ++i) y.push_back((x[i] * inv) * g[i]);
  return y;
}

Quantized Quantize(const Floats& x) {
  float largest = 0;
  for (float v : x) largest = std::fabs(v) > largest ? std::fabs(v) : largest;
  Quantized out{std::vector<int8_t>(x.size()), largest / 127.0f};
  if (!(out.s > 0)) return out;
  for (size_t i = 0; i < x.size(); ++i) {
    float v = x[i] / out.s;
    v = v < 127.0f ? v : 127.0f;
    v = v > -127.0f ? v : -127.0f;
    out.q[i] = static_cast<int8_t>(std::nearbyint(v));
  }
  return out;
}

float Scaled(int64_t sum, float s, float row_scale) { return static_cast<float>(sum) * (s * row_scale); }

Softmax ExpSum(const Floats& x) {
  Softmax out;
  out.max = -std::numeric_limits<float>::infinity();
  for (float v : x) out.max = v > out.max ? v : out.max;
  out.max = out.max + 0.0f;
  for (float v : x) out.e.push_back(Exp(v - out.max));
  const Floats ones(x.size(), 1.0f);
  out.sum = Dot(out.e.data(), ones.data(), static_cast<int64_t>(x.size()));
  return out;
}

float Decay(float p, float b, float floor) {
  const float gamma = Sigmoid(p + b);
  return floor > gamma ? floor : gamma;
}

void StepRow(float* S, float gamma, float v, const Floats& k) {
  for (size_t j = 0; j < k.size(); ++j) {
    const float kept = gamma * S[j], added = v * k[j];
    S[j] = kept + added;
  }
}

void Renormalise(float* S, int64_t d, int64_t r) {
  Floats squares, ones(static_cast<size_t>(d), 1.0f);
  for (int64_t i = 0; i < d; ++i) squares.push_back(Dot(S + i * r, S + i * r, r));
  const float norm = std::sqrt(Dot(squares.data(), ones.data(), d));
  const float limit = std::sqrt(static_cast<float>(d * r));
  if (!(norm > limit)) return;
  const float factor = limit / norm;
  for (int64_t i = 0; i < d * r; ++i) S[i] = S[i] * factor;
}

namespace {

constexpr double kLn2 = 0x1.62e42fefa39efp-1;

double LogTheta(double theta) {
  int e = 0;
  const double m = std::frexp(theta, &e);
  const double t = (m - 1) / (m + 1);
  const double t2 = t * t;
  double z = 0;
  for (int k = 49; k >= 1; k -= 2) z = (z * t2) + (1.0 / k);
  return (e * kLn2) + ((2 * t) * z);
}

double Frequency(double log_theta, int64_t i, int64_t h) {
  const double y = ((-2.0 * static_cast<double>(i)) * log_theta) / static_cast<double>(h);
  const double n = std::floor((y / kLn2) + 0.5);
  const double u = y - (n * kLn2);
  double z = 1;
  for (int k = 20; k >= 1; --k) z = 1 + ((u * z) / k);
  return std::ldexp(z, static_cast<int>(n));
}

}  // namespace

Angles RopeAngles(double theta, int64_t h, int64_t position) {
  const double log_theta = LogTheta(theta);
  Angles out;
  for (int64_t i = 0; i < h / 2; ++i) {
    const double a = static_cast<double>(position) * Frequency(log_theta, i, h);
    const double n = std::floor((a / 0x1.921fb54442d18p+0) + 0.5);
    const double u = ((a - (n * 0x1.921fb54p0)) - (n * 0x1.10b4611p-30)) - (n * 0x1.4c4c6628b80dcp-59);
    const double u2 = u * u;
    double S = 1, C = 1;
    for (int k = 9; k >= 0; --k) {
      S = 1 - ((u2 * (1.0 / ((2 * k + 2) * (2 * k + 3)))) * S);
      C = 1 - ((u2 * (1.0 / ((2 * k + 1) * (2 * k + 2)))) * C);
    }
    S = S * u;
    const double sine[4] = {S, C, -S, -C}, cosine[4] = {C, -S, -C, S};
    const int64_t quarter = static_cast<int64_t>(n) & 3;
    out.sin.push_back(static_cast<float>(sine[quarter]));
    out.cos.push_back(static_cast<float>(cosine[quarter]));
  }
  return out;
}

void Rotate(float* head, const Angles& angles, int64_t h) {
  for (int64_t i = 0; i < h / 2; ++i) {
    const size_t pair = static_cast<size_t>(i);
    const float a = head[i], b = head[i + h / 2], cos = angles.cos[pair], sin = angles.sin[pair];
    const float a_cos = a * cos, b_sin = b * sin, a_sin = a * sin, b_cos = b * cos;
    head[i] = a_cos - b_sin;
    head[i + h / 2] = a_sin + b_cos;
  }
}

Floats Attend(const float* q, const uint16_t* keys, const uint16_t* values, int64_t h, int64_t slots) {
  const float scale = 1.0f / std::sqrt(static_cast<float>(h));
  Floats score;
  for (int64_t j = 0; j < slots; ++j) {
    Floats key;
    for (int64_t i = 0; i < h; ++i) key.push_back(FromFp16(keys[j * h + i]));
    score.push_back(Dot(q, key.data(), h) * scale);
  }
  const Softmax softmax = ExpSum(score);
  Floats w;
  for (float e : softmax.e) w.push_back(e / softmax.sum);
  Floats out;
  for (int64_t i = 0; i < h; ++i) {
    Floats column;
    for (int64_t j = 0; j < slots; ++j) column.push_back(FromFp16(values[j * h + i]));
    out.push_back(Dot(w.data(), column.data(), slots));
  }
  return out;
}

Point Landing(const float* route, const Floats& h) {
  const int64_t d = static_cast<int64_t>(h.size());
  Point z;
  for (int64_t axis = 0; axis < 3; ++axis) {
    const float sum = Dot(route + axis * d, h.data(), d);
    const float part = sum - std::floor(sum);
    z.axis[axis] = part == 1.0f ? 0.0f : part;
  }
  return z;
}

float Distance(const Point& z, const float* position) {
  float square[3];
  for (int axis = 0; axis < 3; ++axis) {
    float delta = std::fabs(z.axis[axis] - position[axis]);
    delta = 1.0f - delta < delta ? 1.0f - delta : delta;
    square[axis] = delta * delta;
  }
  return (square[0] + square[1]) + square[2];
}

int64_t NearestExpert(const Point& z, const float* positions, const float* bias, int64_t experts) {
  int64_t nearest = 0;
  float least = std::numeric_limits<float>::infinity();
  for (int64_t e = 0; e < experts; ++e) {
    float distance = Distance(z, positions + 3 * e);
    if (bias != nullptr) distance = distance - bias[e];
    if (distance < least) least = distance, nearest = e;
  }
  return nearest;
}

void SlowStep(Floats& u, const Floats& h, float rate) {
  for (size_t i = 0; i < u.size(); ++i) {
    const float difference = h[i] - u[i];
    u[i] = std::fma(rate, difference, u[i]);
  }
}

Floats ExpertActivations(const ExpertNeurons& expert, const Quantized& h) {
  const size_t d = h.q.size();
  Floats a;
  for (size_t n = 0; n < expert.s_g.size(); ++n) {
    int64_t gate = 0, up = 0;
    for (size_t i = 0; i < d; ++i) {
      gate += expert.gate[n * d + i] * h.q[i];
      up += expert.up[n * d + i] * h.q[i];
    }
    const float g = Scaled(gate, h.s, expert.s_g[n]), u = Scaled(up, h.s, expert.s_u[n]);
    a.push_back(u * Silu(g));
  }
  return a;
}

Floats ExpertOutput(const ExpertNeurons& expert, const Quantized& a, int64_t d) {
  Floats out;
  for (int64_t i = 0; i < d; ++i) {
    int64_t sum = 0;
    for (size_t n = 0; n < a.q.size(); ++n) {
      sum += expert.down[n * static_cast<size_t>(d) + static_cast<size_t>(i)] * a.q[n];
    }
    out.push_back(static_cast<float>(sum) * a.s);
  }
  return out;
}

namespace {

uint64_t Mix(uint64_t z) {
  z = z + 0x9e3779b97f4a7c15;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
  z = (z ^ z >> 27) * 0x94d049bb133111eb;
  return z ^ z >> 31;
}

constexpr float kNever = -std::numeric_limits<float>::infinity();
constexpr float kLargest = std::numeric_limits<float>::max();

struct Candidate {
  float logit;
  int64_t token;
};

// The shortest prefix whose sum is not below `wanted`.
size_t Prefix(const Floats& w, double wanted) {
  double sum = 0;
  for (size_t n = 0; n < w.size(); ++n) {
    sum += w[n];
    if (!(sum < wanted)) return n + 1;
  }
  return w.size();
}

}  // namespace

double Uniform(uint64_t seed, uint64_t position) {
  return static_cast<double>(Mix(Mix(seed) + position * 0x9e3779b97f4a7c15) >> 11) * 0x1p-53;
}

Drawn Sample(const Floats& logits, std::span<const int64_t> history, uint64_t position,
             const SamplerSettings& settings) {
  Floats l = logits;
  for (float& v : l) v = std::isnan(v) ? kNever : v > kLargest ? kLargest : v;
  if (*std::max_element(l.begin(), l.end()) == kNever) return {};
  const Softmax softmax = ExpSum(l);
  const auto drawn = [&](int64_t token) {
    return Drawn{token, softmax.e[static_cast<size_t>(token)] / softmax.sum};
  };

  const size_t recent = std::min(history.size(), static_cast<size_t>(settings.window));
  const std::set<int64_t> seen(history.end() - static_cast<std::ptrdiff_t>(recent), history.end());
  for (int64_t token : seen) {
    if (settings.penalty == 1 || token >= static_cast<int64_t>(l.size())) continue;
    float& v = l[static_cast<size_t>(token)];
    if (v == kNever) continue;
    v = v > 0 ? v / settings.penalty : v * settings.penalty;
    v = std::min(std::max(v, -kLargest), kLargest);
  }

  std::vector<Candidate> order;
  for (size_t i = 0; i < l.size(); ++i) {
    if (l[i] > kNever) order.push_back({l[i], static_cast<int64_t>(i)});
  }
  std::stable_sort(order.begin(), order.end(),
                   [](const Candidate& a, const Candidate& b) { return a.logit > b.logit; });
  if (!(settings.temperature > 0)) return drawn(order[0].token);
  if (settings.top_k > 0 && static_cast<size_t>(settings.top_k) < order.size()) {
    order.resize(static_cast<size_t>(settings.top_k));
  }

  Floats w;
  for (const Candidate& c : order) w.push_back(Exp((c.logit - order[0].logit) / settings.temperature));
  if (settings.top_p < 1) {
    double total = 0;
    for (float v : w) total += v;
    w.resize(Prefix(w, static_cast<double>(settings.top_p) * total));
  }
  const float least = settings.min_p * w[0];
  while (w.size() > 1 && w.back() < least) w.pop_back();

  double total = 0, sum = 0;
  for (float v : w) total += v;
  const double target = Uniform(settings.seed, position) * total;
  for (size_t i = 0; i < w.size(); ++i) {
    sum += w[i];
    if (target < sum) return drawn(order[i].token);
  }
  return drawn(order[w.size() - 1].token);
}

}  // namespace omni::page
