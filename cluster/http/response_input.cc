#include "cluster/http/response_input.h"

#include <initializer_list>
#include <string>
#include <utility>

#include <absl/strings/str_cat.h>

#include "cluster/http/openai_fields.h"

namespace omni::openai {
namespace {

constexpr std::initializer_list<const char*> kTexts = {"input_text", "output_text", "text", "summary_text"};

absl::Status ReadMessage(const Json& item, const std::string& where, std::vector<ChatMessage>& messages) {
  const std::string role = RoleOf(item);
  if (role.empty() || role == "tool") {  // whose outputs are items of their own
    return Bad(where + ".role",
               absl::StrCat("'", where, ".role' must be system, developer, user or assistant"));
  }
  if (!item.contains("content"))
    return Bad(where + ".content", absl::StrCat("'", where, ".content' is missing"));
  std::string text;
  if (absl::Status s = ReadContent(item["content"], where + ".content", kTexts, text); !s.ok()) return s;
  messages.push_back({role, std::move(text)});
  return absl::OkStatus();
}

absl::Status ReadItem(const Json& item, const std::string& where, std::vector<ChatMessage>& messages) {
  if (!item.is_object()) return Bad(where, absl::StrCat("'", where, "' must be an object"));
  const std::string type = TextOf(item, "type");
  if (type == "message" || item.contains("role")) {
    if (type != "message" && item.contains("type"))
      return Bad(where + ".type", absl::StrCat("'", where, ".type' must be message, as it has a role"));
    return ReadMessage(item, where, messages);
  }
  if (type.empty()) return Bad(where + ".type", absl::StrCat("'", where, "' has neither a type nor a role"));
  if (type == "item_reference") {
    return NotThere(where,
                    absl::StrCat("'", where, "': the item ", Quoted(TextOf(item, "id")),
                                 " is not stored here; send what it said"),
                    "item_not_found");
  }
  if (type == "function_call" || type == "custom_tool_call") {
    const std::string with = TextOf(item, type == "function_call" ? "arguments" : "input");
    messages.push_back({"assistant", CallText(TextOf(item, "name"), with)});
  }
  if (type.ends_with("_call_output") && item.contains("output")) {
    std::string text;
    // What is no text is for the client's own tools.
    if (ReadContent(item["output"], where, kTexts, text).ok()) messages.push_back({"tool", std::move(text)});
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ReadInput(const Json& input, std::vector<ChatMessage>& messages) {
  if (input.is_string()) {
    if (input != "") messages.push_back({"user", input.get<std::string>()});
    return absl::OkStatus();
  }
  if (!input.is_array() || input.size() > kMostMessages)
    return Bad("input", absl::StrCat("'input' must be a text or a list of up to ", kMostMessages, " items"));
  for (size_t i = 0; i < input.size(); ++i) {
    if (absl::Status s = ReadItem(input[i], absl::StrCat("input[", i, "]"), messages); !s.ok()) return s;
  }
  return absl::OkStatus();
}

}  // namespace omni::openai
