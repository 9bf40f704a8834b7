#include "engine/decode/ffn.h"

namespace omni {

void SharedFfn::Run(const LayerWeights& layer, const QuantizedRows& in) {
  const int64_t f = pass_.config.f, width = PadTo(f, 16);
  const Products products = pass_.Multiply({&layer.gate, &layer.up}, in);
  float* a = a_.Reserve(pass_.rows * width);
  pass_.ForRows(4 * f * Pass::kFloatCost, [&](int64_t row) {
    pass_.ops.swiglu(products.Row(0, row), products.Row(1, row), 1, layer.gate.scale, layer.up.scale,
                     in.scale[row], f, a + row * width);
  });
  pass_.AddLinear(layer.down, pass_.Quantize(a, width, f));
}

}  // namespace omni
