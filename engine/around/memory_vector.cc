#include "engine/around/memory_vector.h"

#include <algorithm>
#include <string>
#include <utility>

#include "engine/base/splitmix.h"

namespace omni {
namespace {

constexpr uint64_t kLastWord = (uint64_t{1} << (kHyperBits % 64)) - 1;
constexpr uint64_t kTieSeed = 0x746965, kWordSeed = 0x776f7264, kPairSeed = 0x70616972;

// The eight bits of a byte as -1 and 1.
struct Signs {
  int16_t of[256][8];
};
constexpr Signs MakeSigns() {
  Signs signs = {};
  for (int byte = 0; byte < 256; ++byte) {
    for (int bit = 0; bit < 8; ++bit) signs.of[byte][bit] = (byte >> bit) & 1 ? 1 : -1;
  }
  return signs;
}
constexpr Signs kSigns = MakeSigns();

uint64_t Hash(std::string_view word) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (char c : word) hash = SplitMix64(hash ^ static_cast<uint8_t>(c));
  return hash;
}

}  // namespace

HyperVector Codeword(uint64_t seed, uint64_t id) {
  HyperVector v;
  const uint64_t mixed = SplitMix64(seed) ^ id;  // CounterRandom mixes it once more
  for (size_t i = 0; i < v.words.size(); ++i) v.words[i] = CounterRandom(mixed, i);
  v.words.back() &= kLastWord;
  return v;
}

HyperVector Bind(const HyperVector& a, const HyperVector& b) {
  HyperVector v;
  for (size_t i = 0; i < v.words.size(); ++i) v.words[i] = a.words[i] ^ b.words[i];
  return v;
}

HyperVector WithFlippedBits(const HyperVector& v, double share, uint64_t seed) {
  // A sample without repetition, by choosing each bit with the probability that is right for what is left.
  HyperVector flipped = v;
  auto left = static_cast<int64_t>(share * static_cast<double>(kHyperBits) + 0.5);
  for (int64_t i = 0; i < kHyperBits && left > 0; ++i) {
    if (CounterUniform(seed, static_cast<uint64_t>(i)) * static_cast<double>(kHyperBits - i) >=
        static_cast<double>(left)) {
      continue;
    }
    flipped.words[static_cast<size_t>(i / 64)] ^= uint64_t{1} << (i % 64);
    --left;
  }
  return flipped;
}

void Bundle::Count(const HyperVector& v, int16_t by) {
  stale_ = true;
  int16_t* counter = counters_.data();
  for (uint64_t word : v.words) {
    for (int byte = 0; byte < 8; ++byte, word >>= 8, counter += 8) {
      const int16_t* signs = kSigns.of[word & 255];
      for (int bit = 0; bit < 8; ++bit) counter[bit] = static_cast<int16_t>(counter[bit] + by * signs[bit]);
    }
  }
}

const HyperVector& Bundle::majority() const {
  if (!std::exchange(stale_, false)) return majority_;
  static const HyperVector kTie = Codeword(kTieSeed, 0);
  const int16_t* counter = counters_.data();
  for (size_t i = 0; i < majority_.words.size(); ++i, counter += 64) {
    uint64_t ones = 0, even = 0;
    for (int bit = 0; bit < 64; ++bit) {
      ones |= static_cast<uint64_t>(counter[bit] > 0) << bit;
      even |= static_cast<uint64_t>(counter[bit] == 0) << bit;
    }
    majority_.words[i] = ones | (even & kTie.words[i]);
  }
  majority_.words.back() &= kLastWord;
  return majority_;
}

std::vector<TextWord> TextWords(std::string_view text) {
  std::vector<TextWord> words;
  std::string word;
  for (size_t i = 0; i <= text.size(); ++i) {
    const unsigned char byte = i < text.size() ? static_cast<unsigned char>(text[i]) : ' ';
    if (byte >= 'A' && byte <= 'Z') {
      word += static_cast<char>(byte - 'A' + 'a');
    } else if ((byte >= 'a' && byte <= 'z') || (byte >= '0' && byte <= '9') || byte >= 128) {
      word += static_cast<char>(byte);
    } else if (!word.empty()) {
      words.push_back({Hash(word), i - word.size(), i});
      word.clear();
    }
  }
  return words;
}

namespace {

// How many of the vectors that were added have each bit. The counts of 64 bits stand side by side, digit d of
// them all in one word: an addition takes a few operations a word (two vectors of a digit leave one carry for
// the next), where a Bundle takes as many a bit; but nothing can be taken away again.
class Tally {
 public:
  void Add(HyperVector v) {
    for (size_t d = 0;; ++d) {
      if (d == digits_.size()) digits_.emplace_back();
      Digit& digit = digits_[d];
      if ((added_ >> d & 1) == 0) {
        digit.waiting = v;
        break;
      }
      for (size_t i = 0; i < v.words.size(); ++i) {
        const uint64_t a = digit.sum.words[i], b = digit.waiting.words[i], c = v.words[i];
        digit.sum.words[i] = a ^ b ^ c;
        v.words[i] = (a & b) | ((a ^ b) & c);
      }
    }
    ++added_;
  }

  // Of an odd number of vectors, so that there is one.
  HyperVector Majority() const {
    HyperVector majority;
    const uint64_t half = added_ / 2;
    for (size_t i = 0; i < majority.words.size(); ++i) {
      // More than half: as the highest digit says that is another than half's.
      uint64_t more = 0, carry = 0;
      for (size_t d = 0; d < digits_.size(); ++d) {
        const uint64_t a = digits_[d].sum.words[i];
        const uint64_t b = (added_ >> d & 1) != 0 ? digits_[d].waiting.words[i] : 0;
        const uint64_t ones = a ^ b ^ carry;
        carry = (a & b) | ((a ^ b) & carry);
        more = (half >> d & 1) != 0 ? more & ones : more | ones;
      }
      majority.words[i] = more;
    }
    return majority;
  }

 private:
  struct Digit {
    HyperVector sum;
    HyperVector waiting;  // for another to be added with; there is one where this digit of added_ is 1
  };
  std::vector<Digit> digits_;
  uint64_t added_ = 0;
};

HyperVector PairVector(const TextWord& first, const TextWord& second) {
  return Codeword(kPairSeed, SplitMix64(first.hash) ^ second.hash);
}

}  // namespace

std::vector<HyperVector> SuffixVectors(std::span<const TextWord> words, size_t most) {
  std::vector<HyperVector> vectors;
  Tally tally;
  for (size_t n = 1; n <= std::min(most, words.size()); ++n) {
    const size_t i = words.size() - n;
    tally.Add(Codeword(kWordSeed, words[i].hash));
    if (n > 1) tally.Add(PairVector(words[i], words[i + 1]));
    vectors.push_back(tally.Majority());
  }
  return vectors;
}

HyperVector TextVector(std::string_view text) {
  const std::vector<TextWord> words = TextWords(text);
  if (words.empty()) return {};
  Tally tally;
  for (size_t i = 0; i < words.size(); ++i) {
    tally.Add(Codeword(kWordSeed, words[i].hash));
    if (i > 0) tally.Add(PairVector(words[i - 1], words[i]));
  }
  return tally.Majority();
}

}  // namespace omni
