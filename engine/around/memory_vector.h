// Hypervectors: 10 000 bits whose meaning lies in how many of them two vectors share (Kanerva 2009).
//
//   bind     XOR: of two vectors one that is like neither; binding again undoes it
//   bundle   the majority of several: like each of them, the less the more there are
//   distance bits that differ; 5000 +- 50 of two that have nothing to do with each other
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "kernels/op.h"

namespace omni {

inline constexpr int64_t kHyperBits = 10'000, kHyperWords = (kHyperBits + 63) / 64;
inline constexpr double kHyperDeviation = 50;  // of the distance of unrelated vectors: sqrt(bits) / 2

// Bit i is bit i % 64 of word i / 64; the bits past the last are zero.
struct HyperVector {
  std::array<uint64_t, kHyperWords> words = {};
  bool operator==(const HyperVector&) const = default;
};

// Number `id` of a codebook: random bits that follow from both, unrelated for different ids or seeds.
HyperVector Codeword(uint64_t seed, uint64_t id);

HyperVector Bind(const HyperVector& a, const HyperVector& b);
inline int64_t Distance(const HyperVector& a, const HyperVector& b,
                        const kernels::Ops& ops = kernels::ActiveOps()) {
  return ops.differing_bits(reinterpret_cast<const uint8_t*>(a.words.data()),
                            reinterpret_cast<const uint8_t*>(b.words.data()), sizeof(a.words));
}

// `share` of the bits, drawn by the seed, turned over.
HyperVector WithFlippedBits(const HyperVector& v, double share, uint64_t seed);

// A text as a vector: the bundle of its words and of its pairs of neighbouring words, letters in lower case.
// Texts that share most of their words have near vectors. Those that have each word and each pair equally
// often have the same one: texts of the same words in the same order, and some of words that come again
// ("a b a c a" and "a c a b a"). The zero vector if there is no word: bytes that are no letters, digits or
// above 127 are between words.
HyperVector TextVector(std::string_view text);

// The words that it goes by.
struct TextWord {
  uint64_t hash = 0;          // of its bytes in lower case
  size_t begin = 0, end = 0;  // in the text
};
std::vector<TextWord> TextWords(std::string_view text);
// Of the last word, the last two, ..., all of them or the last `most`: TextVector of each.
std::vector<HyperVector> SuffixVectors(std::span<const TextWord> words, size_t most);

// A bundle that can be added to and taken from: a counter for each bit. At most kMost vectors.
class Bundle {
 public:
  static constexpr size_t kMost = 32'767;
  Bundle() : counters_(kHyperWords * 64) {}
  void Add(const HyperVector& v) { Count(v, 1); }
  void Remove(const HyperVector& v) { Count(v, -1); }  // one that was added
  // The majority; where there is none, a bit of a fixed vector. Computed when it is asked for after a change.
  const HyperVector& majority() const;

 private:
  void Count(const HyperVector& v, int16_t by);

  std::vector<int16_t> counters_;  // ones less zeros
  mutable HyperVector majority_;
  mutable bool stale_ = true;
};

}  // namespace omni
