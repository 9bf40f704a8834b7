// What learning takes of memory beside the adapter, counted at malloc.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string>

#include <gtest/gtest.h>

#include "engine/around/adapt_learn.h"
#include "engine/around/adapter_bytes.h"
#include "engine/around/text_memory.h"
#include "tests/testing/malloc_count.h"
#include "tests/testing/unsure_model.h"

namespace omni {
namespace {

using testing::BytesInUse;
using testing::kCountsMalloc;
using testing::MostBytesOf;
using testing::RepeatingText;
using testing::SingleBytes;
using testing::UnsureModel;

AdaptSettings Quick() {
  AdaptSettings settings;
  settings.own_tokens = 64;
  settings.passes = 2;
  settings.budget = std::chrono::hours(1);
  settings.most_drift = 10;
  settings.directions = 4;
  return settings;
}

// The same batches beside a large adapter and one of a few hundred values: what the large one takes more is
// its own, and all else is the batch's.
TEST(AdaptMemory, GrowsByThreeTimesTheAdapterAtMost) {
  if (!kCountsMalloc) GTEST_SKIP() << "malloc is the sanitizer's";
  ModelConfig config = testing::AddressConfig();
  config.vocab = 40'000;
  UnsureModel model(config, 3);
  WorkerPool pool(1);
  const Tokenizer tokenizer = SingleBytes();
  int64_t adapter_bytes[2], most[2], reported[2];
  for (bool large : {false, true}) {
    std::optional<Adapter> adapter;
    const AdapterParts parts = {large, true, large ? 256 : 0, AdaptLayers::kCores, false};
    adapter_bytes[large] = MostBytesOf([&] { adapter.emplace(config, parts, ""); });
    absl::StatusOr<AdaptReport> report;
    most[large] = MostBytesOf([&] {
      report = LearnAdapter(model.weights(), model.experts(), tokenizer, pool, RepeatingText(400), Quick(),
                            *adapter);
    });
    ASSERT_TRUE(report.ok()) << report.status();
    ASSERT_TRUE(report->kept);
    reported[large] = report->extra_bytes;
    EXPECT_LE(report->extra_bytes, 3 * report->adapter_bytes);
  }
  const int64_t more = most[1] - most[0], adapter = adapter_bytes[1] - adapter_bytes[0];
  EXPECT_GT(adapter, 150'000);
  EXPECT_LE(more, 3 * adapter);
  EXPECT_GE(reported[1] - reported[0], more) << "the report says less than there is";
}

// What is planned for learning is what there is.
TEST(AdaptMemory, LearningTakesWhatIsSaidToBeTheMost) {
  if (!kCountsMalloc) GTEST_SKIP() << "malloc is the sanitizer's";
  ModelConfig words = testing::AddressConfig(), wide = *Preset("mini");
  words.vocab = 20'000;
  wide.vocab = 300;
  const Tokenizer tokenizer = SingleBytes();
  const std::string text = RepeatingText(400);
  for (const ModelConfig& config : {words, wide}) {
    UnsureModel model(config, 3);
    for (const AdapterParts& parts : {AdapterParts{}, AdapterParts{false, false, 0, AdaptLayers::kLora, true},
                                      AdapterParts{true, true, 16, AdaptLayers::kNone, false}}) {
      WorkerPool pool(2);
      AdaptSettings settings = Quick();
      settings.passes = 1;
      const int64_t took = MostBytesOf([&] {
        Adapter adapter(config, parts, "");
        const auto report =
            LearnAdapter(model.weights(), model.experts(), tokenizer, pool, text, settings, adapter);
        EXPECT_TRUE(report.ok()) << report.status();
      });
      const int64_t said = MostLearningBytes(config, parts, settings, std::ssize(text), 2);
      std::printf("%d wide, %d words, layers %d: takes %lld bytes, %lld are said\n", int(config.d),
                  int(config.vocab), int(parts.layers), static_cast<long long>(took),
                  static_cast<long long>(said));
      EXPECT_LE(took, said);
      EXPECT_GE(took, said / 2);
    }
  }
}

// What is planned with is what there is.
TEST(AdaptMemory, WhatAnAdapterAndAScopeTakeIsWhatIsSaidOfThem) {
  if (!kCountsMalloc) GTEST_SKIP() << "malloc is the sanitizer's";
  ModelConfig config = testing::AddressConfig();
  config.vocab = 40'000;
  for (const AdapterParts& parts : {AdapterParts{true, true, 256, AdaptLayers::kCores, false},
                                    AdapterParts{true, true, 8, AdaptLayers::kLora, true}}) {
    const int64_t before = BytesInUse();
    const ReadyAdapter adapter(config, Adapter(config, parts, ""));
    const int64_t took = BytesInUse() - before, said = AdapterBytes(adapter, config.d);
    EXPECT_GE(took, said);
    EXPECT_LE(took, said + said / 20 + 8192);
  }
  TextVector("what is made once for all");
  const int64_t before = BytesInUse();
  TextMemory scope;
  EXPECT_NEAR(static_cast<double>(BytesInUse() - before), 8.4e6, 0.2e6);  // docs/memory.md
  EXPECT_LE(std::abs(BytesInUse() - before - scope.bytes()), scope.bytes() / 20);
  for (int i = 0; i < 20'000; ++i) {
    const std::string key = "key " + std::to_string(i);
    scope.Add(TextVector(key), key + ", and what was said of it at length");
  }
  std::printf("20 000 associations take %lld bytes\n", static_cast<long long>(BytesInUse() - before));
  EXPECT_LE(std::abs(BytesInUse() - before - scope.bytes()), scope.bytes() / 10);
}

}  // namespace
}  // namespace omni
