#include "cluster/routes.h"

#include "cluster/cluster_log.h"

namespace omni {

void NodeHealth::Suspect(Clock::time_point now) {
  const bool news = !suspect();
  suspect_since_.store(now.time_since_epoch().count());
  if (news && !node_.empty()) LogNodeSuspect(node_);
}

}  // namespace omni
