// Who may ask an HTTP door for what, and which other sites' pages may ask through a browser.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <absl/status/status.h>

#include "cluster/access.h"
#include "cluster/http/http_routes.h"
#include "cluster/http/http_server.h"

namespace omni {

struct HttpGuardOptions {
  // Not null: whoever asks shows a key. Null: whoever reaches this server may do everything, and asks for it
  // under a name of loopback, so that no page of another site can use a browser to ask in its user's place.
  std::shared_ptr<Access> access;
  // Origins, as "https://chat.example", whose pages a browser lets ask and see the answers; of others it lets
  // none. There are no cookies here, so a page has to have a key of its own.
  std::vector<std::string> cors_origins;
};

// "https://chat.example[:PORT]", as a browser writes it; InvalidArgument says what is wrong with another.
absl::Status CheckOrigin(const std::string& origin);

// On the server's thread.
class HttpGuard {
 public:
  explicit HttpGuard(HttpGuardOptions options) : options_(std::move(options)) {}

  // What is answered to a request before anything of it but the head is looked at: a refusal (401 says how to
  // come in, 403 what the key lacks), or that a browser may ask; else who asks.
  struct Verdict {
    std::optional<HttpAnswer> answer;
    Caller caller;
  };
  Verdict Check(const HttpRequest& head, const HttpRoutes::Found& found) const;

  // The same exchange, or one whose answers tell a browser that the page which asked may see them.
  std::shared_ptr<HttpExchange> Wrap(const HttpRequest& head, std::shared_ptr<HttpExchange> exchange) const;
  // The same of one answer.
  void Mark(const HttpRequest& head, HttpAnswer& answer) const;

 private:
  bool IsAllowedOrigin(const std::string& origin) const;
  HttpAnswer Preflight(const HttpRequest& head, const HttpRoutes::Found& found) const;

  const HttpGuardOptions options_;
};

}  // namespace omni
