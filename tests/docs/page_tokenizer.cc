#include "tests/docs/page_tokenizer.h"

#include <xxhash.h>

#include <cstring>
#include <stdexcept>

namespace omni::page {
namespace {

void Require(bool holds, const char* what) {
  if (!holds) throw std::runtime_error(std::string("tokenizer: ") + what);
}

template <typename T>
T At(std::string_view bytes, size_t offset) {
  Require(offset + sizeof(T) <= bytes.size(), "cut short");
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

enum class Class { kLetter, kDigit, kSpace, kOther };

Class ClassOf(char c) {
  const unsigned char b = static_cast<unsigned char>(c);
  if ((b >= 'A' && b <= 'Z') || (b >= 'a' && b <= 'z') || b >= 0x80) return Class::kLetter;
  if (b >= '0' && b <= '9') return Class::kDigit;
  if ((b >= 0x09 && b <= 0x0d) || b == 0x20) return Class::kSpace;
  return Class::kOther;
}

// Rules 1 to 3.
std::vector<std::string_view> Pretokens(std::string_view text) {
  std::vector<std::string_view> runs;
  for (size_t begin = 0; begin < text.size();) {
    size_t end = begin + 1;
    while (end < text.size() && ClassOf(text[end]) == ClassOf(text[begin])) ++end;
    runs.push_back(text.substr(begin, end - begin));
    begin = end;
  }
  for (size_t i = 1; i < runs.size(); ++i) {
    if (ClassOf(runs[i][0]) == Class::kSpace || runs[i - 1].empty() || runs[i - 1].back() != ' ') continue;
    runs[i - 1].remove_suffix(1);
    runs[i] = {runs[i].data() - 1, runs[i].size() + 1};
  }
  std::vector<std::string_view> pretokens;
  for (std::string_view run : runs) {
    for (; !run.empty(); run.remove_prefix(std::min<size_t>(run.size(), 64))) {
      pretokens.push_back(run.substr(0, 64));
    }
  }
  return pretokens;
}

}  // namespace

Tokenizer::Tokenizer(std::string_view file) {
  Require(file.substr(0, 8) == "OMNI-TOK", "another magic");
  Require(At<uint32_t>(file, 8) == 1, "another version");
  vocab_ = At<uint32_t>(file, 12);
  const int64_t merges = At<uint32_t>(file, 16);
  Require(vocab_ >= 257 && vocab_ <= 1 << 24 && merges <= vocab_ - 257, "sizes out of range");
  const size_t end = 20 + 8 * static_cast<size_t>(merges);
  Require(file.size() == end + 8, "another length");
  Require(At<uint64_t>(file, end) == XXH3_64bits(file.data(), end), "its checksum differs");
  for (int b = 0; b < 256; ++b) bytes_.push_back(std::string(1, static_cast<char>(b)));
  bytes_.emplace_back();  // 256
  for (int64_t m = 0; m < merges; ++m) {
    const size_t at = 20 + 8 * static_cast<size_t>(m);
    const int64_t left = At<uint32_t>(file, at), right = At<uint32_t>(file, at + 4);
    Require(left < 257 + m && right < 257 + m && left != 256 && right != 256, "a part that is not there yet");
    Require(rank_.emplace(std::pair(left, right), m).second, "a pair is merged twice");
    bytes_.push_back(bytes_[static_cast<size_t>(left)] + bytes_[static_cast<size_t>(right)]);
    Require(bytes_.back().size() <= 64, "a token of more than 64 bytes");
  }
}

std::vector<int64_t> Tokenizer::Encode(std::string_view text) const {
  std::vector<int64_t> tokens;
  for (std::string_view pretoken : Pretokens(text)) {
    std::vector<int64_t> parts;
    for (char c : pretoken) parts.push_back(static_cast<unsigned char>(c));
    for (;;) {
      size_t best = parts.size();
      int64_t lowest = vocab_;
      for (size_t i = 0; i + 1 < parts.size(); ++i) {
        const auto it = rank_.find({parts[i], parts[i + 1]});
        if (it != rank_.end() && it->second < lowest) lowest = it->second, best = i;
      }
      if (best == parts.size()) break;
      parts[best] = 257 + lowest;
      parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(best) + 1);
    }
    tokens.insert(tokens.end(), parts.begin(), parts.end());
  }
  return tokens;
}

std::string Tokenizer::Decode(const std::vector<int64_t>& tokens) const {
  std::string text;
  for (int64_t token : tokens) {
    if (token < static_cast<int64_t>(bytes_.size())) text += bytes_[static_cast<size_t>(token)];
  }
  return text;
}

}  // namespace omni::page
