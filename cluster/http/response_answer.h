// OpenAI's responses: whole, and as their sequence of events.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "cluster/http/answer_form.h"
#include "engine/base/json.h"

namespace omni {

struct ResponseHead {
  std::string id, message_id, model;
  int64_t created = 0;  // seconds since 1970
  bool store = false, logprobs = false;
  // An answer that ends at its length is incomplete if the client said how long it may be; where it did not,
  // the length is the server's, and such an answer is as complete as it gets.
  bool bounded = false;
  nlohmann::json echo;  // ResponseRequest's
};

class ResponseAnswer final : public AnswerForm {
 public:
  // Before the answer is said to be finished: the response as it will be read later, and its text.
  using Finished = std::function<void(const std::string& json, const std::string& text)>;
  ResponseAnswer(ResponseHead head, Finished finished);

  std::string Whole(const std::vector<AnswerChoice>& choices, const AnswerUsage& usage) override;
  // response.created, response.in_progress, response.output_item.added, response.content_part.added,
  // response.output_text.delta for each piece, response.output_text.done, response.content_part.done,
  // response.output_item.done, response.completed or response.incomplete; or at any time response.failed.
  std::string Begin() override;
  std::string Piece(size_t choice, const std::string& text, const std::vector<AnswerToken>& tokens) override;
  std::string EndOfChoice(size_t choice, const AnswerChoice& all) override;
  std::string End(const AnswerUsage& usage) override;
  std::string Failed(const absl::Status& status) override;

 private:
  nlohmann::json Response(const char* status) const;
  void Complete(const AnswerChoice& choice);
  nlohmann::json Finish(const AnswerUsage& usage) const;  // the response, once its text has ended
  std::string Event(const char* type, nlohmann::json fields);
  nlohmann::json Part(const std::string& text, const nlohmann::json& logprobs) const;
  nlohmann::json Where() const;  // of the one text
  nlohmann::json Item(const char* status, nlohmann::json content) const;

  const ResponseHead head_;
  const Finished finished_;
  int64_t sequence_ = 0;
  // Once the text has ended.
  std::string text_;
  nlohmann::json item_;
  std::optional<ConfidenceSummary> confidence_;
  NotesSummary notes_;
  AdapterChoice adapter_;
  bool incomplete_ = false;
};

}  // namespace omni
