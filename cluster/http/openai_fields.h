// What the readers of OpenAI's requests share. For cluster/http/*_request.cc and embeddings.cc.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "cluster/http/openai_request.h"
#include "engine/base/json.h"
#include "engine/base/range.h"

namespace omni::openai {

using Json = nlohmann::json;

constexpr int64_t kMostTokens = int64_t{1} << 40;
constexpr size_t kMostMessages = 4096;

// An error of the client about the field `param`; OpenAI's name for it is `code`.
absl::Status Bad(std::string_view param, std::string_view message, std::string_view code = "");
absl::Status NotThere(std::string_view param, std::string_view message, std::string_view code);  // 404

// The body as an object.
absl::StatusOr<Json> ReadBody(std::string_view body);

// The fields of a request; the first that is wrong is remembered. The JSON outlives it.
class Fields {
 public:
  explicit Fields(const Json& json) : json_(json) {}
  const absl::Status& status() const { return status_; }
  void Fail(absl::Status status);

  // The field, or null where it is missing or null.
  const Json* Find(const char* name) const;
  bool Bool(const char* name, bool otherwise);
  std::optional<int64_t> Integer(const char* name, int64_t low, int64_t high);
  float Real(const char* name, float otherwise, Range<float> range);
  std::string Text(const char* name);  // empty if it is missing
  // Fields that ask for what is not there; asking for nothing by them is allowed.
  void Refuse(const char* name, const Json& nothing, std::string_view why);

 private:
  const Json& json_;
  absl::Status status_;
};

void ReadModel(Fields& fields, const ServedModel& model);
// The sampler's settings, stops, and what cannot be done.
void ReadSampling(Fields& fields, uint64_t seed, GenerateRequest& generate);
// Tools are taken and not used; a client that insists on one is told.
void ReadTools(Fields& fields);
// The form of answers: text alone. `param` is the format's name, as "response_format".
absl::Status CheckFormat(const Json& format, std::string_view param);

// A field of a message or an item that is a text; empty if it is none.
std::string TextOf(const Json& item, const char* name);
// What a message says: a text, or a list of parts of which all are text, of one of the types `kinds` or a
// refusal. Appended to `text`; `where` is the message's field.
absl::Status ReadContent(const Json& content, const std::string& where,
                         std::initializer_list<const char*> kinds, std::string& text);
// The role of whoever a message is from, by the name that a chat's template has for it: a developer is the
// system, a function a tool. Empty: it is no role.
std::string RoleOf(const Json& message);
// A call of a tool as what an assistant says.
std::string CallText(const std::string& name, const std::string& arguments);

// A text, or a list of texts, or a list of tokens, or a list of lists of tokens; `most` of them.
absl::StatusOr<std::vector<std::vector<TokenId>>> ReadTexts(const Json& json, std::string_view param,
                                                            const Tokenizer& tokenizer, size_t most);
// Probabilities that a whole answer may tell of `tokens` tokens and as many alternatives to each as are asked
// for; `param` is the name of the length.
absl::Status CheckTold(std::string_view param, int64_t tokens, int32_t alternatives);
absl::Status CheckLength(const ServedModel& model, std::string_view param, size_t prompt_tokens);

}  // namespace omni::openai
