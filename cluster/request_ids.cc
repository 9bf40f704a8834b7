#include "cluster/request_ids.h"

#include <algorithm>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

#include "engine/base/random.h"

namespace omni {
namespace {

bool IsRequestId(std::string_view text) {
  return !text.empty() && text.size() <= kMostRequestId && std::all_of(text.begin(), text.end(), [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
           std::string_view("-_.:/+=@").find(c) != std::string_view::npos;
  });
}

// So many lower-case hex digits.
bool IsHex(std::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

bool IsZero(std::string_view text) { return text.find_first_not_of('0') == text.npos; }

// VERSION-TRACE-SPAN-FLAGS of 2, 32, 16 and 2 digits; a later version may say more behind another dash.
void ReadTrace(std::string_view text, RequestIds& ids) {
  constexpr size_t kTrace = 3, kSpan = 36, kFlags = 53, kSize = 55;
  if (text.size() < kSize || text[2] != '-' || text[kSpan - 1] != '-' || text[kFlags - 1] != '-') return;
  const std::string_view version = text.substr(0, 2), trace = text.substr(kTrace, 32),
                         span = text.substr(kSpan, 16), flags = text.substr(kFlags, 2);
  if (!IsHex(version) || !IsHex(trace) || !IsHex(span) || !IsHex(flags)) return;
  if (version == "ff" || IsZero(trace) || IsZero(span)) return;
  if (version == "00" ? text.size() != kSize : text.size() > kSize && text[kSize] != '-') return;
  ids.trace = trace;
  ids.span = absl::StrFormat("%016x", std::max<uint64_t>(1, SystemRandom()));
  ids.traceparent = absl::StrCat("00-", ids.trace, "-", ids.span, "-", absl::string_view(flags.data(), 2));
}

}  // namespace

std::string NewRequestId() { return RandomHex(32); }

RequestIds ReadRequestIds(std::string_view request_id, std::string_view traceparent) {
  RequestIds ids;
  ids.request = IsRequestId(request_id) ? std::string(request_id) : NewRequestId();
  ReadTrace(traceparent, ids);
  return ids;
}

}  // namespace omni
