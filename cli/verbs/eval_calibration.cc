#include "cli/verbs/eval_calibration.h"

#include <optional>
#include <utility>

#include <absl/strings/str_cat.h>
#include <nlohmann/json.hpp>

#include "cli/output.h"
#include "cli/terminal.h"
#include "cli/verbs/reliability_svg.h"
#include "engine/around/calibration_fit.h"
#include "engine/base/json.h"
#include "engine/base/replace_file.h"
#include "engine/model/session_state.h"

namespace omni::cli {
namespace {

// Larger states than this are not held sixteen times.
constexpr int64_t kStatesOfAll = int64_t{1} << 30;

nlohmann::json ToJson(const CalibrationReport& report, double bits_per_byte) {
  nlohmann::json bins = nlohmann::json::array();
  for (const ReliabilityBin& bin : report.reliability) {
    bins.push_back({{"low", bin.low},
                    {"high", bin.high},
                    {"confidence", bin.confidence},
                    {"accuracy", bin.accuracy},
                    {"tokens", bin.tokens}});
  }
  return {{"ece", report.ece},
          {"full_ece", report.full_ece},
          {"brier", report.brier},
          {"aurc", report.aurc},
          {"accuracy", report.accuracy},
          {"nats_per_token", report.nats_per_token},
          {"bits_per_byte", bits_per_byte},
          {"reliability", std::move(bins)}};
}

using Methods = std::vector<std::pair<std::string, const CalibrationReport*>>;

void Print(const CalibrationComparison& c, const Methods& methods) {
  PrintF("%-14s %8s %9s %8s %8s %9s %11s\n", "", "ECE", "Full-ECE", "Brier", "AURC", "accuracy", "bits/byte");
  for (const auto& [name, report] : methods) {
    PrintF("%-14s %8.4f %9.4f %8.4f %8.4f %9.4f %11.4f\n", name, report->ece, report->full_ece, report->brier,
           report->aurc, report->accuracy, c.BitsPerByte(*report));
  }
  PrintF("\nconfidence → share that is right, in bins of equally many tokens\n");
  for (const auto& [name, report] : methods) {
    PrintF("%-14s", name);
    for (const ReliabilityBin& bin : report->reliability) PrintF(" %.2f→%.2f", bin.confidence, bin.accuracy);
    PrintF("\n");
  }
  PrintF("\n%d tokens  disagreement %.4f nats  disagreeing %.1f %%  no two agree %.1f %%\n", c.tokens,
         c.disagreement, 100 * c.disagreeing, 100 * c.uncertain);
}

absl::Status Fit(const std::string& path, const Model& model, CalibrationText& on, bool json) {
  // The other kind of perspectives keeps what was fitted to it, if it is this model's.
  Calibration calibration;
  if (absl::StatusOr<std::optional<Calibration>> old = ReadCalibration(path, model.hash());
      old.ok() && old->has_value()) {
    calibration = **std::move(old);
  }
  calibration.model_hash = model.hash();
  if (absl::Status s = FitCalibration(on, calibration); !s.ok()) return s;
  if (absl::Status s = WriteCalibration(path, calibration); !s.ok()) return s;
  const PerspectiveCalibration& of_kind = *calibration.Of(on.run.kind);
  if (json) {
    PrintF("%s\n", JsonText(nlohmann::json({{"model_hash", model.hash()},
                                            {"tokens", calibration.tokens},
                                            {"kind", PerspectiveKindName(on.run.kind)},
                                            {"temperature", calibration.temperature},
                                            {"mixture_temperature", of_kind.temperature},
                                            {"own_weight", of_kind.own_weight},
                                            {"tau", of_kind.tau}})));
  } else {
    PrintF("temperature %.4f  perspectives %s: temperature %.4f, own weight %.2f  %d tokens → %s/%s\n",
           calibration.temperature, PerspectiveKindName(on.run.kind), of_kind.temperature, of_kind.own_weight,
           calibration.tokens, path, std::string(kCalibrationFile));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status EvalCalibration(const std::string& path, Model& model, WorkerPool& pool,
                             const std::vector<std::string>& texts, const CalibrationArgs& args, bool json) {
  std::string text;
  for (const std::string& one : texts) absl::StrAppend(&text, text.empty() ? "" : "\n<|endoftext|>\n", one);
  StatusLine status(StderrCanErase());
  CalibrationText on{model.weights(), model.experts(), model.tokenizer(), pool, text, {}};
  on.run.kind = args.perspectives.kind;
  on.run.max_tokens = args.tokens;
  on.run.progress = ShowShare(status, args.fit ? "fitting" : "measuring");
  if (on.run.parallel_documents * SessionState::BytesFor(model.config()) > kStatesOfAll)
    on.run.parallel_documents = 1;
  if (args.fit) {
    const absl::Status fitted = Fit(path, model, on, json);
    status.Clear();
    return fitted;
  }
  const absl::StatusOr<std::optional<Calibration>> calibration = ReadCalibration(path, model.hash());
  if (!calibration.ok()) return calibration.status();
  if (!calibration->has_value() || !(*calibration)->Of(on.run.kind).has_value()) {
    return absl::FailedPreconditionError(absl::StrCat(
        path, ": nothing was fitted to this model's ", PerspectiveKindName(on.run.kind),
        " perspectives yet; do it with omni eval calibration --fit, on text that it was not trained on"));
  }
  const absl::StatusOr<CalibrationComparison> measured =
      CompareCalibrations(on, **calibration, TauOf(args.perspectives, &**calibration));
  status.Clear();
  if (!measured.ok()) return measured.status();
  const CalibrationComparison& c = *measured;
  const Methods methods = {{"softmax", &c.softmax},           {"temperature", &c.temperature},
                           {"isotonic", &c.isotonic},         {"average", &c.average},
                           {"perspectives", &c.perspectives}, {"plain rule", &c.plain_rule}};
  if (!args.svg.empty()) {
    const std::string svg = ReliabilitySvg({{"softmax", &c.softmax},
                                            {"temperature", &c.temperature},
                                            {"isotonic", &c.isotonic},
                                            {"perspectives", &c.perspectives}});
    if (absl::Status s = WriteOutput(args.svg, svg); !s.ok()) return s;
  }
  if (!json) {
    Print(c, methods);
    return absl::OkStatus();
  }
  nlohmann::json result = {{"model_hash", model.hash()},
                           {"kind", PerspectiveKindName(on.run.kind)},
                           {"tokens", c.tokens},
                           {"bytes", c.bytes},
                           {"tau", c.tau},
                           {"disagreement", c.disagreement},
                           {"disagreeing", c.disagreeing},
                           {"uncertain", c.uncertain}};
  for (const auto& [name, report] : methods)
    result[name == "plain rule" ? "plain_rule" : name] = ToJson(*report, c.BitsPerByte(*report));
  PrintF("%s\n", JsonText(result));
  return absl::OkStatus();
}

}  // namespace omni::cli
