// docs/formats/checkpoint.md once more as code, written from the page alone: a training checkpoint's tensors
// and the codes that they are quantised to. No header of the product.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "tests/docs/page_arithmetic.h"
#include "tests/docs/page_files.h"

namespace omni::page {

class CheckpointFiles {
 public:
  // Throws std::runtime_error that says what is not as the page has it.
  CheckpointFiles(const std::string& dir, const Config& config);

  // As the packed model must have them.
  Matrix TwoBit(const std::string& name) const;
  Matrix Embedding() const;
  ExpertNeurons Expert(int64_t layer, int64_t expert) const;
  const Floats& Tensor(const std::string& name) const { return tensors_.at(name).values; }

 private:
  struct Entry {
    std::vector<int64_t> shape;
    Floats values;
  };

  const Config config_;
  std::map<std::string, Entry> tensors_;
};

}  // namespace omni::page
