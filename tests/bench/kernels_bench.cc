// Products from cache, per instruction set: packed bytes and weights a second, for one row of x and for
// eight.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "kernels/op.h"

namespace omni::kernels {
namespace {

// Storage that starts on a cache line, as the engine's does.
template <class T>
class Aligned {
 public:
  explicit Aligned(int64_t count)
      : size_(static_cast<size_t>(count)), data_(static_cast<T*>(::operator new(size_ * sizeof(T), kLine))) {
    std::uninitialized_fill_n(data_, size_, T{});
  }
  Aligned(const Aligned&) = delete;
  Aligned& operator=(const Aligned&) = delete;
  ~Aligned() { ::operator delete(data_, kLine); }
  T* data() { return data_; }
  size_t size() const { return size_; }
  T& operator[](size_t i) { return data_[i]; }

 private:
  static constexpr std::align_val_t kLine{64};
  size_t size_;
  T* data_;
};

struct Data {
  Data(int64_t rows, int64_t cols, int64_t bytes, int n)
      : rows(rows), cols(cols), n(n), weights(bytes), x(n * cols), y(n * (rows + 5)) {
    for (size_t i = 0; i < weights.size(); ++i) weights[i] = static_cast<uint8_t>(i * 97 % 243);
    for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<int8_t>(static_cast<int>(i * 31 % 255) - 127);
  }
  int64_t rows, cols;
  int n;
  Aligned<uint8_t> weights;
  Aligned<int8_t> x;
  Aligned<int32_t> y;
};

void Report(benchmark::State& state, Data& d) {
  const double runs = static_cast<double>(state.iterations());
  state.counters["packed"] = benchmark::Counter(runs * static_cast<double>(d.weights.size()),
                                                benchmark::Counter::kIsRate, benchmark::Counter::kIs1000);
  state.counters["weights"] = benchmark::Counter(runs * static_cast<double>(d.rows * d.cols * d.n),
                                                 benchmark::Counter::kIsRate, benchmark::Counter::kIs1000);
}

void Ternary(benchmark::State& state, const Ops* ops, int64_t rows, int64_t cols, int n) {
  const int64_t groups = (rows + 4) / 5, blocks = cols / 64;
  Data d(rows, cols, groups * blocks * 64, n);
  const TernaryMatrix m{d.weights.data(), nullptr, 64, blocks * 64, blocks, groups};
  for (auto _ : state) {
    ops->ternary(m, d.x.data(), cols, n, d.y.data(), rows + 5, 0, groups);
    benchmark::DoNotOptimize(d.y.data());
    benchmark::ClobberMemory();
  }
  Report(state, d);
}

void TwoBit(benchmark::State& state, const Ops* ops, int64_t rows, int64_t cols, int n) {
  const int64_t groups = rows / 4, blocks = cols / 64;
  Data d(rows, cols, groups * blocks * 64, n);
  const TwoBitMatrix m{d.weights.data(), blocks, groups};
  for (auto _ : state) {
    ops->two_bit(m, d.x.data(), cols, n, d.y.data(), rows + 5, 0, groups);
    benchmark::DoNotOptimize(d.y.data());
    benchmark::ClobberMemory();
  }
  Report(state, d);
}

void Int8(benchmark::State& state, const Ops* ops, int64_t rows, int64_t cols, int n) {
  Data d(rows, cols, rows * cols, n);
  const Int8Matrix m{reinterpret_cast<const int8_t*>(d.weights.data()), cols, cols, rows};
  for (auto _ : state) {
    ops->int8(m, d.x.data(), cols, n, d.y.data(), rows + 5, 0, rows);
    benchmark::DoNotOptimize(d.y.data());
    benchmark::ClobberMemory();
  }
  Report(state, d);
}

void PdrStep(benchmark::State& state, const Ops* ops, int64_t rows, int64_t r) {
  Aligned<float> S(rows * r), rank(r), out(rows);
  const std::vector<float> row(static_cast<size_t>(rows), 0.5f);
  std::fill_n(rank.data(), rank.size(), 0.1f);
  for (auto _ : state) {
    ops->pdr_step(S.data(), row.data(), row.data(), rank.data(), rank.data(), rows, r, out.data());
    benchmark::DoNotOptimize(out.data());
    benchmark::ClobberMemory();
  }
  state.counters["state"] = benchmark::Counter(
      static_cast<double>(state.iterations()) * static_cast<double>(S.size() * sizeof(float)),
      benchmark::Counter::kIsRate, benchmark::Counter::kIs1000);
}

void Attend(benchmark::State& state, const Ops* ops, int64_t h, int64_t len) {
  std::vector<uint16_t> k(static_cast<size_t>(h * len), 0x3800), v = k;
  std::vector<float> q(static_cast<size_t>(h), 0.1f), scratch(static_cast<size_t>(len + 16)), out = q;
  for (auto _ : state) {
    ops->attend(q.data(), k.data(), v.data(), h, len, 0.1f, scratch.data(), out.data());
    benchmark::DoNotOptimize(out.data());
    benchmark::ClobberMemory();
  }
}

void Register() {
  using Product = void (*)(benchmark::State&, const Ops*, int64_t, int64_t, int);
  const std::pair<const char*, Product> products[] = {
      {"ternary", Ternary}, {"two_bit", TwoBit}, {"int8", Int8}};
  for (Isa isa : kAllIsas) {
    const Ops* ops = OpsFor(isa);
    if (ops == nullptr) continue;
    const std::string end = std::string("/") + IsaName(isa);
    for (const auto& [name, product] : products) {
      for (int64_t cols : {256, 1024, 4096}) {
        for (int n : {1, 8}) {
          const std::string shape = "/320x" + std::to_string(cols) + "/rows:" + std::to_string(n);
          benchmark::RegisterBenchmark((name + shape + end).c_str(), product, ops, 320, cols, n);
        }
      }
    }
    benchmark::RegisterBenchmark(("pdr_step/512x64" + end).c_str(), PdrStep, ops, 512, 64);
    benchmark::RegisterBenchmark(("attend/h:64/len:512" + end).c_str(), Attend, ops, 64, 512);
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
