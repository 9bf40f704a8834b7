#include "cluster/grpc_log.h"

#include <google/protobuf/stubs/logging.h>
#include <grpc/support/log.h>

#include <string>
#include <string_view>

#include "engine/base/log.h"

namespace omni {

// gRPC calls errors what is an everyday event here, a stranger's handshake or a node that is not there: who
// has to know of it is told by the call that failed.
void TakeGrpcLog() {
  gpr_set_log_function([](gpr_log_func_args* args) {
    if (args->severity != GPR_LOG_SEVERITY_ERROR) return;
    LogDebug("grpc_says", "{text}", {{"text", std::string_view(args->message)}});
  });
  // So does protobuf, of messages that it cannot read.
  google::protobuf::SetLogHandler(
      [](google::protobuf::LogLevel, const char*, int, const std::string& message) {
        LogDebug("grpc_says", "{text}", {{"text", message}});
      });
}

}  // namespace omni
