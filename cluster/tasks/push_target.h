// Where notifications may be sent to: what the file of --push says, and nowhere else.
//
//     {"allow": ["https://hooks.example.com/omni", "http://127.0.0.1:9000"],
//      "key_file": "/etc/omni/push.key", "ca_file": "/etc/omni/hooks.pem"}
//
// An address that is allowed is a scheme, a host, a port and the beginning of a path, whole segments of it. A
// host that is a name is looked up once for each notification, and what is connected to is one of the
// addresses that were found; those of this machine, of private networks and of no host at all are left out.
// Whoever is meant to be told there is allowed by an address in place of a name.
#pragma once

#include <string>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "cluster/http/http_client.h"

namespace omni {

// A URL as what is allowed is compared with what is asked for.
struct PushUrl {
  HttpUrl server;    // without a path, the host in lower case
  std::string path;  // as it was given
};
// InvalidArgument: it is no URL that could be allowed.
absl::StatusOr<PushUrl> ParsePushUrl(const std::string& text);

struct PushConfig {
  std::vector<PushUrl> allow;  // empty: nobody is told
  std::string key;             // what notifications are signed with
  std::string ca_file;         // PEM of the authorities that are believed; empty: the system's
};
// Of a file. Errors name it, and what is wrong.
absl::StatusOr<PushConfig> LoadPushConfig(const std::string& path);

struct PushTarget {
  std::string server;  // URL without a path
  std::string path;
};
// ParsePushUrl's errors; PermissionDenied: it is not allowed.
absl::StatusOr<PushTarget> CheckPushUrl(const PushConfig& config, const std::string& url);

// Whether an address, as "192.0.2.1", may be anybody's on the internet: none of this machine, of private or
// shared networks, of a link, for several, for documents, or reserved.
bool IsPublicAddress(const std::string& address);
// `find` (null: the system says), without the addresses that are not public.
FindHost FindPublicHost(FindHost find);

// HMAC-SHA256 of the time, a point and the body, as hex.
std::string SignPush(const std::string& key, const std::string& time, const std::string& body);

}  // namespace omni
