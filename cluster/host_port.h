// "HOST:PORT", "[IPV6]:PORT", and hosts alone.
#pragma once

#include <string>

namespace omni {

struct HostPort {
  std::string host;  // without brackets
  std::string port;  // empty: none was given
};

// What is no address of this form is all host.
inline HostPort SplitHostPort(const std::string& address) {
  if (address.starts_with('[')) {
    const size_t end = address.find(']');
    if (end == std::string::npos) return {address, ""};
    if (end + 1 == address.size()) return {address.substr(1, end - 1), ""};
    if (address[end + 1] != ':') return {address, ""};
    return {address.substr(1, end - 1), address.substr(end + 2)};
  }
  const size_t colon = address.find(':');
  if (colon == std::string::npos || address.find(':', colon + 1) != std::string::npos) return {address, ""};
  return {address.substr(0, colon), address.substr(colon + 1)};
}

}  // namespace omni
