#include "cli/verbs/eval_ablate.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <string>
#include <utility>

#include <absl/strings/str_cat.h>
#include <nlohmann/json.hpp>

#include "cli/output.h"
#include "cli/terminal.h"
#include "engine/around/ablation.h"
#include "engine/around/calibration_fit.h"
#include "engine/base/json.h"
#include "engine/decode/eval.h"

namespace omni::cli {
namespace {

using Json = nlohmann::json;

// Routes that all tokens take in the routers' place.
struct Routing {
  const char* name;
  int which;  // of the far perspectives; 0: the routers'
};
constexpr Routing kRoutings[] = {
    {"the model", 0}, {"second nearest expert", 1}, {"expert at the antipode", 2}, {"random expert", 3}};

Json RoutedLine(const Routing& routing, const EvalResult& result) {
  return {{"variant", routing.name},
          {"bits_per_byte", result.bits_per_byte()},
          {"nats_per_token", result.nats_per_token()},
          {"tokens", result.tokens},
          {"tok_per_s", result.tokens_per_second()}};
}

Json AveragedLine(PerspectiveKind kind, const CalibrationComparison& c, double seconds) {
  return {{"variant", absl::StrCat("average of four, ", PerspectiveKindName(kind))},
          {"bits_per_byte", c.BitsPerByte(c.average)},
          {"nats_per_token", c.average.nats_per_token},
          {"tokens", c.tokens},
          {"tok_per_s", static_cast<double>(c.tokens) / seconds},
          {"ece", c.average.ece},
          {"aurc", c.average.aurc}};
}

// A model with parts taken away, one after the other; what a line leaves out, its name says.
struct Variant {
  std::string name;
  Parts parts;
};

// With a part that is not in this list, add it to Parts, and a line here.
std::vector<Variant> Variants(const Projector* polytope, const ReadyAdapter* adapter) {
  Parts full;
  full.adapter = adapter;
  full.polytope = polytope;
  std::vector<Variant> all = {{"full", full}};
  const auto without = [&](const char* name, const std::function<void(Parts&)>& take_away) {
    all.push_back({name, full});
    take_away(all.back().parts);
  };
  without("-MPD", [](Parts& p) { p.perspectives = false; });
  without("-HDM", [](Parts& p) { p.contexts = false; });
  if (polytope != nullptr) without("-SPP", [](Parts& p) { p.polytope = nullptr; });
  if (adapter != nullptr) without("-FMEA", [](Parts& p) { p.adapter = nullptr; });
  without("-deltas", [](Parts& p) { p.deltas = false; });
  without("random routing", [](Parts& p) { p.random_routes = true; });
  return all;
}

Json PartsLine(const Variant& variant, const PartsReport& report) {
  return {{"variant", variant.name},
          {"bits_per_byte", report.bits_per_byte},
          {"nats_per_token", report.report.nats_per_token},
          {"tokens", report.tokens},
          {"tok_per_s", static_cast<double>(report.tokens) / report.seconds},
          {"ece", report.report.ece},
          {"full_ece", report.report.full_ece},
          {"aurc", report.report.aurc},
          {"session_bytes", report.session_bytes}};
}

void Print(const Json& list) {
  PrintF("%-24s %11s %12s %9s %8s %8s %10s\n", "", "bits/byte", "of the model", "tok/s", "ECE", "AURC",
         "session");
  const double of_model = list.at(0).at("bits_per_byte");
  for (const Json& line : list) {
    const double bits = line.at("bits_per_byte");
    PrintF("%-24s %11.4f %+11.2f%% %9.1f", line.at("variant").get<std::string>(), bits,
           100 * (bits / of_model - 1), line.at("tok_per_s").get<double>());
    if (line.contains("ece"))
      PrintF(" %8.4f %8.4f", line.at("ece").get<double>(), line.at("aurc").get<double>());
    if (line.contains("session_bytes")) PrintF(" %10s", HumanBytes(line.at("session_bytes").get<int64_t>()));
    PrintF("\n");
  }
}

}  // namespace

absl::Status EvalAblate(Model& model, WorkerPool& pool, const std::vector<std::string>& texts, int64_t tokens,
                        const Projector* polytope, const ReadyAdapter* adapter, bool json) {
  std::string text;
  for (const std::string& one : texts) absl::StrAppend(&text, text.empty() ? "" : "\n<|endoftext|>\n", one);
  StatusLine status(StderrCanErase());
  Json list = Json::array();
  for (const Routing& routing : kRoutings) {
    PerspectiveRoute route(PerspectiveKind::kFar, routing.which, 1);
    EvalOptions options;
    options.max_tokens = tokens;
    options.policy = routing.which == 0 ? nullptr : &route;
    options.progress = ShowShare(status, routing.name);
    const absl::StatusOr<EvalResult> result =
        EvalText(model.weights(), model.experts(), model.tokenizer(), pool, text, options);
    status.Clear();
    if (!result.ok()) return result.status();
    list.push_back(RoutedLine(routing, *result));
  }
  for (const PerspectiveKind kind : {PerspectiveKind::kNear, PerspectiveKind::kFar}) {
    CalibrationText on{model.weights(), model.experts(), model.tokenizer(), pool, text, {}};
    on.run.kind = kind;
    on.run.max_tokens = tokens;
    on.run.progress = ShowShare(status, PerspectiveKindName(kind));
    Calibration plain;  // at temperature 1
    plain.near = plain.far = PerspectiveCalibration();
    const auto start = std::chrono::steady_clock::now();
    const absl::StatusOr<CalibrationComparison> compared = CompareCalibrations(on, plain, plain.near->tau);
    status.Clear();
    if (!compared.ok()) return compared.status();
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    list.push_back(AveragedLine(kind, *compared, seconds));
  }
  for (const Variant& variant : Variants(polytope, adapter)) {
    CalibrationText on{model.weights(), model.experts(), model.tokenizer(), pool, text, {}};
    on.run.kind = PerspectiveKind::kFar;
    on.run.max_tokens = tokens;
    on.run.progress = ShowShare(status, variant.name);
    const absl::StatusOr<PartsReport> report = MeasureParts(on, variant.parts);
    status.Clear();
    if (!report.ok()) return report.status();
    list.push_back(PartsLine(variant, *report));
  }
  if (json) {
    PrintF("%s\n", JsonText(Json({{"model_hash", model.hash()}, {"variants", list}})));
  } else {
    Print(list);
  }
  return absl::OkStatus();
}

}  // namespace omni::cli
