// What keeps two nodes from a TLS link, in words: gRPC itself says little more than that it failed.
#pragma once

#include <chrono>
#include <string>

#include <absl/status/status.h>

#include "cluster/certificates.h"

namespace omni {

// Why no link to `target`, HOST:PORT, can be made with these credentials (without a certificate: as a
// node that has none). Makes a connection of its own and waits up to `timeout`; not on a thread that
// others wait for. Ok: a link can be made now. Unavailable: nobody answers there; FailedPrecondition: one
// side does not accept the other, and the message says what to do.
absl::Status ExplainLink(const NodeCertificate& credentials, const std::string& target,
                         std::chrono::milliseconds timeout);

}  // namespace omni
