// How close the products come to what the machine can do: shares of the memory's read speed and of the peak
// of the dot-product units, multiples of another program's speed. Everything is measured in turn, round after
// round, and a ratio is taken of figures of one round; what is printed is the median over the rounds.
//
//     kernel_ratios [--json] [--rounds N] [--threads N] [--peer COMMAND] [--token COMMAND]
//
// The peer's COMMAND prints llama.cpp's `test-backend-ops perf` lines for MUL_MAT with m = 4096, n = 1, k =
// 14336; the token's prints a JSON object, whose members join the result (token_bench --json).
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

#include "engine/decode/worker_pool.h"
#include "kernels/op.h"
#include "tests/bench/machine_limits.h"
#include "tests/bench/product_fixture.h"

namespace omni::kernels {
namespace {

using Clock = std::chrono::steady_clock;
constexpr double kGiga = 1e9;
using bench::ProductFixture;

double Seconds(Clock::time_point from) { return std::chrono::duration<double>(Clock::now() - from).count(); }

double Median(std::vector<double> values) {
  if (values.empty()) return NAN;
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  return n % 2 ? values[n / 2] : 0.5 * (values[n / 2 - 1] + values[n / 2]);
}

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
double ContentionLoss(ProductFixture& fixture, const Ops& ops, int threads) {
  const auto run = [&](ProductFixture& f) { return PerCall(0.4, [&](int64_t i) { f.Ternary(ops, i, 1); }); };
  const double alone = run(fixture);
  int ready[2];
  if (pipe(ready) != 0) return NAN;
  const pid_t child = fork();
  if (child == 0) {
    WorkerPool own_pool(threads);
    ProductFixture own(own_pool);
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

void Round(ProductFixture& fixture, const Ops& ops, int threads, const std::string& peer, Report& report) {
  constexpr double kBudget = 0.3;
  const double weights = static_cast<double>(ProductFixture::kRows * ProductFixture::kCols);
  const auto share = [&](double bytes, double seconds) {
    return bytes / seconds / bench::ReadBandwidth(fixture.data(), ProductFixture::kBytes, threads);
  };
  // From memory, beside the roof.
  report.Add("read_gb_s", bench::ReadBandwidth(fixture.data(), ProductFixture::kBytes, threads) / kGiga);
  const double ternary = PerCall(kBudget, [&](int64_t i) { fixture.Ternary(ops, i, 1); });
  report.Add("ternary_mem_share", share(static_cast<double>(ProductFixture::kTernaryBytes), ternary));
  const double two_bit = PerCall(kBudget, [&](int64_t i) { fixture.TwoBit(ops, i, 1); });
  report.Add("twobit_mem_share", share(static_cast<double>(ProductFixture::kTwoBitBytes), two_bit));
  const double down = PerCall(kBudget, [&](int64_t i) { fixture.Down(ops, i, 1); });
  report.Add("down_mem_share", share(static_cast<double>(ProductFixture::kDownBytes), down));
  // From the cache.
  report.Add("cache_read_gb_s",
             bench::ReadBandwidth(fixture.data(), ProductFixture::kTernaryBytes, threads) / kGiga);
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
  // Many rows, beside the peak of the dot-product instructions; where AMX takes them, those instructions' own
  // way too.
  const auto many = [&](const Ops& set, const std::string& suffix) {
    const double eight = PerCall(kBudget, [&](int64_t) { fixture.Ternary(set, 0, 8); });
    const double peak = bench::DotPeak(set.isa, threads);  // multiply-adds a second
    report.Add("int8_peak_gmacs_s", peak / kGiga);
    report.Add("rows8_cost" + suffix, eight / std::max(cached, 8 * weights / peak));
    const double all =
        PerCall(kBudget, [&](int64_t) { fixture.Ternary(set, 0, ProductFixture::kMaxInputs); });
    report.Add("rows64_peak_share" + suffix, static_cast<double>(ProductFixture::kMaxInputs) * weights / all /
                                                 bench::DotPeak(set.isa, threads));
  };
  many(ops, "");
  if (const Ops* vectors = OpsFor(Isa::kAvx512Vbmi); ops.isa == Isa::kAmx && vectors)
    many(*vectors, "_avx512vbmi");
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
  auto fixture = std::make_unique<ProductFixture>(pool);
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
      "avxvnni_vs_tq1_0",  "contention_loss",        "token_roofline_share",
      "token_tok_per_s"};
  nlohmann::json out = report.Json(keys);
  if (!token.empty()) {
    fixture.reset();  // the token's weights take most of the memory
    const nlohmann::json joined = nlohmann::json::parse(OutputOf(token), nullptr, false);
    if (joined.is_object()) {
      out.update(joined);
    } else {
      std::fprintf(stderr, "kernel_ratios: '%s' printed no JSON object\n", token.c_str());
    }
  }
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
