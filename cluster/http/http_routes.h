// The paths that a door answers: a table from method and path to who answers.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <absl/status/status.h>

#include "cluster/access_keys.h"
#include "cluster/caller_limits.h"
#include "cluster/http/http_server.h"

namespace omni {

// A request whose route was found.
struct RoutedRequest {
  HttpRequest http;
  std::string argument;  // what stands for the route's '*', its %XX decoded; empty: it has none
  std::string caller;    // whose it is; empty: nobody in particular
  // Of work: held until it is over, told of its tokens, asked whether it has had its time. Null: no limits.
  std::shared_ptr<CallerLimits::Permit> permit = nullptr;
  Scopes scopes = {};  // of the caller
};

// On the server's thread; does not wait. Null: it has been answered.
using RouteHandler =
    std::function<std::shared_ptr<HttpCall>(RoutedRequest request, std::shared_ptr<HttpExchange> exchange)>;
// Of what is answered at once.
using RoutePage = std::function<HttpAnswer(const RoutedRequest& request)>;

// Of whoever calls, where keys are wanted: a key with a scope, or nothing.
// kKey: any key; what it allows is looked at by the handler.
enum class RouteNeeds { kInfer, kTasks, kAdmin, kKey, kNothing };

struct HttpRoute {
  // Work is not taken while the server drains; a body must be JSON and say so.
  enum class Kind { kPage, kWork };

  const char* method;  // "GET": HEAD too
  // One '*' may stand for a part of it: for one segment or, at the end, for all that follows
  // ("/v1/models/*").
  // What stands for a client's path in metrics and logs.
  const char* path;
  Kind kind = Kind::kPage;
  RouteHandler handle;
  RouteNeeds needs = RouteNeeds::kInfer;
};

// Filled before it is asked; then any thread may ask.
class HttpRoutes {
 public:
  void Page(const char* method, const char* path, RoutePage page, RouteNeeds needs = RouteNeeds::kInfer);
  void Work(const char* path, RouteHandler handle, RouteNeeds needs = RouteNeeds::kInfer);  // of POST
  // Of GET and HEAD, answered for as long as somebody listens.
  void Stream(const char* path, RouteHandler handle, RouteNeeds needs = RouteNeeds::kInfer);
  // The same of any method: of a body it is the handler that looks at the type.
  void Call(const char* method, const char* path, RouteHandler handle, RouteNeeds needs);

  struct Found {
    const HttpRoute* route = nullptr;  // null: no such path, or not with this method
    std::string argument;
    std::string
        allowed;  // the methods that the path takes, as "GET, HEAD, DELETE"; empty: there is no such path
    const char* path = nullptr;  // the path's, whatever the method; null: there is none
  };
  // The first that fits.
  Found Find(std::string_view method, std::string_view path) const;
  const std::deque<HttpRoute>& all() const { return routes_; }

 private:
  std::deque<HttpRoute> routes_;  // does not move them
};

struct HttpDoorFacts {
  bool tls = false;
  std::vector<std::string> origins;  // whose pages may ask by a browser
};

// Further paths of a door, and what answers them.
class HttpExtension {
 public:
  virtual ~HttpExtension() = default;
  virtual void AddRoutes(HttpRoutes& routes, const HttpDoorFacts& door) = 0;
  // Ends what is still being answered, and what comes from now on, with the status. Any thread.
  virtual void EndAll(const absl::Status& status) = 0;
};

}  // namespace omni
