#include "cli/chat/session_file.h"

#include <fstream>
#include <iterator>

#include <absl/strings/escaping.h>
#include <absl/strings/str_cat.h>

#include "engine/base/json.h"
#include "engine/base/open_file.h"
#include "engine/base/replace_file.h"

namespace omni::cli {
namespace {

using Json = nlohmann::json;

constexpr int kVersion = 1;
constexpr const char* kRoles[] = {"system", "user", "assistant"};

// Whoever answers may have written bytes that are no UTF-8.
Json TextJson(const std::string& text) {
  const Json json = text;
  try {
    json.dump();
    return json;
  } catch (const Json::type_error&) {
    return {{"hex", absl::BytesToHexString(text)}};
  }
}

std::string TextOf(const Json& json) {
  if (json.is_string()) return json.get<std::string>();
  const auto hex = json.at("hex").get<std::string>();
  std::string bytes = absl::HexStringToBytes(hex);
  if (absl::BytesToHexString(bytes) != hex) throw std::invalid_argument("hex digits that are none");
  return bytes;
}

// Throws what Json throws for a field that is missing or of another type.
ChatSession FromJson(const Json& json) {
  ChatSession session;
  SamplerSettings& sampler = session.settings.sampler;
  for (const Json& message : json.at("messages")) {
    session.messages.push_back({message.at("role").get<std::string>(), TextOf(message.at("content")),
                                message.at("as_written").get<bool>()});
  }
  for (const Json& stop : json.at("stops")) session.settings.stops.push_back(TextOf(stop));
  session.settings.max_tokens = json.at("max_tokens").get<int64_t>();
  sampler.temperature = json.at("temperature").get<float>();
  sampler.top_k = json.at("top_k").get<int32_t>();
  sampler.top_p = json.at("top_p").get<float>();
  sampler.min_p = json.at("min_p").get<float>();
  sampler.repetition_penalty = json.at("repetition_penalty").get<float>();
  sampler.repetition_window = json.at("repetition_window").get<int32_t>();
  sampler.seed = json.at("seed").get<uint64_t>();
  return session;
}

// The settings within their limits, and the messages as a chat has them: a system's first, if any, then a
// user's and an assistant's by turns.
absl::Status Check(const ChatSession& session) {
  if (absl::Status s = Validate(session.settings.sampler); !s.ok()) return s;
  if (session.settings.max_tokens < 1) return absl::DataLossError("max_tokens is below 1");
  for (const std::string& stop : session.settings.stops) {
    if (stop.empty()) return absl::DataLossError("a stop text is empty");
  }
  const size_t first = !session.messages.empty() && session.messages[0].role == kRoles[0] ? 1 : 0;
  for (size_t i = first; i < session.messages.size(); ++i) {
    if (session.messages[i].role != kRoles[1 + (i - first) % 2])
      return absl::DataLossError("its messages are not by turns a user's and an assistant's");
  }
  if ((session.messages.size() - first) % 2 != 0)
    return absl::DataLossError("its last message has no answer");
  return absl::OkStatus();
}

}  // namespace

std::string FormatChat(const ChatSession& session) {
  const SamplerSettings& sampler = session.settings.sampler;
  Json messages = Json::array(), stops = Json::array();
  for (const ChatMessage& message : session.messages) {
    messages.push_back(
        {{"role", message.role}, {"content", TextJson(message.content)}, {"as_written", message.as_written}});
  }
  for (const std::string& stop : session.settings.stops) stops.push_back(TextJson(stop));
  const Json json = {{"omni_chat", kVersion},
                     {"messages", std::move(messages)},
                     {"stops", std::move(stops)},
                     {"max_tokens", session.settings.max_tokens},
                     {"temperature", sampler.temperature},
                     {"top_k", sampler.top_k},
                     {"top_p", sampler.top_p},
                     {"min_p", sampler.min_p},
                     {"repetition_penalty", sampler.repetition_penalty},
                     {"repetition_window", sampler.repetition_window},
                     {"seed", sampler.seed},
                     {"state_bytes", session.state.size()}};
  return absl::StrCat(JsonText(json), "\n", session.state);
}

absl::StatusOr<ChatSession> ParseChat(std::string_view bytes) {
  const size_t end = bytes.find('\n');
  if (end == bytes.npos || !bytes.starts_with('{')) return absl::DataLossError("it is no saved chat");
  const absl::StatusOr<Json> json = ParseJson<Json>(bytes.substr(0, end));
  if (!json.ok()) return absl::DataLossError(absl::StrCat("its first line ", json.status().message()));
  ChatSession session;
  try {
    if (json->at("omni_chat") != kVersion)
      return absl::DataLossError("it is of another version than this program's");
    session = FromJson(*json);
    session.state = bytes.substr(end + 1);
    if (json->at("state_bytes") != session.state.size())
      return absl::DataLossError("it is cut off, or something was added to it");
  } catch (const std::exception& e) {
    return absl::DataLossError(absl::StrCat("its first line is no saved chat's: ", e.what()));
  }
  if (absl::Status s = Check(session); !s.ok()) return absl::DataLossError(s.message());
  return session;
}

absl::Status SaveChat(const std::string& path, const ChatSession& session) {
  return ReplaceFile(path, FormatChat(session));
}

absl::StatusOr<ChatSession> LoadChat(const std::string& path) {
  const absl::StatusOr<FileDescriptor> opened = OpenRegular(path);  // says what it is instead
  if (!opened.ok()) return opened.status();
  std::ifstream file(path, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (!file.is_open() || file.bad()) return absl::UnavailableError(absl::StrCat(path, ": cannot be read"));
  absl::StatusOr<ChatSession> session = ParseChat(bytes);
  if (!session.ok()) {
    return absl::DataLossError(
        absl::StrCat(path, ": ", session.status().message(), "; it is damaged, or was not written by /save"));
  }
  return session;
}

}  // namespace omni::cli
