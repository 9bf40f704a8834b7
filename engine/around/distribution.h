// Distributions over the next token, and how far apart they are. All in float, by the kernels: the same bytes
// on every machine. Thread-safe.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include <absl/functional/function_ref.h>

#include "engine/decode/worker_pool.h"
#include "kernels/op.h"

namespace omni {

// softmax(logits * inverse_temperature); p may not overlap logits. logits are finite, of p's size, one or
// more.
void Softmax(const kernels::Ops& ops, std::span<const float> logits, float inverse_temperature,
             std::span<float> p);

float Entropy(const kernels::Ops& ops, std::span<const float> p);  // -sum p log p, nats

// H((p + q) / 2) - (H(p) + H(q)) / 2 in nats: 0 for equal ones, at most log 2.
float JensenShannon(const kernels::Ops& ops, std::span<const float> p, std::span<const float> q);

// The mean of JensenShannon over all pairs of two or more distributions. pool: who helps; null: nobody.
float Disagreement(const kernels::Ops& ops, std::span<const std::vector<float>> distributions,
                   WorkerPool* pool = nullptr);

// fn(i) for every i < n, on the pool's threads or, without one, on this.
void ForEachOn(WorkerPool* pool, size_t n, absl::FunctionRef<void(size_t)> fn);

// sum of weights[k] * distributions[k], in this order, the first with the first weight.
void Mix(std::span<const std::vector<float>> distributions, std::span<const float> weights,
         std::span<float> mixed);

// The place of the largest element, of equal ones the first; of one or more, none of them NaN.
int64_t ArgMax(std::span<const float> values);

}  // namespace omni
