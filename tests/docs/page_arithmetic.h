// docs/arithmetic.md once more as code, written from the page alone: one element at a time, no header of the
// product. What the page says and what the product does meet in the tests that include this.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace omni::page {

using Floats = std::vector<float>;

// Sums, and the functions of one number.
float Dot(const float* a, const float* b, int64_t n);
float Exp(float x);
float Sigmoid(float x);
float Silu(float x);
uint16_t ToFp16(float x);
float FromFp16(uint16_t bits);

// Vectors.
Floats RmsNorm(const Floats& x, const float* g);
struct Quantized {
  std::vector<int8_t> q;
  float s = 0;
};
Quantized Quantize(const Floats& x);
float Scaled(int64_t sum, float s, float row_scale);
struct Softmax {
  Floats e;
  float max = 0, sum = 0;
};
Softmax ExpSum(const Floats& x);

// The recurrence. S: rows of r.
float Decay(float p, float b, float floor);
void StepRow(float* S, float gamma, float v, const Floats& k);
void Renormalise(float* S, int64_t d, int64_t r);

// Attention.
struct Angles {
  Floats cos, sin;
};
Angles RopeAngles(double theta, int64_t h, int64_t position);
void Rotate(float* head, const Angles& angles, int64_t h);
// One query head over `slots` rows of the ring.
Floats Attend(const float* q, const uint16_t* keys, const uint16_t* values, int64_t h, int64_t slots);

// The router.
struct Point {
  float axis[3];
};
Point Landing(const float* route, const Floats& h);
float Distance(const Point& z, const float* position);
// `bias` may be null.
int64_t NearestExpert(const Point& z, const float* positions, const float* bias, int64_t experts);
void SlowStep(Floats& u, const Floats& h, float rate);

// Experts: trits of neuron n at [n * d + i], also for down (its column n).
struct ExpertNeurons {
  std::vector<int8_t> gate, up, down;
  Floats s_g, s_u;
};
Floats ExpertActivations(const ExpertNeurons& expert, const Quantized& h);
Floats ExpertOutput(const ExpertNeurons& expert, const Quantized& a, int64_t d);

// The sampler.
double Uniform(uint64_t seed, uint64_t position);
struct SamplerSettings {
  float temperature = 0.8f;
  int64_t top_k = 40;
  float top_p = 0.95f, min_p = 0;
  float penalty = 1;
  int64_t window = 64;
  uint64_t seed = 0;
};
struct Drawn {
  int64_t token = 0;
  float probability = 0;
};
Drawn Sample(const Floats& logits, std::span<const int64_t> history, uint64_t position,
             const SamplerSettings& settings);

}  // namespace omni::page
