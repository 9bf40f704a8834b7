// A training checkpoint: a directory that appears whole or not at all.
//   config.json         ModelConfig
//   tokenizer.omni      the tokenizer's file
//   model.safetensors   float32 weights, names below
//   start.safetensors   while all experts are one: the weights as float16, experts as one group; small
//   train.safetensors   optimiser moments, data position, RNG (not in an exported one; the packer ignores it)
//
// Tensors of model.safetensors (row-major float32; d, r, f, V from the config; R regions, E experts, P
// experts per region; B, T, M, O base, region, member and own neurons; `down` is stored neuron-major
// everywhere in experts: row n = column n of down):
//   embed [V,d]  norm_out [d]
//   layers.N.norm1 [d]  layers.N.norm2 [d]
//   PDR:   layers.N.wp [d,d]  .bp [d]  .wk [r,d]  .wq [r,d]  .wv [d,d]  .wo [d,d]  .norm_readout [d]
//   GQA:   layers.N.wq [d,d]  .wk [H_kv*h,d]  .wv [H_kv*h,d]  .wo [d,d]
//   shared FFN (attention layers): layers.N.gate [f,d]  .up [f,d]  .down [d,f]
//   experts (PDR layers): layers.N.GROUP.gate, .up and .down, of every group that has neurons:
//                           base [1,B,d]  tied [R,T,d]  member [P,M,d]  own [E,O,d]
//                         layers.N.route [3,d]  layers.N.positions [E,3]
//                         layers.N.route_bias [E]      (if the config's route_bias is on)
//                         layers.N.members [V], bytes  (if the config's route_from is address)
// An expert's neurons are in this order base, region (tied), member, own (engine/model/neuron_groups.h).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <absl/container/btree_map.h>
#include <absl/status/statusor.h>

namespace omni {

enum class DType { kF32, kI64, kU8, kF16 };

struct TensorView {
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  const void* data = nullptr;
  int64_t count() const;
  int64_t bytes() const;
};

// Makes or replaces a safetensors file, whole and synced or not at all. Data lie by falling element size,
// then by name, the first at a multiple of 64 bytes; the metadata gains a checksum of the header,
// `header_xxh3`.
absl::Status WriteSafetensors(const std::string& path,
                              const absl::btree_map<std::string, TensorView>& tensors,
                              const absl::btree_map<std::string, std::string>& metadata);

// A safetensors file mapped read-only; every offset, shape and size is checked on open, and the header's
// checksum where there is one. Data must be aligned to their element size. Views live as long as the object,
// wherever it is moved, and the file must not be cut or changed meanwhile. Thread-safe once open.
class SafetensorsFile {
 public:
  static absl::StatusOr<SafetensorsFile> Open(const std::string& path);
  SafetensorsFile(SafetensorsFile&&) noexcept;
  SafetensorsFile& operator=(SafetensorsFile&&) noexcept;
  ~SafetensorsFile();

  const absl::btree_map<std::string, TensorView>& tensors() const { return tensors_; }
  const absl::btree_map<std::string, std::string>& metadata() const { return metadata_; }
  // The named tensor, which must have this type and shape; the error names file, tensor, found and wanted.
  absl::StatusOr<const float*> F32(const std::string& name, const std::vector<int64_t>& shape) const;
  absl::StatusOr<const uint8_t*> U8(const std::string& name, const std::vector<int64_t>& shape) const;

 private:
  SafetensorsFile() = default;
  absl::StatusOr<const void*> Find(const std::string& name, const TensorView& want) const;

  std::string path_;
  void* map_ = nullptr;
  size_t map_bytes_ = 0;
  absl::btree_map<std::string, TensorView> tensors_;
  absl::btree_map<std::string, std::string> metadata_;
};

}  // namespace omni
