// The model's folder of a node that joins others with an empty one.
#pragma once

#include <string>
#include <vector>

#include <absl/status/status.h>

#include "cluster/joiner.h"

namespace omni {

// Makes the folder if it is not there; into one that is empty, of a node that joins `peers`, comes what every
// node needs of the model that their cluster has. Waits for them.
absl::Status BeginModel(const std::string& dir, const std::vector<std::string>& peers,
                        const NodeCredentials& credentials, const JoinOffer& offer);

}  // namespace omni
