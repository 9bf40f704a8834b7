// Shorthand of the files that compute with tensors by the CPU loops: pointers to float32, and to bf16 kept as
// int16; the words of torch's gradient functions; and what several layers compute alike.
#pragma once

#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/types.h>

#include <cstdint>

#include "engine/train/cpu_ops.h"

namespace omni::train {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::Variable;
using torch::autograd::variable_list;

inline float* F(const Tensor& t) { return t.data_ptr<float>(); }
inline bf16* B(const Tensor& t) { return reinterpret_cast<bf16*>(t.data_ptr<int16_t>()); }
inline Tensor Bf16(int64_t rows, int64_t cols) { return torch::empty({rows, cols}, torch::kInt16); }

// x [rows, cols] to int8 values q, kept as bf16, and a scale per row, on all threads.
inline void QuantizeRows(const Tensor& x, const Tensor& q, const Tensor& s) {
  const int64_t cols = x.size(1);
  at::parallel_for(0, x.size(0), 256, [&](int64_t b, int64_t e) {
    Ops().quantize(F(x) + b * cols, e - b, cols, B(q) + b * cols, F(s) + b);
  });
}

// A pointer among what a gradient function keeps between forward and backward.
template <typename T>
T* Pointer(AutogradContext* ctx, const char* key) {
  return reinterpret_cast<T*>(ctx->saved_data[key].toInt());
}
template <typename T>
int64_t Address(T* p) {
  return reinterpret_cast<int64_t>(p);
}

}  // namespace omni::train
