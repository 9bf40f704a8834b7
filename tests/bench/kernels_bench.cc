// Every product alone: instruction set, rows of x, from the cache or from memory, one thread and two; packed
// bytes and weights a second. Beside them the memory's own read speed, and the two float loops that a token
// spends time in.
#include <benchmark/benchmark.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/decode/worker_pool.h"
#include "kernels/op.h"
#include "tests/bench/machine_limits.h"
#include "tests/bench/product_fixture.h"

namespace omni::kernels {
namespace {

using bench::ProductFixture;

// The pool and the matrices of one number of threads; the last one used is kept.
ProductFixture& FixtureFor(int threads) {
  static int current = 0;
  static std::unique_ptr<WorkerPool> pool;
  static std::unique_ptr<ProductFixture> fixture;
  if (current != threads) {
    fixture.reset();
    pool = std::make_unique<WorkerPool>(threads);
    fixture = std::make_unique<ProductFixture>(*pool);
    current = threads;
  }
  return *fixture;
}

benchmark::Counter Rate(double amount) {
  return {amount, benchmark::Counter::kIsIterationInvariantRate, benchmark::Counter::kIs1000};
}

struct Product {
  const char* name;
  void (ProductFixture::*run)(const Ops&, int64_t, int);
  int64_t bytes, weights;
};
constexpr Product kProducts[] = {
    {"ternary", &ProductFixture::Ternary, ProductFixture::kTernaryBytes,
     ProductFixture::kRows* ProductFixture::kCols},
    {"ternary_tiles", &ProductFixture::Down, ProductFixture::kDownBytes,
     ProductFixture::kRows* ProductFixture::kDownCols},
    {"two_bit", &ProductFixture::TwoBit, ProductFixture::kTwoBitBytes,
     ProductFixture::kRows* ProductFixture::kCols},
    {"int8", &ProductFixture::Int8, ProductFixture::kInt8Bytes, ProductFixture::kRows* ProductFixture::kCols},
};

void RunProduct(benchmark::State& state, const Product& product, const Ops& ops, int inputs, bool from_memory,
                int threads) {
  ProductFixture& fixture = FixtureFor(threads);
  (fixture.*product.run)(ops, 0, inputs);
  int64_t i = 0;
  for (auto _ : state) (fixture.*product.run)(ops, from_memory ? ++i : 0, inputs);
  state.counters["packed"] = Rate(static_cast<double>(product.bytes));
  state.counters["weights"] = Rate(static_cast<double>(product.weights * inputs));
}

void ReadMemory(benchmark::State& state, int threads) {
  ProductFixture& fixture = FixtureFor(threads);
  for (auto _ : state) {
    state.SetIterationTime(static_cast<double>(ProductFixture::kBytes) /
                           bench::ReadBandwidth(fixture.data(), ProductFixture::kBytes, threads));
  }
  state.counters["packed"] = Rate(static_cast<double>(ProductFixture::kBytes));
}

void PdrStep(benchmark::State& state, const Ops& ops) {
  constexpr int64_t kRows = 4096, kRank = 256;
  bench::HugeBuffer memory(static_cast<size_t>(kRows * kRank) * 4);
  auto* S = reinterpret_cast<float*>(memory.data());
  std::vector<float> row(kRows, 0.5f), rank(kRank, 0.1f), out(kRows);
  for (auto _ : state) {
    ops.pdr_step(S, row.data(), row.data(), rank.data(), rank.data(), kRows, kRank, out.data());
    benchmark::DoNotOptimize(out.data());
    benchmark::ClobberMemory();
  }
  state.counters["state"] = Rate(static_cast<double>(memory.size()));
}

void Attend(benchmark::State& state, const Ops& ops) {
  constexpr int64_t kHead = 128, kSeen = 512;
  std::vector<uint16_t> k(kHead * kSeen, 0x3800), v = k;
  std::vector<float> q(kHead, 0.1f), scratch(kSeen + 16), out = q;
  for (auto _ : state) {
    ops.attend(q.data(), k.data(), v.data(), kHead, kSeen, 0.1f, scratch.data(), out.data());
    benchmark::DoNotOptimize(out.data());
    benchmark::ClobberMemory();
  }
}

void Register() {
  for (int threads : {1, 2}) {
    const std::string with = "/threads:" + std::to_string(threads);
    benchmark::RegisterBenchmark(("read" + with).c_str(), [=](benchmark::State& state) {
      ReadMemory(state, threads);
    })->UseManualTime();
    for (const Product& product : kProducts) {
      for (Isa isa : kAllIsas) {
        const Ops* ops = OpsFor(isa);
        if (ops == nullptr || isa == Isa::kScalar) continue;
        for (int inputs : {1, 8, 64}) {
          for (bool from_memory : {false, true}) {
            const std::string name = std::string(product.name) + "/" + IsaName(isa) +
                                     "/rows:" + std::to_string(inputs) +
                                     (from_memory ? "/memory" : "/cache") + with;
            benchmark::RegisterBenchmark(name.c_str(), [=, &product](benchmark::State& state) {
              RunProduct(state, product, *ops, inputs, from_memory, threads);
            })->UseRealTime();
          }
        }
      }
    }
  }
  for (Isa isa : kAllIsas) {
    const Ops* ops = OpsFor(isa);
    if (ops == nullptr) continue;
    const std::string end = std::string("/") + IsaName(isa);
    benchmark::RegisterBenchmark(("pdr_step/4096x256" + end).c_str(), PdrStep, *ops);
    benchmark::RegisterBenchmark(("attend/h:128/len:512" + end).c_str(), Attend, *ops);
  }
}

}  // namespace
}  // namespace omni::kernels

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  omni::kernels::Register();
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
