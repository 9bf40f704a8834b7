#include "cli/server_flags.h"

#include <cstdlib>
#include <utility>

#include <absl/strings/str_cat.h>

namespace omni::cli {

void ServerFlags::Add(Verb& verb, bool model) {
  server_.Add(verb.Value(
      "--server", "URL",
      [this](const std::string& text) {
        const auto url = ParseHttpUrl(text);
        if (url.ok()) server = text;
        return url.ok() ? std::string() : std::string(url.status().message());
      },
      model ? "An OpenAI-compatible server that answers, as http://127.0.0.1:8080; -m then names its model"
            : "An omni serve that is asked, as http://127.0.0.1:8080"));
  beside_.Add(verb.Text(
      "--api-key,--key", key_,
      "The server's key; others of this machine can see a command line, so rather give it as OMNI_API_KEY or "
      "OPENAI_API_KEY"));
  beside_.Add(
      verb.Path("--ca", ca, "Certificates (PEM) of the authorities to believe instead of the system's"));
}

absl::StatusOr<std::unique_ptr<OpenAiClient>> ServerFlags::Connect(const std::string& model,
                                                                   bool allow_plain) const {
  HttpClientOptions options;
  options.url = server;
  options.key = key_;
  if (const char* key = std::getenv("OPENAI_API_KEY"); options.key.empty() && key != nullptr)
    options.key = key;
  options.ca_file = ca;
  options.allow_plain = allow_plain;
  absl::StatusOr<std::unique_ptr<OpenAiClient>> client = OpenAiClient::Make(std::move(options), model);
  if (absl::IsInvalidArgument(client.status())) return UsageError(std::string(client.status().message()));
  return client;
}

}  // namespace omni::cli
