#include "cli/chat/remote_model.h"

#include <string>

#include <absl/strings/ascii.h>

#include "cli/around_request.h"

namespace omni::cli {

absl::Status ServerModel::Answer(const std::vector<ChatMessage>& messages, const ChatSettings& settings,
                                 const OnText& on_text, ChatReply& reply) {
  RemoteRequest request;
  request.messages = messages;
  // A server writes an assistant's message in its own form.
  for (ChatMessage& message : request.messages) {
    if (message.as_written) absl::StripLeadingAsciiWhitespace(&message.content);
  }
  request.max_tokens = settings.max_tokens;
  request.sampler = settings.sampler;
  request.stops = settings.stops;
  request.adapter = adapter_;
  RemoteAnswer answer;
  const absl::Status status = client_->Complete(request, on_text, answer);
  reply.message = {"assistant", answer.text, true};
  reply.reason = answer.reason;
  reply.computed = answer.prompt_tokens;
  reply.generated = answer.tokens;
  reply.first = answer.first;
  reply.rest = answer.rest;
  TokenReport report;
  report.SetAdapter(adapter_, answer.adapter_hash);
  reply.around = report.Lines();
  return status;
}

absl::Status ClusterModel::Answer(const std::vector<ChatMessage>& messages, const ChatSettings& settings,
                                  const OnText& on_text, ChatReply& reply) {
  ClusterClient::Request request = asks_;
  TokenReport report;
  request.prompt = chat_.Render(messages);
  request.max_tokens = settings.max_tokens;
  request.sampler = settings.sampler;
  request.stops = chat_.stops();
  request.stops.insert(request.stops.end(), settings.stops.begin(), settings.stops.end());
  reply.message = {"assistant", "", true};
  const absl::StatusOr<ClusterClient::Answer> answer =
      client_->Generate(request, [&](const GenerateEvent& event) {
        report.Add(event);
        reply.message.content += event.text;
        return on_text(event.text);
      });
  if (!answer.ok()) return answer.status();
  reply.reason = answer->reason;
  reply.computed = answer->prompt_tokens;
  reply.generated = static_cast<int64_t>(answer->tokens.size());
  reply.first = answer->prefill;
  reply.rest = answer->decode;
  TellAround(request, *answer, report);
  reply.around = report.Lines();
  return absl::OkStatus();
}

}  // namespace omni::cli
