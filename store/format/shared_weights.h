// Everything of a model that is not an expert, in memory.
#pragma once

#include <string>
#include <string_view>

#include <absl/status/statusor.h>

#include "engine/text/tokenizer.h"
#include "store/format/model_files.h"
#include "store/format/shared_layout.h"

namespace omni {

// Immutable once loaded. May be moved: the views stay valid.
class SharedWeights {
 public:
  // Reads shared.bin and the tokenizer and verifies every checksum; errors name the file and what to do.
  static absl::StatusOr<SharedWeights> Load(const ModelFiles& files);

  const ModelWeights& weights() const { return weights_; }  // views of this object's bytes
  const Tokenizer& tokenizer() const { return tokenizer_; }
  const std::string& tokenizer_bytes() const { return tokenizer_bytes_; }
  std::string_view SectionBytes(const SharedSection& section) const;

 private:
  absl::Status LoadWeights(const ModelFiles& files);

  AlignedBuffer bytes_;
  ModelWeights weights_;
  std::string tokenizer_bytes_;
  Tokenizer tokenizer_;
};

}  // namespace omni
