#include "engine/around/memory_vector.h"

#include <bit>
#include <cmath>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>

#include "engine/base/splitmix.h"
#include "tests/testing/random_model.h"

namespace omni {
namespace {

TEST(MemoryVector, CodewordsOfNeighbouringIdsAndSeedsAreUnrelated) {
  const HyperVector base = Codeword(1, 1000);
  EXPECT_EQ(base, Codeword(1, 1000));
  EXPECT_EQ(base.words.back() >> (kHyperBits % 64), 0u);
  double sum = 0;
  int pairs = 0;
  for (uint64_t id = 0; id < 64; ++id) {
    for (uint64_t seed : {1u, 2u, 3u}) {
      if (seed == 1 && 1000 + id == 1000) continue;
      const int64_t distance = Distance(base, Codeword(seed, 1000 + id));
      EXPECT_NEAR(static_cast<double>(distance), 5000, 6 * kHyperDeviation) << id << " " << seed;
      sum += static_cast<double>(distance);
      ++pairs;
    }
  }
  EXPECT_NEAR(sum / pairs, 5000, 5 * kHyperDeviation / std::sqrt(pairs));
  // Nor is one a shift of another: no word is seen twice.
  std::set<uint64_t> words;
  for (uint64_t id = 0; id < 200; ++id) {
    for (size_t i = 0; i + 1 < base.words.size(); ++i) words.insert(Codeword(7, id).words[i]);
  }
  EXPECT_EQ(words.size(), 200 * (base.words.size() - 1));
}

TEST(MemoryVector, BindingTwiceUndoesIt) {
  const HyperVector a = Codeword(1, 1), b = Codeword(1, 2), bound = Bind(a, b);
  EXPECT_EQ(Bind(bound, b), a);
  EXPECT_NEAR(static_cast<double>(Distance(bound, a)), 5000, 6 * kHyperDeviation);
}

TEST(MemoryVector, FlipsAsManyBitsAsItSays) {
  const HyperVector v = Codeword(1, 1);
  EXPECT_EQ(Distance(v, WithFlippedBits(v, 0.1, 3)), 1000);
  EXPECT_EQ(Distance(v, WithFlippedBits(v, 1, 3)), kHyperBits);
  EXPECT_NE(WithFlippedBits(v, 0.1, 3), WithFlippedBits(v, 0.1, 4));
}

TEST(MemoryVector, ABundleIsTheMajorityBitByBit) {
  std::vector<HyperVector> in;
  Bundle bundle;
  for (uint64_t i = 0; i < 7; ++i) {
    in.push_back(Codeword(1, i));
    bundle.Add(in.back());
    if (i % 2 == 1) continue;  // of an even number there may be no majority
    for (int64_t bit = 0; bit < kHyperBits; bit += 37) {
      size_t ones = 0;
      for (const HyperVector& v : in) ones += v.words[static_cast<size_t>(bit / 64)] >> (bit % 64) & 1;
      EXPECT_EQ(bundle.majority().words[static_cast<size_t>(bit / 64)] >> (bit % 64) & 1,
                ones * 2 > in.size());
    }
  }
  // What was added last is taken out first.
  const HyperVector three = [&] {
    Bundle of;
    for (size_t i = 0; i < 3; ++i) of.Add(in[i]);
    return of.majority();
  }();
  for (size_t i = 7; i-- > 3;) bundle.Remove(in[i]);
  EXPECT_EQ(bundle.majority(), three);
}

TEST(MemoryVector, LikeTextsHaveLikeVectors) {
  const HyperVector v = TextVector("Where is the key of the boat house?");
  EXPECT_EQ(v, TextVector("where is the KEY of the boat-house"));
  EXPECT_LT(Distance(v, TextVector("where is the key of the old boat house")), 2500);
  EXPECT_GT(Distance(v, TextVector("nobody saw a ship that day")), 4000);
  EXPECT_EQ(TextVector(" ?! "), HyperVector());
  // As often each word and each pair.
  EXPECT_EQ(TextVector("a b a c a"), TextVector("a c a b a"));
}

// Bit by bit, as the header says; with numbers of vectors on both sides of powers of two.
TEST(MemoryVector, ATextsVectorIsTheMajorityOfItsWordsAndPairs) {
  constexpr uint64_t kWord = 0x776f7264, kPair = 0x70616972;  // "word", "pair"
  std::string text;
  for (int i = 0; i < 1030; ++i) text += std::to_string(i * i % 97) + " ";
  const std::vector<TextWord> words = TextWords(text);
  ASSERT_EQ(words.size(), 1030u);
  const std::vector<HyperVector> suffixes = SuffixVectors(words, 40);
  ASSERT_EQ(suffixes.size(), 40u);
  std::vector<int> ones(kHyperBits);
  const auto add = [&](const HyperVector& v) {
    for (size_t bit = 0; bit < ones.size(); ++bit)
      ones[bit] += static_cast<int>(v.words[bit / 64] >> bit % 64 & 1);
  };
  const std::set<size_t> checked = {1, 2, 3, 4, 5, 8, 9, 16, 17, 33, 40, 64, 65, 512, 513, 1024, 1025, 1030};
  for (size_t n = 1; n <= words.size(); ++n) {
    const TextWord& word = words[words.size() - n];
    add(Codeword(kWord, word.hash));
    if (n > 1) add(Codeword(kPair, SplitMix64(word.hash) ^ words[words.size() - n + 1].hash));
    if (!checked.contains(n)) continue;
    HyperVector majority;
    for (size_t bit = 0; bit < ones.size(); ++bit)
      majority.words[bit / 64] |= uint64_t{2 * ones[bit] > static_cast<int>(2 * n - 1)} << bit % 64;
    EXPECT_EQ(TextVector(std::string_view(text).substr(word.begin)), majority) << n;
    if (n <= suffixes.size()) {
      EXPECT_EQ(suffixes[n - 1], majority) << n;
    }
  }
}

// More words and pairs than the counters of a bundle have room for.
TEST(MemoryVector, ATextOfTensOfThousandsOfWordsIsLikeThem) {
  std::string same, other;
  for (int i = 0; i < 32'000; ++i) {
    same += "a ";
    other += i % 4 == 0 ? "b " : "a ";
  }
  EXPECT_EQ(TextVector(same), TextVector("a"));
  EXPECT_LT(Distance(TextVector(other), TextVector("b a a a b a a a b a a a")), 1500);
}

}  // namespace
}  // namespace omni
