// What a GPU gives, beside the CPU of the same machine, and what it reaches of its own memory's and its
// link's speed: one JSON object on stdout. scripts/device_check packs this program for a machine without the
// project's libraries.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include <absl/strings/str_cat.h>

#include "engine/decode/cpu_decoder.h"
#include "engine/decode/device_decoder.h"
#include "tests/bench/device_limits.h"
#include "tests/bench/flat_model.h"

namespace omni {
namespace {

// The logits of the model's tokens by the device against the CPU's: token by token, and in blocks of 64.
absl::StatusOr<Figures> CompareLogits(FlatModel& model, size_t tokens) {
  const ModelConfig& config = model.weights().config;
  const auto vocab = static_cast<size_t>(config.vocab);
  WorkerPool pool(1);
  CpuDecoder cpu(model.weights(), pool);
  DeviceSettings settings;
  const auto device = DeviceDecoder::Create(model.weights(), &model, settings);
  if (!device.ok()) return device.status();
  double steps = 0, blocks = 0, same = 0, greedy = 0;
  for (const size_t block : {size_t{1}, size_t{64}}) {
    SessionState here(config), there(config);
    for (size_t at = 0; at < tokens; at += block) {
      std::vector<BatchRow> rows, device_rows;
      for (size_t i = at; i < std::min(at + block, tokens); ++i) {
        rows.push_back({&here, model.tokens()[i], true});
        device_rows.push_back({&there, model.tokens()[i], true});
      }
      const auto want = RunBatch(cpu, config, model, pool, rows);
      const auto got = RunBatch(**device, config, model, pool, device_rows);
      if (!want.ok()) return want.status();
      if (!got.ok()) return got.status();
      for (size_t row = 0; row < rows.size(); ++row) {
        const auto a = want->subspan(row * vocab, vocab), b = got->subspan(row * vocab, vocab);
        double largest = 0, difference = 0;
        for (size_t i = 0; i < vocab; ++i) {
          largest = std::max(largest, std::fabs(static_cast<double>(a[i])));
          const double apart = std::fabs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
          difference = apart <= difference ? difference : apart;  // NaN stays
        }
        double& worst = block == 1 ? steps : blocks;
        worst = difference / largest <= worst ? worst : difference / largest;
        if (block != 1) continue;
        same += std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
        greedy += std::max_element(a.begin(), a.end()) - a.begin() ==
                  std::max_element(b.begin(), b.end()) - b.begin();
      }
    }
  }
  return Figures{{"logits_tokens", static_cast<double>(tokens)},
                 {"logits_relative_error", steps},
                 {"logits_relative_error_in_blocks", blocks},
                 {"logits_rows_of_the_same_bytes", same},
                 {"logits_rows_of_the_same_choice", greedy}};
}

class Report {
 public:
  void Add(const std::string& name, const std::string& value) {
    absl::StrAppend(&text_, text_.empty() ? "{" : ", ", "\"", name, "\": ", value);
  }
  void Add(const char* part, const absl::StatusOr<Figures>& figures) {
    if (!figures.ok()) {
      ok_ = false;
      std::string message(figures.status().message());
      std::replace(message.begin(), message.end(), '"', '\'');
      Add(absl::StrCat(part, "_error"), absl::StrCat("\"", message, "\""));
      return;
    }
    for (const auto& [name, value] : *figures) {
      char number[64];
      std::snprintf(number, sizeof(number), std::isfinite(value) ? "%.6g" : "null", value);
      Add(name, number);
    }
  }
  std::string Text() const { return text_ + "}"; }
  bool ok() const { return ok_; }

 private:
  std::string text_;
  bool ok_ = true;
};

int Run(const std::string& path, bool small) {
  Report report;
  kernels::device::Properties properties;
  kernels::device::Failure failure = kernels::device::Use(0);
  if (failure.code == 0) failure = kernels::device::Describe(0, &properties);
  if (failure) {
    std::printf("{\"error\": \"%s\"}\n", kernels::device::FailureText(failure));
    return 1;
  }
  report.Add("device", absl::StrCat("\"", properties.name, "\""));
  report.Add("compute_capability", absl::StrCat("\"", properties.major, ".", properties.minor, "\""));
  const absl::StatusOr<std::unique_ptr<FlatModel>> model = FlatModel::Read(path);
  report.Add("logits", model.ok() ? CompareLogits(**model, small ? 8 : 512) : model.status());
  std::fprintf(stderr, "%s\n", report.Text().c_str());
  const absl::StatusOr<Figures> limits = MeasureLimits(small ? 1 << 20 : int64_t{1} << 30);
  report.Add("limits", limits);
  if (limits.ok()) {
    const double copy = (*limits)[0].second, in = (*limits)[1].second;
    report.Add("products", small ? MeasureProducts(64, 16, 128, 512, 2, copy)
                                 : MeasureProducts(4096, 256, 11008, 32768, 12, copy));
    std::fprintf(stderr, "%s\n", report.Text().c_str());
    report.Add("tokens", MeasureTokens(small ? "tiny" : "perspective-1t", small ? 3 : 20, int64_t{2684} << 20,
                                       copy, in));
  }
  std::printf("%s\n", report.Text().c_str());
  return report.ok() ? 0 : 1;
}

int TokensForProfiler() {
  if (kernels::device::Use(0)) return 1;
  Report report;
  report.Add("tokens", MeasureTokens("perspective-1t", 1, int64_t{2684} << 20, 1, 1));
  std::printf("%s\n", report.Text().c_str());
  return report.ok() ? 0 : 1;
}

}  // namespace
}  // namespace omni

int main(int argc, char** argv) {
  if (argc == 2 && std::strcmp(argv[1], "--tokens") == 0) return omni::TokensForProfiler();
  const bool small = argc == 3 && std::strcmp(argv[2], "--small") == 0;
  if (argc != 2 && !small) {
    std::fprintf(stderr,
                 "usage: device_check MODEL.flat [--small]\n"
                 "       device_check --tokens   one token each way, to be looked at by a profiler\n");
    return 2;
  }
  return omni::Run(argv[1], small);
}
