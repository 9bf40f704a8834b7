#include "cluster/http/embeddings.h"

#include <bit>
#include <utility>

#include <absl/strings/escaping.h>
#include <absl/strings/str_cat.h>

#include "cluster/http/openai_answer.h"
#include "cluster/http/openai_fields.h"

namespace omni {

using openai::Bad;
using openai::Fields;
using openai::Json;

absl::StatusOr<EmbeddingsRequest> ReadEmbeddings(std::string_view body, const ServedModel& model) {
  const absl::StatusOr<Json> json = openai::ReadBody(body);
  if (!json.ok()) return json.status();
  Fields fields(*json);
  EmbeddingsRequest request;
  openai::ReadModel(fields, model);
  const std::string format = fields.Text("encoding_format");
  request.base64 = format == "base64";
  if (!request.base64 && format != "float" && fields.Find("encoding_format") != nullptr)
    fields.Fail(Bad("encoding_format", "'encoding_format' must be float or base64"));
  fields.Refuse("dimensions", nullptr, "is not there: an embedding has the model's width");
  constexpr char kOfAnswers[] = "is for answers: an embedding takes none";
  for (const char* name : {"adapter", "safety", "perspectives", "memory"})
    fields.Refuse(name, nullptr, kOfAnswers);
  fields.Refuse("context_memory", false, kOfAnswers);
  const Json* input = fields.Find("input");
  if (input == nullptr) fields.Fail(Bad("input", "'input' is missing", "missing_required_parameter"));
  if (!fields.status().ok()) return fields.status();
  const bool list = input->is_array();
  for (size_t i = 0; i < (list ? input->size() : 1); ++i) {
    const Json& one = list ? (*input)[i] : *input;
    if (one == "")
      return Bad("input", absl::StrCat("'input' has an empty text", list ? " at " : "",
                                       list ? std::to_string(i) : ""));
  }
  absl::StatusOr<std::vector<std::vector<TokenId>>> texts =
      openai::ReadTexts(*input, "input", *model.tokenizer, kMostEmbeddings);
  if (!texts.ok()) return texts.status();
  for (std::vector<TokenId>& text : *texts) {
    if (absl::Status s = openai::CheckLength(model, "input", text.size()); !s.ok()) return s;
    request.prompt_tokens += static_cast<int64_t>(text.size());
    request.texts.emplace_back();
    request.texts.back().prompt = std::move(text);
    request.texts.back().embed = true;
  }
  if (texts->size() > 1 && request.prompt_tokens > kMostEmbeddedTokens) {
    return Bad("input", absl::StrCat("'input' has ", request.prompt_tokens,
                                     " tokens; several texts may have ", kMostEmbeddedTokens, " together"));
  }
  return request;
}

namespace {

Json Numbers(const std::vector<float>& values, bool base64) {
  if (!base64) return values;
  static_assert(std::endian::native == std::endian::little);
  return absl::Base64Escape(
      absl::string_view(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)));
}

}  // namespace

std::string EmbeddingsAnswer::Whole(const std::vector<AnswerChoice>& choices, const AnswerUsage& usage) {
  Json data = Json::array();
  for (size_t i = 0; i < choices.size(); ++i) {
    data.push_back(
        {{"object", "embedding"}, {"index", i}, {"embedding", Numbers(choices[i].embedding, base64_)}});
  }
  return JsonText(Json{
             {"object", "list"},
             {"data", std::move(data)},
             {"model", model_},
             {"usage", {{"prompt_tokens", usage.prompt_tokens}, {"total_tokens", usage.prompt_tokens}}}}) +
         "\n";
}

}  // namespace omni
