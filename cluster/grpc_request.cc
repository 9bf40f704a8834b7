#include "cluster/grpc_request.h"

#include <iterator>

#include "engine/base/log.h"

namespace omni {

std::string MetadataOf(const grpc::ServerContextBase& context, const char* name) {
  const auto [begin, end] = context.client_metadata().equal_range(name);
  if (begin == end || std::next(begin) != end) return "";
  return {begin->second.data(), begin->second.size()};
}

RequestIds NameRequest(grpc::CallbackServerContext& context) {
  RequestIds ids =
      ReadRequestIds(MetadataOf(context, kRequestIdHeader), MetadataOf(context, kTraceparentHeader));
  context.AddInitialMetadata(kRequestIdHeader, ids.request);
  if (!ids.traceparent.empty()) context.AddInitialMetadata(kTraceparentHeader, ids.traceparent);
  return ids;
}

void LogGrpcRequest(const GrpcRequest& request, const absl::Status& status) {
  if (!LogEnabled(LogLevel::kInfo)) return;
  const RequestRecord& record = request.record;
  const std::chrono::nanoseconds took = std::chrono::steady_clock::now() - request.asked;
  LogInfo("grpc_request", "{method}: {status} after {took}",
          {{"request", record.ids.request},
           {"trace", record.ids.trace},
           {"span", record.ids.span},
           {"method", request.method},
           {"status", absl::StatusCodeToString(status.code())},
           {"took", took},
           {"first_token", record.first_token},
           {"prompt_tokens", record.prompt_tokens},
           {"tokens", record.tokens},
           {"session", record.session},
           {"caller", record.caller}});
}

}  // namespace omni
