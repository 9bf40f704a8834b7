// How close the products come to what the machine can do: shares of the memory's read speed and of the peak of the dot-product
// units, multiples of another program's speed. Everything is measured in turn, round after round, and a ratio is taken of
// figures of one round; what is printed is the median over the rounds.
//
//     kernel_ratios [--json] [--rounds N] [--threads N] [--peer COMMAND] [--token COMMAND]
//
// The peer's COMMAND prints llama.cpp's `test-backend-ops perf` lines for MUL_MAT with m = 4096, n = 1, k = 14336; the
// token's prints a JSON object, whose members join the result (token_bench --json).
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "engine/worker_pool.h"
#include "kernels/op.h"
#include "tests/bench/machine_limits.h"

namespace omni::kernels {
namespace {

using Clock = std::chrono::steady_clock;
constexpr double kGiga = 1e9;
constexpr int64_t kRows = 4096, kCols = 14336;  // the peer's shape
constexpr int64_t kDownCols = 11008;  // a full-size expert's second product, its columns in 172 tiles
constexpr int64_t kRotated = int64_t{320}
                             << 20;  // bytes of matrices that are visited in turn: far more than any cache
constexpr int64_t kMaxBatch = 64;

double Seconds(Clock::time_point from) { return std::chrono::duration<double>(Clock::now() - from).count(); }

double Median(std::vector<double> values) {
  if (values.empty()) return NAN;
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  return n % 2 ? values[n / 2] : 0.5 * (values[n / 2 - 1] + values[n / 2]);
}

// Packed matrices of one kind that fill kRotated bytes, and rows of x.
class Fixture {
 public:
  explicit Fixture(WorkerPool& pool) : pool_(pool), memory_(static_cast<size_t>(kRotated)) {
    uint64_t state = 1;
    for (size_t i = 0; i < memory_.size(); ++i) {
      state = state * 6364136223846793005ULL + 1442695040888963407ULL;
      memory_.data()[i] =
          static_cast<uint8_t>((state >> 40) % 243);  // a valid ternary byte, and any two-bit one
    }
    x_.resize(static_cast<size_t>(kMaxBatch * kCols));
    for (size_t i = 0; i < x_.size(); ++i) x_[i] = static_cast<int8_t>(static_cast<int>(i * 31 % 255) - 127);
    y_.resize(static_cast<size_t>(kMaxBatch * (kRows + 5)));
  }

  int64_t TernaryBytes() const { return (kRows + 4) / 5 * kCols; }
  int64_t TwoBitBytes() const { return kRows / 4 * kCols; }
  int64_t DownBytes() const { return (kRows + 4) / 5 * kDownCols; }

  // Each call computes one matrix, number i of those that fit (0 always: it stays in the cache).
  void Ternary(const Ops& ops, int64_t i, int n) {
    const int64_t groups = (kRows + 4) / 5;
    const TernaryMatrix m{At(i, TernaryBytes()), nullptr, 64, kCols, kCols / 64, groups};
    pool_.Run(groups, 1,
              [&](int64_t b, int64_t e) { ops.ternary(m, x_.data(), kCols, n, y_.data(), kRows + 5, b, e); });
  }
  void TwoBit(const Ops& ops, int64_t i, int n) {
    const TwoBitMatrix m{At(i, TwoBitBytes()), kCols / 64, kRows / 4};
    pool_.Run(kRows / 4, 1,
              [&](int64_t b, int64_t e) { ops.two_bit(m, x_.data(), kCols, n, y_.data(), kRows + 5, b, e); });
  }
  // Tiles as on disk: the down part of a tile is a column of 64-byte blocks.
  void Down(const Ops& ops, int64_t i) {
    const int64_t groups = (kRows + 4) / 5, tiles = kDownCols / 64;
    table_.resize(static_cast<size_t>(tiles));
    for (int64_t c = 0; c < tiles; ++c) table_[static_cast<size_t>(c)] = At(i, DownBytes()) + c * groups * 64;
    const TernaryMatrix m{nullptr, table_.data(), 64, 64, tiles, groups};
    pool_.Run(groups, (groups + pool_.threads() - 1) / pool_.threads(),  // as the engine does
              [&](int64_t b, int64_t e) { ops.ternary(m, x_.data(), kCols, 1, y_.data(), kRows + 5, b, e); });
  }
  const uint8_t* data() const { return memory_.data(); }

 private:
  const uint8_t* At(int64_t i, int64_t bytes) const {
    const int64_t count = kRotated / bytes;
    return memory_.data() + i % count * bytes;
  }
  WorkerPool& pool_;
  bench::HugeBuffer memory_;
  std::vector<int8_t> x_;
  std::vector<int32_t> y_;
  std::vector<const uint8_t*> table_;
};

// Seconds of one call, over about `budget` seconds of calls.
double PerCall(double budget, const std::function<void(int64_t)>& call) {
  call(0);
  int64_t calls = 0;
  const auto start = Clock::now();
  do {
    for (int64_t i = 0; i < 4; ++i) call(++calls);
  } while (Seconds(start) < budget);
  return Seconds(start) / static_cast<double>(calls);
}

std::string OutputOf(const std::string& command) {
  std::string text;
  FILE* out = popen((command + " 2>/dev/null").c_str(), "r");
  if (out == nullptr) return text;
  char piece[4096];
  while (const size_t n = std::fread(piece, 1, sizeof piece, out)) text.append(piece, n);
  pclose(out);
  return text;
}

// Microseconds a product takes in the peer, by type; empty if it cannot be run.
std::map<std::string, double> RunPeer(const std::string& command) {
  std::map<std::string, double> micros;
  std::istringstream lines(OutputOf(command));
  for (std::string line; std::getline(lines, line);) {
    const size_t type = line.find("type_a="), per = line.find("us/run");
    if (type == std::string::npos || per == std::string::npos) continue;
    const size_t end = line.find(',', type), last = line.find_last_of("0123456789", per);
    const size_t first = line.find_last_not_of("0123456789.", last);
    micros[line.substr(type + 7, end - type - 7)] = std::strtod(line.c_str() + first + 1, nullptr);
  }
  return micros;
}

// Share of its speed that a run of ternary products loses while an equal one works beside it.
double ContentionLoss(Fixture& fixture, const Ops& ops, int threads) {
  const auto run = [&](Fixture& f) { return PerCall(0.4, [&](int64_t i) { f.Ternary(ops, i, 1); }); };
  const double alone = run(fixture);
  int ready[2];
  if (pipe(ready) != 0) return NAN;
  const pid_t child = fork();
  if (child == 0) {
    WorkerPool own_pool(threads);
    Fixture own(own_pool);
    if (write(ready[1], "r", 1) != 1) _exit(1);
    run(own);
    run(own);
    run(own);
    _exit(0);
  }
  char byte;
  double together = NAN;
  if (child > 0 && read(ready[0], &byte, 1) == 1) together = run(fixture);
  close(ready[0]);
  close(ready[1]);
  if (child > 0) waitpid(child, nullptr, 0);
  return 1 - alone / together;
}

class Report {
 public:
  void Add(const std::string& key, double value) { values_[key].push_back(value); }
  std::optional<double> Get(const std::string& key) const {
    const auto it = values_.find(key);
    if (it == values_.end()) return std::nullopt;
    const double median = Median(it->second);
    return std::isfinite(median) ? std::optional(median) : std::nullopt;
  }
  nlohmann::json Json(const std::vector<std::string>& keys) const {
    nlohmann::json json = nlohmann::json::object();
    for (const auto& [key, values] : values_) json[key] = Median(values);
    for (const std::string& key : keys) {
      if (!Get(key)) json[key] = nullptr;
    }
    return json;
  }

 private:
  std::map<std::string, std::vector<double>> values_;
};

void Round(Fixture& fixture, const Ops& ops, int threads, const std::string& peer, Report& report) {
  constexpr double kBudget = 0.3;
  const double weights = static_cast<double>(kRows * kCols);
  const auto share = [&](double bytes, double seconds) {
    return bytes / seconds / bench::ReadBandwidth(fixture.data(), kRotated, threads);
  };
  // From memory, beside the roof.
  report.Add("read_gb_s", bench::ReadBandwidth(fixture.data(), kRotated, threads) / kGiga);
  const double ternary = PerCall(kBudget, [&](int64_t i) { fixture.Ternary(ops, i, 1); });
  report.Add("ternary_mem_share", share(static_cast<double>(fixture.TernaryBytes()), ternary));
  const double two_bit = PerCall(kBudget, [&](int64_t i) { fixture.TwoBit(ops, i, 1); });
  report.Add("twobit_mem_share", share(static_cast<double>(fixture.TwoBitBytes()), two_bit));
  const double down = PerCall(kBudget, [&](int64_t i) { fixture.Down(ops, i); });
  report.Add("down_mem_share", share(static_cast<double>(fixture.DownBytes()), down));
  // From the cache.
  report.Add("cache_read_gb_s",
             bench::ReadBandwidth(fixture.data(), fixture.TernaryBytes(), threads) / kGiga);
  const double cached = PerCall(kBudget, [&](int64_t) { fixture.Ternary(ops, 0, 1); });
  const double cached_two_bit = PerCall(kBudget, [&](int64_t) { fixture.TwoBit(ops, 0, 1); });
  report.Add("ternary_cache_gweights_s", weights / cached / kGiga);
  report.Add("twobit_cache_gweights_s", weights / cached_two_bit / kGiga);
  std::map<Isa, double> narrow;
  for (Isa isa : {Isa::kAvx2, Isa::kAvxVnni, Isa::kAvx512, Isa::kAvx512Vnni}) {
    const Ops* other = OpsFor(isa);
    if (other == nullptr) continue;
    narrow[isa] = PerCall(kBudget, [&](int64_t) { fixture.Ternary(*other, 0, 1); });
    report.Add(std::string("ternary_cache_gweights_s_") + IsaName(isa), weights / narrow[isa] / kGiga);
  }
  // Many rows, beside the peak.
  const double eight = PerCall(kBudget, [&](int64_t) { fixture.Ternary(ops, 0, 8); });
  const double peak = bench::DotPeak(ops.isa, threads);  // multiply-adds a second
  report.Add("int8_peak_gmacs_s", peak / kGiga);
  report.Add("rows8_cost", eight / std::max(cached, 8 * weights / peak));
  const double all = PerCall(kBudget, [&](int64_t) { fixture.Ternary(ops, 0, static_cast<int>(kMaxBatch)); });
  report.Add("rows64_peak_share",
             static_cast<double>(kMaxBatch) * weights / all / bench::DotPeak(ops.isa, threads));
  if (peer.empty()) return;
  const std::map<std::string, double> micros = RunPeer(peer);
  const auto against = [&](const char* key, const char* type, double seconds) {
    const auto it = micros.find(type);
    if (it != micros.end() && seconds > 0) report.Add(key, it->second * 1e-6 / seconds);
  };
  against("ternary_cache_vs_tq2_0", "tq2_0", cached);
  against("ternary_cache_vs_tq1_0", "tq1_0", cached);
  against("twobit_cache_vs_q2_k", "q2_K", cached_two_bit);
  against("avx2_vs_tq1_0", "tq1_0", narrow[Isa::kAvx2]);
  against("avxvnni_vs_tq1_0", "tq1_0", narrow[Isa::kAvxVnni]);
  for (const auto& [type, us] : micros) report.Add("peer_" + type + "_us", us);
}

int Main(int argc, char** argv) {
  CLI::App app("Products beside the machine's limits and another program", "kernel_ratios");
  bool json = false;
  int rounds = 5, threads = 2;
  std::string peer, token;
  app.add_flag("--json", json, "One JSON object");
  app.add_option("--rounds", rounds)->check(CLI::Range(1, 1000));
  app.add_option("--threads", threads)->check(CLI::Range(1, 1024));
  app.add_option("--peer", peer, "Command that prints llama.cpp's figures");
  app.add_option("--token", token, "Command that prints a JSON object to join the result");
  CLI11_PARSE(app, argc, argv);
  WorkerPool pool(threads);
  auto fixture = std::make_unique<Fixture>(pool);
  const Ops& ops = ActiveOps();
  Report report;
  for (int i = 0; i < rounds; ++i) {
    Round(*fixture, ops, threads, peer, report);
    report.Add("contention_loss", ContentionLoss(*fixture, ops, threads));
  }
  const std::vector<std::string> keys = {
      "ternary_mem_share", "ternary_cache_vs_tq2_0", "ternary_cache_vs_tq1_0",
      "twobit_mem_share",  "twobit_cache_vs_q2_k",   "rows8_cost",
      "rows64_peak_share", "down_mem_share",         "avx2_vs_tq1_0",
      "avxvnni_vs_tq1_0",  "contention_loss"};
  nlohmann::json out = report.Json(keys);
  out["isa"] = IsaName(ops.isa);
  out["threads"] = threads;
  out["rounds"] = rounds;
  if (json) {
    std::printf("%s\n", out.dump().c_str());
  } else {
    for (const auto& [key, value] : out.items()) std::printf("%-34s %s\n", key.c_str(), value.dump().c_str());
  }
  return 0;
}

}  // namespace
}  // namespace omni::kernels

int main(int argc, char** argv) { return omni::kernels::Main(argc, argv); }
