#include "engine/train/param.h"

#include <ATen/Parallel.h>

#include "engine/train/cpu_ops.h"

namespace omni::train {

const uint16_t* Param::group_codes(int64_t g) const {
  return reinterpret_cast<const uint16_t*>(codes.data_ptr<int16_t>()) + g * rows() * cols();
}
const float* Param::group_scale(int64_t g) const { return scale.data_ptr<float>() + g * rows(); }
const uint32_t* Param::group_packed_t(int64_t g) const {
  return reinterpret_cast<const uint32_t*>(packed_t.data_ptr<int32_t>()) + g * PackedPairs(cols(), rows());
}
const uint32_t* Param::group_packed(int64_t g) const {
  return reinterpret_cast<const uint32_t*>(packed.data_ptr<int32_t>()) + g * PackedPairs(rows(), cols());
}

void Param::Quantize() {
  const int64_t groups_n = groups(), count = live_groups(), r = rows(), c = cols();
  if (!codes.defined()) {
    codes = torch::empty({groups_n, r, c}, torch::kInt16);
    scale = torch::empty({groups_n, r});
    packed_t = torch::empty({groups_n, PackedPairs(c, r)}, torch::kInt32);
    packed = torch::empty({groups_n, PackedPairs(r, c)}, torch::kInt32);
  }
  const CpuOps& ops = Ops();
  auto* code = reinterpret_cast<bf16*>(codes.data_ptr<int16_t>());
  const float* weight = w.data_ptr<float>();
  float* scales = scale.data_ptr<float>();
  at::parallel_for(0, count * r, 64, [&](int64_t begin, int64_t end) {
    auto* rows_of = coding == Coding::kTernary  ? ops.ternary_rows
                    : coding == Coding::kTwoBit ? ops.two_bit_rows
                                                : ops.int8_rows;
    rows_of(weight + begin * c, end - begin, c, code + begin * c, scales + begin);
  });
  at::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t g = begin; g < end; ++g) {
      ops.pack_transposed(code + g * r * c, c, r, c, const_cast<uint32_t*>(group_packed_t(g)));
      ops.pack(code + g * r * c, c, r, c, const_cast<uint32_t*>(group_packed(g)));
    }
  });
}

}  // namespace omni::train
