// What Prometheus is told of the swarm, the cache, the cluster and the process. For http_metrics.cc alone:
// prometheus-cpp is seen here.
#pragma once

#include <cstdint>
#include <vector>

#include <prometheus/metric_family.h>

#include "cluster/status_source.h"

namespace omni {

// Names and units are by Prometheus's conventions; docs/serve.md lists them. `moments`: of the status, made
// for watchers since the start.
std::vector<prometheus::MetricFamily> StatusMetrics(const ProcessFacts& facts, const ProcessStatus& now,
                                                    int64_t moments);

}  // namespace omni
