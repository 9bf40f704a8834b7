#include "engine/around/memory_banks.h"

#include <optional>

#include <gtest/gtest.h>

#include "engine/base/splitmix.h"

namespace omni {
namespace {

HyperVector Key(int64_t i) { return Codeword(11, static_cast<uint64_t>(i)); }
uint64_t Value(int64_t i) { return CounterRandom(13, static_cast<uint64_t>(i)); }

MemoryBanks Filled(int64_t items) {
  MemoryBanks memory;
  for (int64_t i = 0; i < items; ++i) memory.Add(Key(i), Value(i));
  return memory;
}

// The share of `asked` keys, spread over all, whose value comes back.
double Recall(const MemoryBanks& memory, int64_t items, int64_t asked, double flipped) {
  int64_t right = 0;
  for (int64_t i = 0; i < asked; ++i) {
    const int64_t item = i * (items / asked);
    const HyperVector key = Key(item);
    const std::optional<Recalled> got =
        memory.Ask(flipped > 0 ? WithFlippedBits(key, flipped, static_cast<uint64_t>(i)) : key);
    right += got.has_value() && got->value == Value(item);
  }
  return static_cast<double>(right) / static_cast<double>(asked);
}

TEST(MemoryBanks, RecallsTenThousandExactlyAndWithATenthOfTheBitsWrong) {
  const MemoryBanks memory = Filled(10'000);
  EXPECT_EQ(memory.items(), 10'000);
  EXPECT_EQ(memory.used_banks(), 2000);
  EXPECT_EQ(memory.fullest_bank(), 5);
  EXPECT_GE(Recall(memory, 10'000, 5000, 0), 0.999);
  EXPECT_GE(Recall(memory, 10'000, 5000, 0.1), 0.995);
}

TEST(MemoryBanks, RecallsAHundredThousand) {
  const MemoryBanks memory = Filled(100'000);
  EXPECT_GE(Recall(memory, 100'000, 4000, 0), 0.999);
  EXPECT_GE(Recall(memory, 100'000, 4000, 0.1), 0.995);
}

TEST(MemoryBanks, IsAsGoodAsTheoryHasIt) {
  // A small memory, so that it is filled beyond what it can hold.
  MemoryShape shape;
  shape.banks = 20;
  for (int64_t load : {50, 150, 400, 800}) {
    MemoryBanks memory(shape);
    const int64_t items = load * shape.banks;
    for (int64_t i = 0; i < items; ++i) memory.Add(Key(i), Value(i));
    EXPECT_NEAR(Recall(memory, items, 1000, 0), ExpectedRecall(static_cast<double>(load), 0, shape), 0.03)
        << load;
  }
  EXPECT_NEAR(ExpectedRecall(1, 0), 1, 1e-9);
  EXPECT_LT(ExpectedRecall(2000, 0), 0.2);
  EXPECT_LT(ExpectedRecall(50, 0.3), ExpectedRecall(50, 0.1));
}

TEST(MemoryBanks, AnUnknownKeyRecallsNothing) {
  const MemoryBanks memory = Filled(20'000);
  int64_t invented = 0;
  for (int64_t i = 0; i < 1000; ++i)
    invented += memory.Ask(Codeword(99, static_cast<uint64_t>(i))).has_value();
  EXPECT_LE(invented, 5);
  EXPECT_FALSE(MemoryBanks().Ask(Key(1)).has_value());
}

TEST(MemoryBanks, AKeysValueIsReplacedAndRemoved) {
  MemoryBanks memory = Filled(3000);
  memory.Add(Key(7), 4242);
  EXPECT_EQ(memory.items(), 3000);
  EXPECT_EQ(memory.Ask(Key(7))->value, 4242u);
  EXPECT_TRUE(memory.Remove(Key(8)));
  EXPECT_FALSE(memory.Remove(Key(8)));
  EXPECT_EQ(memory.items(), 2999);
  const std::optional<Recalled> gone = memory.Ask(Key(8));
  EXPECT_FALSE(gone.has_value() && gone->value == Value(8));
  EXPECT_EQ(memory.Ask(Key(9))->value, Value(9));
  EXPECT_EQ(memory.Ask(Key(2008))->value, Value(2008));  // of the same bank
  memory.Add(Key(8), Value(8));
  EXPECT_EQ(memory.Ask(Key(8))->value, Value(8));
}

}  // namespace
}  // namespace omni
