// How an API says an answer: what the swarm gives on one side, the API's bytes on the other.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <absl/status/status.h>

#include "actors/generate.h"

namespace omni {

struct AnswerToken {
  std::string bytes;  // may be part of a character
  float probability = 0;
  std::vector<AnswerToken>
      alternatives;  // if asked for: the likeliest in this token's place, likeliest first
  std::optional<TokenConfidence> confidence = {};  // of a session with perspectives
  TokenNotes notes = {};
};

struct AnswerUsage {
  int64_t prompt_tokens = 0, completion_tokens = 0;
};

// One answer to a prompt.
struct AnswerChoice {
  std::string text;
  std::vector<AnswerToken> tokens;  // if asked for
  StopReason reason = StopReason::kLength;
  std::optional<ConfidenceSummary> confidence;  // of a session with perspectives
  NotesSummary notes;
  AdapterChoice adapter;  // that it was answered with; no name: none
  std::vector<float> embedding;
};

// Of one answer. One thread at a time, which may be another each time.
class AnswerForm {
 public:
  virtual ~AnswerForm() = default;

  // The body of a whole answer.
  virtual std::string Whole(const std::vector<AnswerChoice>& choices, const AnswerUsage& usage) = 0;

  // A stream of server-sent events: Begin, each choice's pieces and its end, End; after Begin Failed may come
  // at any time, and is the last. What is empty is not sent. Only of what may be streamed.
  virtual std::string Begin() { return {}; }
  // `tokens`: those whose text it is, and any before them that had none; if asked for.
  virtual std::string Piece(size_t /*choice*/, const std::string& /*text*/,
                            const std::vector<AnswerToken>& /*tokens*/) {
    return {};
  }
  virtual std::string EndOfChoice(size_t /*choice*/, const AnswerChoice& /*all*/) { return {}; }
  virtual std::string End(const AnswerUsage& /*usage*/) { return {}; }
  virtual std::string Failed(const absl::Status& /*status*/) { return {}; }
};

}  // namespace omni
