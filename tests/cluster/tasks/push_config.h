#pragma once

#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "cluster/tasks/push_target.h"

namespace omni::testing {

// One that allows these, with a key.
inline PushConfig PushesTo(const std::vector<std::string>& urls) {
  PushConfig config;
  for (const std::string& url : urls) {
    absl::StatusOr<PushUrl> parsed = ParsePushUrl(url);
    EXPECT_TRUE(parsed.ok()) << url << ": " << parsed.status();
    if (parsed.ok()) config.allow.push_back(*std::move(parsed));
  }
  config.key = "0123456789abcdef";
  return config;
}

}  // namespace omni::testing
