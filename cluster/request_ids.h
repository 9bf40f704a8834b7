// The names by which one request is found again: in its answer, in the log, in whatever its client kept.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

namespace omni {

struct RequestIds {
  std::string request;      // the client's, or a new one; never empty
  std::string trace, span;  // W3C Trace Context, in hex: the client's trace, and this request's part of it
  std::string
      traceparent;  // what the answer says of it; empty, like the two before: the client traces nothing
};

inline constexpr size_t kMostRequestId = 128;
inline constexpr char kRequestIdHeader[] = "x-request-id", kTraceparentHeader[] = "traceparent";

std::string NewRequestId();  // 32 hex digits; thread-safe

// From what a client sent under these names; empty: it sent none. An id may have up to kMostRequestId
// characters of A-Z a-z 0-9 - _ . : / + = @; what is not one, and a traceparent that is malformed, is as good
// as none. Thread-safe.
RequestIds ReadRequestIds(std::string_view request_id, std::string_view traceparent);

// What the log is told of a request when it is over. Touched by one thread at a time.
struct RequestRecord {
  RequestIds ids;
  std::string caller;   // by its key's name; empty: nobody in particular
  int64_t session = 0;  // of the swarm; 0: it began none
  int64_t prompt_tokens = 0, tokens = 0;
  std::chrono::nanoseconds first_token{0};  // since the request; 0: there was none
};

}  // namespace omni
