// ClusterReport as omni.cluster.v1.ClusterStatus, and back.
#pragma once

#include "cluster/coordinator_role.h"
#include "omni/cluster/v1/admin.pb.h"

namespace omni {

void ToProto(const ClusterReport& report, ::omni::cluster::v1::ClusterStatus& status);
// What ClusterStatus does not carry is left as it is made. Regions and nodes are as the message says.
ClusterReport FromProto(const ::omni::cluster::v1::ClusterStatus& status);

}  // namespace omni
