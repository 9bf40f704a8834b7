// What a program says to an OpenAI-compatible server, and what it is told.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "cluster/http/chat_template.h"
#include "cluster/http/http_client.h"
#include "engine/text/sampler.h"

namespace omni {

// Of a completion `prompt` is looked at, of a chat `messages`. Texts are UTF-8. Settings that OpenAI's
// servers do not know (top_k, min_p, repeat_penalty, ignore_eos) are sent where they are on, and not
// otherwise.
struct RemoteRequest {
  std::string prompt = {};
  std::vector<ChatMessage> messages = {};
  int64_t max_tokens = 128;
  SamplerSettings sampler = {};
  std::vector<std::string> stops = {};
  bool stop_at_end_of_text = true;
  std::string adapter = {};  // by name, of an omni serve's; empty: none
};

struct RemoteAnswer {
  std::string text;
  std::string reason;        // the server's finish_reason, "cancelled"; empty: it did not come to its end
  std::string model;         // as the server calls it
  std::string request_id;    // for its operator; empty: it said none
  std::string adapter_hash;  // of the adapter that it was answered with; empty: it said none
  std::optional<int64_t> prompt_tokens, tokens;  // where the server counts them
  std::chrono::nanoseconds first{0};             // from the request to the first text
  std::chrono::nanoseconds rest{0};              // from there to the last
};

// The model's name is sent with every request. One thread at a time.
class OpenAiClient {
 public:
  // `model` empty: the one that the server has; asked of it when it is needed. A URL without a path means
  // /v1. Errors: HttpClient::Make's.
  static absl::StatusOr<std::unique_ptr<OpenAiClient>> Make(HttpClientOptions options, std::string model);

  // Called with each piece of text as it comes, and some ten times a second with nothing; false ends the
  // answer, at the server too, which is then "cancelled".
  using OnText = std::function<bool(std::string_view)>;
  // Errors are HttpClient's, or the server's own: Unauthenticated (401), PermissionDenied (403), NotFound,
  // InvalidArgument, ResourceExhausted (429), Unavailable, Internal, whose message names the server and what
  // it said. After an error `answer` has what came before it. FailedPrecondition: an adapter was asked for,
  // and the answer does not say that it had it.
  absl::Status Complete(const RemoteRequest& request, const OnText& on_text, RemoteAnswer& answer);

  // What another path of the server answers, as "/memory", of a request in JSON; an empty one: of GET. Errors
  // as Complete's.
  absl::StatusOr<std::string> Ask(const std::string& path, const std::string& json,
                                  const HttpClient::KeepGoing& keep_going);

  // The model's name. NotFound: the server has none; FailedPrecondition: it has several, which are listed.
  absl::StatusOr<std::string> Model(const HttpClient::KeepGoing& keep_going);
  const std::string& server() const { return server_; }  // as it was given

 private:
  OpenAiClient(std::unique_ptr<HttpClient> http, std::string prefix, std::string model, std::string server)
      : http_(std::move(http)),
        prefix_(std::move(prefix)),
        model_(std::move(model)),
        server_(std::move(server)) {}
  absl::Status Refused(const HttpClient::Answer& answer) const;

  std::unique_ptr<HttpClient> http_;
  std::string prefix_, model_, server_;
};

// Of one event of a stream of answers; for OpenAiClient and its tests. Returns false at the stream's end.
// Errors: it is none, or the server's own.
absl::StatusOr<bool> ReadAnswerEvent(std::string_view data, std::string& text, RemoteAnswer& answer);

}  // namespace omni
