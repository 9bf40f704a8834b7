#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <nlohmann/json.hpp>

#include "cli/cluster_flags.h"
#include "cli/output.h"
#include "cli/terminal.h"
#include "cli/verb.h"
#include "cluster/node_credentials.h"
#include "cluster/tile_repair.h"
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
  std::vector<std::string> repair_from;  // HOST:PORT
  std::string certificates;
  bool allow_plain = false, json = false;
  GivenFlags of_repair;
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

// What --repair did.
nlohmann::json RepairJson(const RepairReport& repaired) {
  return {{"files", repaired.files}, {"tiles", repaired.tiles}};
}

void PrintJson(const std::string& path, const VerifyReport& report,
               const std::optional<RepairReport>& repaired, double seconds) {
  nlohmann::json json = {{"model", path},
                         {"ok", report.defects.empty() && !report.stopped},
                         {"complete", !report.stopped},
                         {"files", report.files},
                         {"bytes", report.bytes},
                         {"tiles", report.tiles},
                         {"seconds", seconds},
                         {"gb_per_s", GigabytesPerSecond(report.bytes, seconds)},
                         {"defects", report.defects},
                         {"refused", report.refused}};
  if (repaired.has_value()) json["repaired"] = RepairJson(*repaired);
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

absl::StatusOr<RepairReport> Repair(const VerifyArgs& args, const std::string& path, StatusLine& status) {
  absl::StatusOr<std::unique_ptr<NodeCredentials>> credentials =
      NodeCredentials::Make(args.certificates, args.repair_from, args.allow_plain);
  if (!credentials.ok()) return credentials.status();
  FillOptions options;
  options.peers = args.repair_from;
  options.credentials = (*credentials)->channel();
  std::stop_source stop;
  options.stop = stop.get_token();
  options.progress = [&](const FillProgress& progress) {
    status.Show(absl::StrCat("repairing ", path, "  ", HumanBytes(progress.bytes), " of ",
                             HumanBytes(progress.bytes_wanted)));
    if (InterruptGuard::Requested()) stop.request_stop();
  };
  const Clock::time_point start = Clock::now();
  absl::StatusOr<RepairReport> repaired = RepairModel(path, options, [&](int64_t bytes, int64_t total) {
    status.Show(StatusText(path, bytes, total, SecondsSince(start)));
    return !InterruptGuard::Requested();
  });
  status.Clear();
  if (!repaired.ok()) return repaired;
  for (const std::string& name : repaired->files)
    std::fprintf(stderr, "omni: %s/%s: repaired\n", path.c_str(), name.c_str());
  if (repaired->tiles > 0) {
    std::fprintf(stderr, "omni: %s: %lld damaged tile%s repaired\n", path.c_str(),
                 static_cast<long long>(repaired->tiles), repaired->tiles == 1 ? "" : "s");
  }
  return repaired;
}

int PrintPart(const std::string& path, const RepairReport& repaired, bool json) {
  if (json) {
    const nlohmann::json object = {{"model", path},
                                   {"ok", true},
                                   {"part", true},
                                   {"tiles", repaired.checked_tiles},
                                   {"repaired", RepairJson(repaired)}};
    PrintF("%s\n", JsonText(object, 2));
  } else {
    PrintF("%s: a part of a model, intact: %lld tiles\n", path.c_str(),
           static_cast<long long>(repaired.checked_tiles));
  }
  return kExitOk;
}

absl::StatusOr<int> Verify(const VerifyArgs& args) {
  if (const std::string flag = args.of_repair.First(); !flag.empty() && args.repair_from.empty())
    return UsageError(absl::StrCat(flag, " does nothing without --repair; leave it out"));
  for (const std::string& address : args.repair_from) {
    if (const auto read = ReadAddresses("--repair", address); !read.ok()) return read.status();
  }
  absl::StatusOr<std::string> path = FindModel(args.model);
  if (!path.ok()) return path.status();
  InterruptGuard guard;
  StatusLine status(StderrCanErase());
  std::optional<RepairReport> repaired;
  if (!args.repair_from.empty()) {
    absl::StatusOr<RepairReport> report = Repair(args, *path, status);
    if (!report.ok() && InterruptGuard::Requested()) return kExitInterrupted;
    if (!report.ok()) return report.status();
    repaired = *std::move(report);
    // What is not there has no checksums: there is nothing more to verify.
    if (!repaired->whole) return PrintPart(*path, *repaired, args.json);
  }
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
    PrintJson(*path, *report, repaired, seconds);
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
            "  omni verify -m /data/large-model --repair 127.0.0.1:7300\n"
            "  omni verify -m /data/large-model --repair 10.0.0.1:7300 --certificates second-cert\n"
            "  omni verify -m models/mini --json | jq .defects");
  auto args = std::make_shared<VerifyArgs>();
  verb.Model(args->model);
  verb.Number("-t,--threads", args->threads, {0, 1024},
              "Files read at a time; 0: two per core that this process may use (default)");
  verb.Texts("--repair", args->repair_from,
             "HOST:PORT of a node that has the model: what is damaged is fetched from there and put in its "
             "place at first; may be given several times");
  args->of_repair.Add(verb.Path("--certificates", args->certificates,
                                "Of --repair: folder of a node's certificate (omni cluster cert)"));
  args->of_repair.Add(verb.Bool("--allow-plain", args->allow_plain,
                                "Of --repair: talk to other machines without encryption"));
  verb.Json(args->json);
  verb.Body([args] { return Verify(*args); });
}

}  // namespace omni::cli
