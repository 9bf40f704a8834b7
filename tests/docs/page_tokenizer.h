// docs/formats/tokenizer.md once more as code, written from the page alone: no header of the product.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace omni::page {

class Tokenizer {
 public:
  explicit Tokenizer(std::string_view file);  // throws std::runtime_error where the page wants it refused

  int64_t vocab() const { return vocab_; }
  // The text alone, without the token that a model's text begins with.
  std::vector<int64_t> Encode(std::string_view text) const;
  std::string Decode(const std::vector<int64_t>& tokens) const;

 private:
  int64_t vocab_ = 0;
  std::map<std::pair<int64_t, int64_t>, int64_t> rank_;  // of a pair
  std::vector<std::string> bytes_;                       // by id
};

}  // namespace omni::page
