// Which addresses and names are this machine's own.
#pragma once

#include <string>

namespace omni {

// Whether what is sent to or served at an address stays on this machine: 127.0.0.0/8, ::1 and "localhost" in
// any case, with or without a port, IPv6 addresses in brackets if with one. 0.0.0.0, "", other names, however
// they begin: no.
bool IsLoopback(const std::string& address);

}  // namespace omni
