// Those that answer elsewhere. They get the whole chat each time.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "cli/chat/chat_model.h"
#include "cluster/cluster_client.h"
#include "cluster/http/openai_client.h"

namespace omni::cli {

class ServerModel final : public ChatModel {
 public:
  // `adapter`: by name, that every answer is asked with; empty: none.
  explicit ServerModel(std::unique_ptr<OpenAiClient> client, std::string adapter = {})
      : client_(std::move(client)), adapter_(std::move(adapter)) {}
  absl::Status Answer(const std::vector<ChatMessage>& messages, const ChatSettings& settings,
                      const OnText& on_text, ChatReply& reply) override;

 private:
  std::unique_ptr<OpenAiClient> client_;
  const std::string adapter_;
};

class ClusterModel final : public ChatModel {
 public:
  // `asks`: what every answer is asked with, beside what Answer fills in.
  ClusterModel(std::unique_ptr<ClusterClient> client, ChatTemplate chat, ClusterClient::Request asks = {})
      : client_(std::move(client)), chat_(std::move(chat)), asks_(std::move(asks)) {}
  absl::Status Answer(const std::vector<ChatMessage>& messages, const ChatSettings& settings,
                      const OnText& on_text, ChatReply& reply) override;

 private:
  std::unique_ptr<ClusterClient> client_;
  const ChatTemplate chat_;
  const ClusterClient::Request asks_;
};

}  // namespace omni::cli
