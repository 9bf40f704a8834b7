#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <nlohmann/json.hpp>

#include "cli/output.h"
#include "cli/terminal.h"
#include "cli/verb.h"
#include "engine/base/interrupt.h"
#include "engine/base/json.h"
#include "engine/base/threads.h"
#include "store/model/find_model.h"
#include "store/verify/verify.h"

namespace omni::cli {
namespace {

using Clock = std::chrono::steady_clock;

struct VerifyArgs {
  std::string model;
  int64_t threads = 0;
  bool json = false;
};

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double GigabytesPerSecond(int64_t bytes, double seconds) {
  return seconds > 0 ? static_cast<double>(bytes) / seconds / 1e9 : 0;
}

std::string StatusText(const std::string& path, int64_t bytes, int64_t total, double seconds) {
  const double share = total > 0 ? static_cast<double>(bytes) / static_cast<double>(total) : 1;
  std::string text = absl::StrFormat("verifying %s  %.1f %%  %.2f GB/s", path, 100 * share,
                                     GigabytesPerSecond(bytes, seconds));
  if (bytes > 0) absl::StrAppendFormat(&text, "  %.0f s left", seconds * (1 - share) / share);
  return text;
}

void PrintJson(const std::string& path, const VerifyReport& report, double seconds) {
  const nlohmann::json json = {{"model", path},
                               {"ok", report.defects.empty() && !report.stopped},
                               {"complete", !report.stopped},
                               {"files", report.files},
                               {"bytes", report.bytes},
                               {"tiles", report.tiles},
                               {"seconds", seconds},
                               {"gb_per_s", GigabytesPerSecond(report.bytes, seconds)},
                               {"defects", report.defects},
                               {"refused", report.refused}};
  PrintF("%s\n", JsonText(json, 2));
}

std::string Verdict(const VerifyReport& report) {
  if (report.stopped) return "interrupted";
  if (report.defects.empty()) return "intact";
  const bool damaged = static_cast<int64_t>(report.defects.size()) > report.refused;
  return damaged ? "damaged" : "not all of it could be read";
}

void PrintLine(const std::string& path, const VerifyReport& report, double seconds) {
  const size_t defects = report.defects.size();
  PrintF("%s: %s: %lld files, %s, %lld tiles, %.2f GB/s, %zu defect%s\n", path.c_str(),
         Verdict(report).c_str(), static_cast<long long>(report.files), HumanBytes(report.bytes).c_str(),
         static_cast<long long>(report.tiles), GigabytesPerSecond(report.bytes, seconds), defects,
         defects == 1 ? "" : "s");
}

absl::StatusOr<int> Verify(const VerifyArgs& args) {
  absl::StatusOr<std::string> path = FindModel(args.model);
  if (!path.ok()) return path.status();
  InterruptGuard guard;
  StatusLine status(StderrCanErase());
  const Clock::time_point start = Clock::now();
  VerifyOptions options;
  // While one thread waits for the disk another computes.
  options.threads = args.threads > 0 ? static_cast<int>(args.threads) : 2 * DefaultThreads();
  options.progress = [&](int64_t bytes, int64_t total) {
    status.Show(StatusText(*path, bytes, total, SecondsSince(start)));
    return !InterruptGuard::Requested();
  };
  absl::StatusOr<VerifyReport> report = VerifyModel(*path, options);
  if (!report.ok()) return report.status();
  const double seconds = SecondsSince(start);
  status.Clear();
  for (const std::string& defect : report->defects) {
    std::fprintf(stderr, "omni: %s\n", OneLine(defect).c_str());
  }
  if (args.json) {
    PrintJson(*path, *report, seconds);
  } else {
    PrintLine(*path, *report, seconds);
  }
  if (report->stopped) return kExitInterrupted;
  return report->defects.empty() ? kExitOk : kExitFailure;
}

}  // namespace

void AddVerify(CLI::App& root, Invocation& invocation) {
  Verb verb(root, invocation, "verify",
            "Check every byte of a packed model against its checksums, without loading it",
            "  omni verify\n"
            "  omni verify -m /data/large-model --threads 8\n"
            "  omni verify -m models/mini --json | jq .defects");
  auto args = std::make_shared<VerifyArgs>();
  verb.Model(args->model);
  verb.Number("-t,--threads", args->threads, {0, 1024},
              "Files read at a time; 0: two per core that this process may use (default)");
  verb.Json(args->json);
  verb.Body([args] { return Verify(*args); });
}

}  // namespace omni::cli
