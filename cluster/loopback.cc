#include "cluster/loopback.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <absl/strings/match.h>

#include "cluster/host_port.h"

namespace omni {

bool IsLoopback(const std::string& address) {
  const std::string host = SplitHostPort(address).host;
  if (absl::EqualsIgnoreCase(host, "localhost")) return true;
  in_addr v4{};
  if (::inet_pton(AF_INET, host.c_str(), &v4) == 1) return (ntohl(v4.s_addr) >> 24) == 127;
  in6_addr v6{};
  if (::inet_pton(AF_INET6, host.c_str(), &v6) != 1) return false;
  return IN6_IS_ADDR_LOOPBACK(&v6) || (IN6_IS_ADDR_V4MAPPED(&v6) && v6.s6_addr[12] == 127);
}

}  // namespace omni
