// What learning an adapter did, as JSON, for whoever asked for it here or of a server.
#pragma once

#include <vector>

#include <nlohmann/json.hpp>

#include "engine/around/adapt_learn.h"

namespace omni {

nlohmann::json AdaptReportJson(const AdaptReport& report);
// Of each block, how much more the loss is without it.
nlohmann::json AdaptSharesJson(const std::vector<AdaptShare>& shares, double nats, double nats_before);

}  // namespace omni
