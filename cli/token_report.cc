#include "cli/token_report.h"

#include <utility>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

namespace omni::cli {

void TokenReport::SetPolytope(std::string name, std::string hash) {
  polytope_ = std::move(name);
  polytope_hash_ = std::move(hash);
}

void TokenReport::SetMemory(std::string scope, std::string version) {
  scope_ = std::move(scope);
  version_ = std::move(version);
}

void TokenReport::SetAdapter(std::string name, std::string hash) {
  adapter_ = std::move(name);
  adapter_hash_ = std::move(hash);
}

void TokenReport::Add(const GenerateEvent& event) {
  if (!event.is_token) return;
  notes_.Add(event.notes);
  if (event.notes.safety.has_value()) distances_.push_back(event.notes.safety->distance);
  if (event.notes.contexts.has_value()) weights_.push_back(event.notes.contexts->weight);
  if (!event.confidence.has_value()) return;
  confidence_.Add(*event.confidence);
  confidences_.push_back(event.confidence->confidence);
  if (!event.confidence->looked.has_value()) return;
  const PerspectiveVerdict& verdict = *event.confidence->looked;
  looks_.push_back({{"token", confidences_.size() - 1},
                    {"disagreement", verdict.disagreement},
                    {"disagree", verdict.disagree},
                    {"votes", verdict.votes},
                    {"uncertain", verdict.uncertain},
                    {"changed", verdict.changed}});
  if (!event.notes.recall.has_value()) return;
  const RecallNote& recall = *event.notes.recall;
  looks_.back()["memory"] = {{"found", recall.found}};
  if (recall.found) {
    looks_.back()["memory"].update(
        {{"words", recall.words}, {"begun", recall.begun}, {"votes", recall.votes}});
  }
}

void TokenReport::AddTo(nlohmann::json& json) const {
  if (confidence_.tokens > 0) {
    json["perspectives"] = {{"mean_confidence", confidence_.mean()},
                            {"looked", confidence_.looked},
                            {"disagreeing", confidence_.disagreeing},
                            {"uncertain", confidence_.uncertain},
                            {"changed", confidence_.changed},
                            {"confidence", confidences_},
                            {"looks", looks_}};
  }
  if (!polytope_.empty()) {
    json["safety"] = {{"polytope", polytope_},
                      {"hash", polytope_hash_},
                      {"tokens", notes_.projectable},
                      {"projected", notes_.projected},
                      {"mean_distance", notes_.mean_distance()},
                      {"largest_distance", notes_.largest_distance},
                      {"distance", distances_}};
  }
  if (!scope_.empty()) {
    json["memory"] = {
        {"scope", scope_}, {"version", version_}, {"asked", notes_.asked}, {"recalled", notes_.remembered}};
  }
  if (!adapter_.empty()) json["adapter"] = {{"name", adapter_}, {"hash", adapter_hash_}};
  if (notes_.remembering > 0) {
    json["context_memory"] = {{"tokens", notes_.remembering},
                              {"recalled", notes_.recalled},
                              {"mean_weight", notes_.mean_weight()},
                              {"weight", weights_}};
  }
}

std::vector<std::string> TokenReport::Lines() const {
  std::vector<std::string> lines;
  if (confidence_.tokens > 0) {
    lines.push_back(absl::StrCat("confidence ", absl::StrFormat("%.2f", confidence_.mean()), " · looked at ",
                                 confidence_.looked, " of ", confidence_.tokens,
                                 " tokens from four sides: ", confidence_.disagreeing, " disagreed, ",
                                 confidence_.changed, " changed, ", confidence_.uncertain, " uncertain"));
  }
  if (notes_.projectable > 0) {
    lines.push_back(absl::StrCat("polytope ", polytope_, " · moved ", notes_.projected, " of ",
                                 notes_.projectable, " hidden states, by ",
                                 absl::StrFormat("%.3f on average, %.3f at most", notes_.mean_distance(),
                                                 static_cast<double>(notes_.largest_distance))));
  }
  if (!scope_.empty()) {
    lines.push_back(absl::StrCat("memory ", scope_, " · asked for ", notes_.asked, " tokens, chose ",
                                 notes_.remembered, " of them"));
  }
  if (!adapter_.empty()) lines.push_back(absl::StrCat("adapter ", adapter_, " of hash ", adapter_hash_));
  if (notes_.remembering > 0) {
    lines.push_back(absl::StrCat("memory of contexts · had a say in ", notes_.recalled, " of ",
                                 notes_.remembering,
                                 absl::StrFormat(" tokens, weight %.2f on average", notes_.mean_weight())));
  }
  return lines;
}

}  // namespace omni::cli
