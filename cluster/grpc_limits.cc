#include "cluster/grpc_limits.h"

#include <grpcpp/grpcpp.h>

#include "cluster/cluster_client.h"
#include "cluster/frames.h"

namespace omni {

void SetServerLimits(grpc::ServerBuilder& builder) {
  builder.SetMaxReceiveMessageSize(static_cast<int>(kMaxFrameBytes));
  builder.SetMaxSendMessageSize(static_cast<int>(kMaxFrameBytes));
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  // By default a server hangs up on whoever pings it twice within five minutes without anything being said.
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                             static_cast<int>(kClientPing.count() / 2));
  // A caller that was cut off without a word does not keep its connection for ever.
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 10'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
}

}  // namespace omni
