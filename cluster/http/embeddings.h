// OpenAI's embeddings: requests, from their JSON to what the swarm is asked, and answers. An embedding is the
// mean of a text's last hidden rows. Nothing here knows of sockets.
//
// Errors as in openai_request.h.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include <absl/status/statusor.h>

#include "actors/generate.h"
#include "cluster/http/answer_form.h"
#include "cluster/http/openai_request.h"

namespace omni {

struct EmbeddingsRequest {
  bool base64 = false;                 // the numbers as the bytes of little-endian float32, else as a list
  std::vector<GenerateRequest> texts;  // at least one
  int64_t prompt_tokens = 0;           // of all
};
// As OpenAI's: so many texts, and tokens in all of them, go into one request.
inline constexpr size_t kMostEmbeddings = 2048;
inline constexpr int64_t kMostEmbeddedTokens = 300'000;
absl::StatusOr<EmbeddingsRequest> ReadEmbeddings(std::string_view body, const ServedModel& model);

// Whole answers alone: nobody streams embeddings.
class EmbeddingsAnswer final : public AnswerForm {
 public:
  EmbeddingsAnswer(std::string model, bool base64) : model_(std::move(model)), base64_(base64) {}
  std::string Whole(const std::vector<AnswerChoice>& choices, const AnswerUsage& usage) override;

 private:
  const std::string model_;
  const bool base64_;
};

}  // namespace omni
