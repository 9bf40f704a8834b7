#include "engine/model/weights.h"

#include <cmath>
#include <string>

#include <absl/strings/str_cat.h>

namespace omni {
namespace {

// Collects the first thing that is wrong.
class Checker {
 public:
  explicit Checker(std::string where) : where_(std::move(where)) {}

  void Floats(const char* name, const float* x, int64_t n) {
    if (x == nullptr) return Fail(name, "it is missing");
    for (int64_t i = 0; i < n; ++i) {
      if (!std::isfinite(x[i])) return Fail(name, absl::StrCat("element ", i, " is ", x[i]));
    }
  }
  void Positions(const char* name, const float* x, int64_t n) {
    Floats(name, x, n);
    for (int64_t i = 0; status_.ok() && i < n; ++i) {
      if (!(x[i] >= 0.0f && x[i] < 1.0f))
        Fail(name, absl::StrCat("element ", i, " is ", x[i], ", not in [0, 1)"));
    }
  }
  // That the pointer is there exactly if the configuration asks for it.
  bool Asked(const char* name, const void* pointer, bool asked, const char* by) {
    if (!asked && pointer != nullptr)
      Fail(name, absl::StrCat("it is there although the configuration's ", by, " does not ask for it"));
    return asked;
  }
  void Members(const char* name, const uint8_t* members, int64_t tokens, int64_t experts) {
    if (members == nullptr) return Fail(name, "it is missing");
    for (int64_t token = 0; token < tokens; ++token) {
      if (members[token] < experts) continue;
      return Fail(name, absl::StrCat("token ", token, " has member ", int{members[token]}, " of a region of ",
                                     experts, " experts"));
    }
  }
  void Linear(const char* name, const TwoBitLinear& linear, int64_t rows, int64_t cols) {
    if (linear.rows != rows || linear.cols != cols) {
      return Fail(name, absl::StrCat("it is ", linear.rows, " x ", linear.cols, ", the configuration wants ",
                                     rows, " x ", cols));
    }
    Kernel(name, kernels::CheckTwoBit(linear.m, rows, cols));
    Floats(name, linear.scale, rows);
  }
  void Kernel(const char* name, kernels::Error error) {
    if (error != kernels::Error::kOk) Fail(name, kernels::ErrorText(error));
  }
  void Fail(const char* name, const std::string& what) {
    if (status_.ok()) status_ = absl::InvalidArgumentError(absl::StrCat(where_, ", ", name, ": ", what));
  }
  const absl::Status& status() const { return status_; }

 private:
  std::string where_;
  absl::Status status_;
};

absl::Status CheckLayer(const ModelConfig& c, int64_t index, const LayerWeights& layer) {
  Checker check(absl::StrCat("weights of layer ", index));
  check.Floats("norm1", layer.norm1, c.d);
  check.Floats("norm2", layer.norm2, c.d);
  if (c.IsAttention(index)) {
    const int64_t kv = c.kv_heads * c.head_dim();
    check.Linear("wq", layer.wq, c.d, c.d);
    check.Linear("wk", layer.wk, kv, c.d);
    check.Linear("wv", layer.wv, kv, c.d);
    check.Linear("wo", layer.wo, c.d, c.d);
    check.Linear("gate", layer.gate, c.f, c.d);
    check.Linear("up", layer.up, c.f, c.d);
    check.Linear("down", layer.down, c.d, c.f);
  } else {
    check.Linear("wp", layer.wp, c.d, c.d);
    check.Linear("wk", layer.wk, c.r, c.d);
    check.Linear("wq", layer.wq, c.r, c.d);
    check.Linear("wv", layer.wv, c.d, c.d);
    check.Linear("wo", layer.wo, c.d, c.d);
    check.Floats("bp", layer.bp, c.d);
    if (check.Asked("norm_readout", layer.norm_readout, c.readout_norm, "readout_norm"))
      check.Floats("norm_readout", layer.norm_readout, c.d);
    check.Floats("route", layer.route, 3 * c.d);
    check.Positions("positions", layer.positions, 3 * c.num_experts());
    if (check.Asked("route_bias", layer.route_bias, c.route_bias, "route_bias"))
      check.Floats("route_bias", layer.route_bias, c.num_experts());
    if (check.Asked("members", layer.members, c.route_from == RouteFrom::kAddress, "route_from"))
      check.Members("members", layer.members, c.vocab, c.experts_per_region());
  }
  return check.status();
}

}  // namespace

absl::Status CheckWeights(const ModelWeights& weights) {
  const ModelConfig& c = weights.config;
  if (absl::Status status = Validate(c); !status.ok()) return status;
  Checker check("weights");
  check.Kernel("embedding", kernels::CheckInt8(weights.embedding, c.vocab, c.d));
  check.Floats("embedding scales", weights.embedding_scale, c.vocab);
  check.Floats("norm_out", weights.norm_out, c.d);
  if (static_cast<int64_t>(weights.layers.size()) != c.layers) {
    check.Fail("layers",
               absl::StrCat("there are ", weights.layers.size(), ", the configuration has ", c.layers));
  }
  if (!check.status().ok()) return check.status();
  for (int64_t layer = 0; layer < c.layers; ++layer) {
    absl::Status status = CheckLayer(c, layer, weights.layers[static_cast<size_t>(layer)]);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status CheckTile(const TileLayout& layout, const uint8_t* tile) {
  Checker check("tile");
  if (tile == nullptr) {
    check.Fail("bytes", "they are missing");
    return check.status();
  }
  kernels::TernaryMatrix m;
  m.base = tile;
  m.group_stride = layout.d_pad;
  m.num_blocks = layout.d_pad / kernels::kTernaryCols;
  m.num_groups = 26;
  check.Kernel("gate and up", kernels::CheckTernary(m, 2 * kTileNeurons, layout.d));
  m.base = tile + layout.down_offset();
  m.group_stride = kernels::kTernaryBlockBytes;
  m.num_blocks = 1;
  m.num_groups = layout.down_groups();
  check.Kernel("down", kernels::CheckTernary(m, layout.d, kTileNeurons));
  check.Floats("gate scales", reinterpret_cast<const float*>(tile + layout.gate_scale_offset()),
               kTileNeurons);
  check.Floats("up scales", reinterpret_cast<const float*>(tile + layout.up_scale_offset()), kTileNeurons);
  return check.status();
}

}  // namespace omni
