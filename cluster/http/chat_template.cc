#include "cluster/http/chat_template.h"

#include <filesystem>
#include <fstream>
#include <iterator>

#include <absl/strings/str_cat.h>

#include "engine/base/json.h"

namespace omni {
namespace {

constexpr std::string_view kContent = "{content}";
constexpr const char* kRoles[] = {"system", "user", "assistant", "tool"};

}  // namespace

ChatTemplate::ChatTemplate()
    : texts_{{"system", "{content}\n\n"},
             {"user", "User: {content}\n"},
             {"assistant", "Assistant: {content}\n"},
             {"tool", "Tool: {content}\n"}},
      answer_("Assistant:"),
      stops_{"\nUser:"} {}

absl::StatusOr<ChatTemplate> ChatTemplate::Parse(std::string_view json) {
  const auto value = ParseJson<nlohmann::json>(json);
  if (!value.ok()) return value.status();
  if (!value->is_object()) return absl::InvalidArgumentError("is no JSON object");
  ChatTemplate made;
  made.texts_.clear();
  made.answer_.clear();
  made.stops_.clear();
  made.from_file_ = true;
  for (const auto& [key, text] : value->items()) {
    if (key == "stops") {
      if (!text.is_array()) return absl::InvalidArgumentError("has 'stops' that are no list of texts");
      for (const auto& stop : text) {
        if (!stop.is_string() || stop.get_ref<const std::string&>().empty())
          return absl::InvalidArgumentError("has 'stops' that are no list of texts");
        made.stops_.push_back(stop.get<std::string>());
      }
      continue;
    }
    const bool role = std::find(std::begin(kRoles), std::end(kRoles), key) != std::end(kRoles);
    if (!role && key != "answer") {
      return absl::InvalidArgumentError(absl::StrCat(
          "has the key ", Quoted(key), "; system, user, assistant, tool, answer and stops are known"));
    }
    if (!text.is_string())
      return absl::InvalidArgumentError(absl::StrCat("has ", Quoted(key), " that is no text"));
    if (!role) {
      made.answer_ = text.get<std::string>();
      continue;
    }
    made.texts_[key] = text.get<std::string>();
    if (made.texts_[key].find(kContent) == std::string::npos)
      return absl::InvalidArgumentError(absl::StrCat("has ", Quoted(key), " without {content}"));
  }
  for (const char* role : {"system", "user", "assistant"}) {
    if (!made.texts_.contains(role)) return absl::InvalidArgumentError(absl::StrCat("lacks '", role, "'"));
  }
  made.texts_.emplace("tool", made.texts_["user"]);
  return made;
}

absl::StatusOr<ChatTemplate> ChatTemplate::Load(const std::string& model_directory) {
  const std::string path = absl::StrCat(model_directory, "/", kFile);
  std::error_code error;
  if (!std::filesystem::exists(path, error) && !error) return ChatTemplate();
  std::ifstream file(path, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (!file.is_open() || file.bad()) return absl::UnavailableError(absl::StrCat(path, ": cannot be read"));
  absl::StatusOr<ChatTemplate> parsed = Parse(text);
  if (!parsed.ok())
    return absl::InvalidArgumentError(absl::StrCat(path, ": the text ", parsed.status().message()));
  return parsed;
}

std::string ChatTemplate::Render(const std::vector<ChatMessage>& messages) const {
  std::string text;
  for (const ChatMessage& message : messages) {
    const auto it = texts_.find(message.role);
    std::string_view form = it == texts_.end() ? kContent : std::string_view(it->second);
    if (message.as_written) {
      text += answer_;
      form.remove_prefix(form.rfind(kContent));
    }
    for (size_t at; (at = form.find(kContent)) != form.npos; form.remove_prefix(at + kContent.size())) {
      text += form.substr(0, at);
      text += message.content;
    }
    text += form;
  }
  return text + answer_;
}

std::string ChatTemplate::Describe() const {
  nlohmann::json json = texts_;
  json["answer"] = answer_;
  json["stops"] = stops_;
  return JsonText(json);
}

}  // namespace omni
