// Distributions over the next token, and how far apart they are. All in float, in the fixed order of the
// engine's reductions (16 partial sums, element j goes to sum j mod 16, then i+8, +4, +2, +1), with exp from
// the kernels and a logarithm of its own: the same bytes on every machine. Thread-safe.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/op.h"

namespace omni {

// log x for finite x > 0, within 3 units in the last place; what is smaller than the least normal number
// counts as that one.
float NaturalLog(float x);

// softmax(logits * inverse_temperature); p may not overlap logits. logits are finite, of p's size, one or
// more.
void Softmax(const kernels::Ops& ops, std::span<const float> logits, float inverse_temperature,
             std::span<float> p);

float Entropy(std::span<const float> p);  // -sum p log p, nats

// H((p + q) / 2) - (H(p) + H(q)) / 2 in nats: 0 for equal ones, at most log 2.
float JensenShannon(std::span<const float> p, std::span<const float> q);

// The mean of JensenShannon over all pairs of two or more distributions.
float Disagreement(std::span<const std::vector<float>> distributions);

// sum of weights[k] * distributions[k], in this order, the first with the first weight.
void Mix(std::span<const std::vector<float>> distributions, std::span<const float> weights,
         std::span<float> mixed);

// The place of the largest element, of equal ones the first.
int64_t ArgMax(std::span<const float> values);

}  // namespace omni
