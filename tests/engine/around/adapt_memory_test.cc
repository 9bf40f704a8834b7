// What learning takes of memory beside the adapter, counted at malloc.
#include <malloc.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string>

#include <gtest/gtest.h>

#include "engine/around/adapt_learn.h"
#include "engine/around/adapter_bytes.h"
#include "engine/around/text_memory.h"
#include "tests/testing/unsure_model.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define OMNI_OWN_MALLOC 0
#else
#define OMNI_OWN_MALLOC 1
#endif

namespace {

std::atomic<int64_t> in_use{0}, most_in_use{0};

#if OMNI_OWN_MALLOC
void Took(void* p) {
  if (p == nullptr) return;
  const int64_t now = in_use += static_cast<int64_t>(malloc_usable_size(p));
  int64_t most = most_in_use;
  while (now > most && !most_in_use.compare_exchange_weak(most, now)) {
  }
}
void Gives(void* p) {
  if (p != nullptr) in_use -= static_cast<int64_t>(malloc_usable_size(p));
}
#endif

}  // namespace

#if OMNI_OWN_MALLOC
extern "C" {
void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);
void __libc_free(void*);

void* malloc(size_t n) {
  void* const p = __libc_malloc(n);
  Took(p);
  return p;
}
void* calloc(size_t n, size_t size) {
  void* const p = __libc_calloc(n, size);
  Took(p);
  return p;
}
void* realloc(void* old, size_t n) {
  Gives(old);
  void* const p = __libc_realloc(old, n);
  Took(p);
  return p;
}
void* aligned_alloc(size_t alignment, size_t n) {
  void* const p = __libc_memalign(alignment, n);
  Took(p);
  return p;
}
void free(void* p) {
  Gives(p);
  __libc_free(p);
}
}
#endif

namespace omni {
namespace {

using testing::RepeatingText;
using testing::SingleBytes;
using testing::UnsureModel;

// The most that `work` had in use beside what was there before it.
template <typename Work>
int64_t MostOf(Work&& work) {
  const int64_t before = in_use;
  most_in_use = before;
  work();
  return most_in_use - before;
}

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
  if (OMNI_OWN_MALLOC == 0) GTEST_SKIP() << "malloc is the sanitizer's";
  ModelConfig config = testing::AddressConfig();
  config.vocab = 40'000;
  UnsureModel model(config, 3);
  WorkerPool pool(1);
  const Tokenizer tokenizer = SingleBytes();
  int64_t adapter_bytes[2], most[2], reported[2];
  for (bool large : {false, true}) {
    std::optional<Adapter> adapter;
    const AdapterParts parts = {large, true, large ? 256 : 0, AdaptLayers::kCores, false};
    adapter_bytes[large] = MostOf([&] { adapter.emplace(config, parts, ""); });
    absl::StatusOr<AdaptReport> report;
    most[large] = MostOf([&] {
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

// What is planned with is what there is.
TEST(AdaptMemory, WhatAnAdapterAndAScopeTakeIsWhatIsSaidOfThem) {
  if (OMNI_OWN_MALLOC == 0) GTEST_SKIP() << "malloc is the sanitizer's";
  ModelConfig config = testing::AddressConfig();
  config.vocab = 40'000;
  for (const AdapterParts& parts : {AdapterParts{true, true, 256, AdaptLayers::kCores, false},
                                    AdapterParts{true, true, 8, AdaptLayers::kLora, true}}) {
    const int64_t before = in_use;
    const ReadyAdapter adapter(config, Adapter(config, parts, ""));
    const int64_t took = in_use - before, said = AdapterBytes(adapter, config.d);
    EXPECT_GE(took, said);
    EXPECT_LE(took, said + said / 20 + 8192);
  }
  TextVector("what is made once for all");
  const int64_t before = in_use;
  TextMemory scope;
  EXPECT_NEAR(static_cast<double>(in_use - before), 8.4e6, 0.2e6);  // docs/memory.md
  EXPECT_LE(std::abs(in_use - before - scope.bytes()), scope.bytes() / 20);
  for (int i = 0; i < 20'000; ++i) {
    const std::string key = "key " + std::to_string(i);
    scope.Add(TextVector(key), key + ", and what was said of it at length");
  }
  std::printf("20 000 associations take %lld bytes\n", static_cast<long long>(in_use - before));
  EXPECT_LE(std::abs(in_use - before - scope.bytes()), scope.bytes() / 10);
}

}  // namespace
}  // namespace omni
