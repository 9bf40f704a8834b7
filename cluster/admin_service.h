// omni.cluster.v1.Admin over the coordinator's role of this process.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include <absl/status/status.h>

#include "cluster/coordinator_role.h"

namespace grpc {
class Service;
}

namespace omni {

class AdminService {
 public:
  // Without a role this node does not coordinate: whoever asks is told so, with what `elsewhere` says.
  AdminService(ClusterRecord cluster, std::function<std::string()> elsewhere);
  ~AdminService();

  grpc::Service* service();
  void set_role(CoordinatorRole* role);  // thread-safe; it outlives the service's server

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace omni
