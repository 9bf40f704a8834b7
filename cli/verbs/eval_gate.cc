#include "cli/verbs/eval_gate.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <map>
#include <optional>
#include <string_view>
#include <utility>

#include <absl/strings/str_cat.h>
#include <nlohmann/json.hpp>

#include "cli/output.h"
#include "cli/polytope_file.h"
#include "cli/terminal.h"
#include "engine/around/ablation.h"
#include "engine/around/calibration_fit.h"
#include "engine/around/safety_build.h"
#include "engine/around/safety_measure.h"
#include "engine/base/json.h"
#include "engine/decode/eval.h"
#include "engine/decode/last_words.h"
#include "engine/text/text_file.h"

namespace omni::cli {
namespace {

using Json = nlohmann::json;
using Figures = std::map<std::string, double>;

constexpr std::array<std::string_view, 3> kOfText = {"bits_per_byte", "nats_per_token", "tokens_per_second"};
constexpr std::array<std::string_view, 6> kOfCalibration = {"ece",
                                                            "ece_temperature",
                                                            "ece_perspectives",
                                                            "full_ece_perspectives",
                                                            "aurc_perspectives",
                                                            "ensemble_bits_per_byte"};
constexpr std::array<std::string_view, 2> kOfParts = {"full_parts_bits_per_byte", "full_parts_ece"};
constexpr std::array<std::string_view, 4> kOfSafety = {"safety_bits_per_byte", "safety_moved_share",
                                                       "safety_denied_mass", "safety_denied_likeliest"};
constexpr std::array<std::string_view, 2> kOfPassages = {"lambada_accuracy", "lambada_perplexity"};

bool IsOneOf(const auto& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

std::string Known() {
  std::string all;
  const auto add = [&all](const auto& names) {
    for (const std::string_view name : names)
      absl::StrAppend(&all, all.empty() ? "" : ", ", std::string(name));
  };
  add(kOfText);
  add(kOfCalibration);
  add(kOfParts);
  add(kOfSafety);
  add(kOfPassages);
  return all;
}

absl::StatusOr<GateCheck> ReadCheck(const Json& json, const std::filesystem::path& folder) {
  if (!json.is_object()) return absl::InvalidArgumentError("it is no object");
  constexpr std::array<std::string_view, 7> kKeys = {"measure", "text",    "allowed", "deny",
                                                     "tokens",  "at_most", "at_least"};
  for (const auto& item : json.items()) {
    if (!IsOneOf(kKeys, item.key()))
      return absl::InvalidArgumentError(absl::StrCat("it has an unknown key ", item.key()));
  }
  GateCheck check;
  for (auto [key, to] : {std::pair("measure", &check.measure), std::pair("text", &check.text)}) {
    const auto at = json.find(key);
    if (at == json.end() || !at->is_string())
      return absl::InvalidArgumentError(absl::StrCat("it has no text ", key));
    *to = at->get<std::string>();
  }
  const bool of_safety = IsOneOf(kOfSafety, check.measure);
  const bool takes_tokens =
      of_safety || IsOneOf(kOfCalibration, check.measure) || IsOneOf(kOfParts, check.measure);
  if (!IsOneOf(kOfText, check.measure) && !takes_tokens && !IsOneOf(kOfPassages, check.measure)) {
    return absl::InvalidArgumentError(
        absl::StrCat("there is no measure ", check.measure, "; there are ", Known()));
  }
  check.text = (folder / check.text).string();
  for (auto [key, to] : {std::pair("allowed", &check.allowed), std::pair("deny", &check.deny)}) {
    const auto at = json.find(key);
    if ((at != json.end()) != of_safety || (of_safety && !at->is_string())) {
      return absl::InvalidArgumentError(
          absl::StrCat("a measure of safety has a text ", key, ", and no other has one"));
    }
    if (of_safety) *to = (folder / at->get<std::string>()).string();
  }
  check.at_most = json.contains("at_most");
  if (check.at_most == json.contains("at_least"))
    return absl::InvalidArgumentError("it needs one of at_most and at_least");
  const Json& limit = json.at(check.at_most ? "at_most" : "at_least");
  if (!limit.is_number()) return absl::InvalidArgumentError("its limit is no number");
  check.limit = limit.get<double>();
  if (const auto tokens = json.find("tokens"); tokens != json.end()) {
    if (!tokens->is_number_unsigned() || !takes_tokens)
      return absl::InvalidArgumentError(
          "tokens must be a whole number, and belong to a measure of a calibration, of parts or of safety");
    check.tokens = tokens->get<int64_t>();
  }
  return check;
}

// Each text is measured once for all checks that ask the same of it.
class Measures {
 public:
  Measures(const std::string& path, Model& model, WorkerPool& pool)
      : path_(path), model_(model), pool_(pool) {}

  absl::StatusOr<double> Of(const GateCheck& check) {
    const bool of_text = IsOneOf(kOfText, check.measure), of_passages = IsOneOf(kOfPassages, check.measure);
    const bool of_parts = IsOneOf(kOfParts, check.measure), of_safety = IsOneOf(kOfSafety, check.measure);
    const std::string key =
        absl::StrCat(check.text, "\n", check.allowed, "\n", check.deny, "\n", check.tokens, "\n",
                     of_text       ? "text"
                     : of_safety   ? "safety"
                     : of_passages ? "passages"
                     : of_parts    ? "parts"
                                   : "calibration");
    auto at = known_.find(key);
    if (at == known_.end()) {
      const absl::StatusOr<std::string> text = ReadText(check.text);
      if (!text.ok()) return text.status();
      absl::StatusOr<Figures> figures = of_text       ? Text(*text)
                                        : of_passages ? Passages(*text)
                                        : of_parts    ? Full(*text, check.tokens)
                                        : of_safety   ? Bounded(*text, check)
                                                      : Calibrated(*text, check.tokens);
      if (!figures.ok()) {
        return absl::Status(figures.status().code(),
                            absl::StrCat(check.text, ": ", figures.status().message()));
      }
      at = known_.emplace(key, *std::move(figures)).first;
    }
    return at->second.at(check.measure);
  }

 private:
  absl::StatusOr<Figures> Text(const std::string& text) {
    const absl::StatusOr<EvalResult> result =
        EvalText(model_.weights(), model_.experts(), model_.tokenizer(), pool_, text, {});
    if (!result.ok()) return result.status();
    return Figures{{"bits_per_byte", result->bits_per_byte()},
                   {"nats_per_token", result->nats_per_token()},
                   {"tokens_per_second", result->tokens_per_second()}};
  }

  absl::StatusOr<Figures> Passages(const std::string& text) {
    const absl::StatusOr<std::vector<std::string>> passages = ReadPassages(text);
    if (!passages.ok()) return passages.status();
    const absl::StatusOr<LastWordsResult> result =
        EvalLastWords(model_.weights(), model_.experts(), model_.tokenizer(), pool_, *passages);
    if (!result.ok()) return result.status();
    return Figures{{"lambada_accuracy", result->accuracy()}, {"lambada_perplexity", result->perplexity()}};
  }

  absl::StatusOr<Figures> Full(const std::string& text, int64_t tokens) {
    CalibrationText on{model_.weights(), model_.experts(), model_.tokenizer(), pool_, text, {}};
    on.run.kind = PerspectiveKind::kFar;
    on.run.max_tokens = tokens;
    const absl::StatusOr<PartsReport> report = MeasureParts(on, {});
    if (!report.ok()) return report.status();
    return Figures{{"full_parts_bits_per_byte", report->bits_per_byte},
                   {"full_parts_ece", report->report.ece}};
  }

  // A polytope is built, as omni safety build does it, and the text read with it and without.
  absl::StatusOr<Figures> Bounded(const std::string& text, const GateCheck& check) {
    const absl::StatusOr<std::string> allowed = ReadText(check.allowed);
    if (!allowed.ok()) return allowed.status();
    const absl::StatusOr<std::vector<std::string>> words = ReadWords(check.deny);
    if (!words.ok()) return words.status();
    std::vector<std::string> documents;
    for (std::string_view document : SplitDocuments(*allowed)) documents.emplace_back(document);
    const absl::StatusOr<BuiltPolytope> built = BuildPolytope(
        model_.weights(), model_.experts(), model_.tokenizer(), pool_, documents, *words, PolytopeRecipe());
    if (!built.ok()) return built.status();
    const absl::StatusOr<Projector> projector = Projector::Make(built->polytope);
    if (!projector.ok()) return projector.status();
    std::vector<TokenId> denied;
    for (const std::string& word : *words) {
      for (TokenId token : TokensOfWord(model_.tokenizer(), word)) denied.push_back(token);
    }
    std::sort(denied.begin(), denied.end());
    denied.erase(std::unique(denied.begin(), denied.end()), denied.end());
    if (denied.empty()) return absl::InvalidArgumentError(absl::StrCat(check.deny, ": no word is one token"));
    const absl::StatusOr<SafetyEffect> effect =
        MeasureSafety(model_.weights(), model_.experts(), model_.tokenizer(), pool_, SplitDocuments(text),
                      *projector, denied, check.tokens > 0 ? check.tokens : std::ssize(text) + 1);
    if (!effect.ok()) return effect.status();
    const auto tokens = static_cast<double>(effect->tokens);
    return Figures{
        {"safety_bits_per_byte", effect->nats_projected / std::log(2.0) / static_cast<double>(effect->bytes)},
        {"safety_moved_share", static_cast<double>(effect->projected) / tokens},
        {"safety_denied_mass", effect->mass_projected / effect->mass},
        {"safety_denied_likeliest", static_cast<double>(effect->likeliest_projected) / tokens}};
  }

  absl::StatusOr<Figures> Calibrated(const std::string& text, int64_t tokens) {
    const absl::StatusOr<std::optional<Calibration>> read = ReadCalibration(path_, model_.hash());
    if (!read.ok()) return read.status();
    // Where nothing was fitted, temperatures are 1 and maps change nothing.
    Calibration calibration = read->value_or(Calibration());
    if (!calibration.near.has_value()) calibration.near.emplace();
    CalibrationText on{model_.weights(), model_.experts(), model_.tokenizer(), pool_, text, {}};
    on.run.max_tokens = tokens;
    const absl::StatusOr<CalibrationComparison> c =
        CompareCalibrations(on, calibration, calibration.near->tau);
    if (!c.ok()) return c.status();
    return Figures{{"ece", c->softmax.ece},
                   {"ece_temperature", c->temperature.ece},
                   {"ece_perspectives", c->perspectives.ece},
                   {"full_ece_perspectives", c->perspectives.full_ece},
                   {"aurc_perspectives", c->perspectives.aurc},
                   {"ensemble_bits_per_byte", c->BitsPerByte(c->average)}};
  }

  const std::string& path_;
  Model& model_;
  WorkerPool& pool_;
  std::map<std::string, Figures> known_;
};

}  // namespace

absl::StatusOr<std::vector<GateCheck>> ReadGate(const std::string& path) {
  const absl::StatusOr<std::string> text = ReadText(path);
  if (!text.ok()) return text.status();
  const auto bad = [&path](const std::string& what) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": ", what, "; docs/formats/gate.md says what a gate is"));
  };
  const absl::StatusOr<Json> json = ParseJson<Json>(*text);
  if (!json.ok()) return bad(absl::StrCat("the text ", json.status().message()));
  if (!json->is_object() || json->value("format", Json()) != "omni-gate" ||
      json->value("version", Json()) != 1)
    return bad("it is no gate of version 1");
  const auto checks = json->find("checks");
  if (checks == json->end() || !checks->is_array() || checks->empty()) return bad("it has no list of checks");
  std::vector<GateCheck> all;
  for (const Json& check : *checks) {
    absl::StatusOr<GateCheck> read = ReadCheck(check, std::filesystem::path(path).parent_path());
    if (!read.ok()) return bad(absl::StrCat("check ", all.size() + 1, ": ", read.status().message()));
    all.push_back(*std::move(read));
  }
  return all;
}

absl::StatusOr<bool> EvalGate(const std::string& path, Model& model, WorkerPool& pool,
                              const std::vector<GateCheck>& checks, bool json) {
  Measures measures(path, model, pool);
  Json list = Json::array();
  bool passed = true;
  for (const GateCheck& check : checks) {
    const absl::StatusOr<double> value = measures.Of(check);
    if (!value.ok()) return value.status();
    // What is no number passes no gate.
    const bool good = check.at_most ? *value <= check.limit : *value >= check.limit;
    passed = passed && good;
    list.push_back({{"measure", check.measure},
                    {"text", check.text},
                    {check.at_most ? "at_most" : "at_least", check.limit},
                    {"measured", *value},
                    {"passed", good}});
    if (!json) {
      PrintF("%-5s  %s of %s is %.5g, %s %.5g\n", good ? "ok" : "SHORT", check.measure, check.text, *value,
             check.at_most ? "at most" : "at least", check.limit);
    }
  }
  if (json)
    PrintF("%s\n", JsonText(Json({{"model_hash", model.hash()}, {"passed", passed}, {"checks", list}})));
  return passed;
}

absl::Status EvalLambada(Model& model, WorkerPool& pool, const std::vector<std::string>& files,
                         const std::vector<std::string>& texts, bool json) {
  std::vector<std::string> all;
  for (size_t i = 0; i < texts.size(); ++i) {
    absl::StatusOr<std::vector<std::string>> passages = ReadPassages(texts[i]);
    if (!passages.ok()) {
      return absl::Status(passages.status().code(),
                          absl::StrCat(files[i], ": ", passages.status().message()));
    }
    all.insert(all.end(), std::make_move_iterator(passages->begin()),
               std::make_move_iterator(passages->end()));
  }
  StatusLine status(StderrCanErase());
  const absl::StatusOr<LastWordsResult> result =
      EvalLastWords(model.weights(), model.experts(), model.tokenizer(), pool, all,
                    ShowShare(status, "foretelling last words"));
  status.Clear();
  if (!result.ok()) return result.status();
  if (json) {
    PrintF("%s\n", JsonText(Json({{"accuracy", result->accuracy()},
                                  {"perplexity", result->perplexity()},
                                  {"passages", result->passages},
                                  {"right", result->right},
                                  {"model_hash", model.hash()}})));
  } else {
    PrintF("accuracy %.2f %%  perplexity %.1f  %d passages\n", 100 * result->accuracy(), result->perplexity(),
           result->passages);
  }
  return absl::OkStatus();
}

}  // namespace omni::cli
