#include "engine/around/recall.h"

#include <atomic>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "engine/around/text_memory.h"

namespace omni {
namespace {

TextMemory Facts() {
  TextMemory memory;
  memory.Add(TextVector("the key of the boat house"), "under the third stone");
  memory.Add(TextVector("the captain's name"), "Ahab");
  return memory;
}

std::string RestOf(const TextMemory& memory, std::string_view text) {
  const std::optional<Recollection> got = Recall(memory, text);
  return got.has_value() ? got->rest : "(nothing)";
}

TEST(Recall, SaysHowATextGoesOnThatEndsWithAKey) {
  const TextMemory memory = Facts();
  EXPECT_EQ(RestOf(memory, "Where is the key of the boat house?"), " under the third stone");
  EXPECT_EQ(RestOf(memory, "Where is the key of the boat house? "), "under the third stone");
  EXPECT_EQ(RestOf(memory, "long ago\n\nThe Captain's NAME:\n"), "Ahab");
  const std::optional<Recollection> got = Recall(memory, "Where is the key of the boat house?");
  EXPECT_EQ(got->words, 6);
  EXPECT_EQ(got->begun, 0);
  EXPECT_EQ(got->votes, 64);
}

TEST(Recall, GoesOnWhereTheTextStandsInTheValue) {
  const TextMemory memory = Facts();
  EXPECT_EQ(RestOf(memory, "Where is the key of the boat house? under"), " the third stone");
  EXPECT_EQ(RestOf(memory, "Where is the key of the boat house? under "), "the third stone");
  EXPECT_EQ(RestOf(memory, "Where is the key of the boat house? under the thi"), "rd stone");
  EXPECT_EQ(Recall(memory, "the key of the boat house: under the")->begun, 9);
  // It has it all, and a full stop too.
  EXPECT_EQ(RestOf(memory, "Where is the key of the boat house? under the third stone"), "(nothing)");
  EXPECT_EQ(RestOf(memory, "Where is the key of the boat house? under the third stone. "), "(nothing)");
}

TEST(Recall, SaysNothingOfAnythingElse) {
  const TextMemory memory = Facts();
  for (const char* text : {"", " ", "?", "the", "The sea was calm that night, and nobody spoke of the boat",
                           "the third stone was under the house", "key house boat name"}) {
    EXPECT_EQ(RestOf(memory, text), "(nothing)") << text;
  }
  EXPECT_EQ(RestOf(TextMemory(), "the key of the boat house"), "(nothing)");
  // What goes on otherwise than the value is not put right.
  EXPECT_EQ(RestOf(memory, "the key of the boat house is not to be had by anybody"), "(nothing)");
}

TEST(Recall, OfTwoKeysTheLongerOneCounts) {
  TextMemory memory = Facts();
  memory.Add(TextVector("boat house"), "by the lake");
  EXPECT_EQ(RestOf(memory, "the key of the boat house"), " under the third stone");
  EXPECT_EQ(RestOf(memory, "He came to a boat house"), " by the lake");
}

TEST(Recall, ValuesOfAnyBytesAreCutWhereTheyAreLong) {
  TextMemory memory;
  memory.Add(TextVector("long"), std::string(5000, 'x'));
  memory.Add(TextVector("empty"), "");
  memory.Add(TextVector("bytes"), std::string("\0\xff\x80!", 4));
  EXPECT_EQ(RestOf(memory, "long "), std::string(kMostRestBytes, 'x'));
  EXPECT_EQ(RestOf(memory, "empty"), "(nothing)");
  EXPECT_EQ(RestOf(memory, "bytes "), std::string("\0\xff\x80!", 4));
}

TEST(TextMemory, WhatIsSharedStaysAsItIs) {
  TextMemory memory;
  for (int i = 0; i < 300; ++i)
    memory.Add(TextVector("key number " + std::to_string(i)), "value " + std::to_string(i));
  std::vector<std::shared_ptr<const TextMemory>> versions;
  for (int v = 0; v < 4; ++v) {
    versions.push_back(memory.Share());
    memory.Add(TextVector("key number 7"), "version " + std::to_string(v));
    memory.Add(TextVector("w" + std::to_string(v) + " x" + std::to_string(v)), "x");
  }
  for (int v = 0; v < 4; ++v) {
    EXPECT_EQ(versions[v]->Ask(TextVector("key number 7"))->value,
              v == 0 ? "value 7" : "version " + std::to_string(v - 1));
    EXPECT_EQ(versions[v]->banks().items(), 300 + v);
    EXPECT_FALSE(
        versions[v]->Ask(TextVector("w" + std::to_string(v) + " x" + std::to_string(v))).has_value());
    for (int i = 0; i < 300; i += 37) {
      if (i == 7) continue;
      EXPECT_EQ(versions[v]->Ask(TextVector("key number " + std::to_string(i)))->value,
                "value " + std::to_string(i));
    }
  }
  EXPECT_EQ(memory.Ask(TextVector("key number 7"))->value, "version 3");
  // And one that was filled so from the beginning says the same to the bit.
  TextMemory again;
  for (int i = 0; i < 300; ++i)
    again.Add(TextVector("key number " + std::to_string(i)), "value " + std::to_string(i));
  for (int v = 0; v < 4; ++v) {
    again.Add(TextVector("key number 7"), "version " + std::to_string(v));
    again.Add(TextVector("w" + std::to_string(v) + " x" + std::to_string(v)), "x");
  }
  const Remembered a = *memory.Ask(TextVector("key number 7")), b = *again.Ask(TextVector("key number 7"));
  EXPECT_EQ(a.how.distance, b.how.distance);
  EXPECT_EQ(a.how.margin, b.how.margin);
}

TEST(TextMemory, IsAskedByManyWhileItIsAddedTo) {
  TextMemory memory;
  for (int i = 0; i < 2500; ++i) memory.Add(TextVector("key " + std::to_string(i)), std::to_string(i));
  std::atomic<int> wrong{0};
  std::vector<std::thread> askers;
  for (int t = 0; t < 3; ++t) {
    askers.emplace_back([&wrong, held = memory.Share()] {
      for (int i = 0; i < 2500; i += 5)
        wrong += held->Ask(TextVector("key " + std::to_string(i)))->value != std::to_string(i);
    });
  }
  for (int i = 0; i < 2500; i += 3) memory.Add(TextVector("key " + std::to_string(i)), "other");
  for (std::thread& asker : askers) asker.join();
  EXPECT_EQ(wrong, 0);
}

}  // namespace
}  // namespace omni
