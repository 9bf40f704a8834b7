// A file that may lie beside a model for those who hold chats with it (docs/serve.md).
#pragma once

namespace omni {

inline constexpr char kChatTemplateFile[] = "chat_template.json";

}  // namespace omni
