// What is told of an answer's tokens beside their text: how sure they are, and what acted on them.
#pragma once

#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "actors/generate.h"

namespace omni::cli {

// Collected token by token. Of an answer for which nothing was asked it is empty.
class TokenReport {
 public:
  void SetPolytope(std::string name, std::string hash);
  void SetMemory(std::string scope, std::string version);
  void SetAdapter(std::string name, std::string hash);
  void Add(const GenerateEvent& event);

  // For --json: "perspectives", "safety", "adapter", "context_memory" and "memory", each if it was asked for.
  void AddTo(nlohmann::json& json) const;
  // For people.
  std::vector<std::string> Lines() const;

 private:
  ConfidenceSummary confidence_;
  std::vector<float> confidences_;  // by token
  nlohmann::json looks_ = nlohmann::json::array();
  NotesSummary notes_;
  std::string polytope_, polytope_hash_, scope_, version_, adapter_, adapter_hash_;
  std::vector<float> distances_, weights_;  // by token
};

}  // namespace omni::cli
