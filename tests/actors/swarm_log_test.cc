#include "actors/swarm_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/testing/recording_log.h"

namespace omni {
namespace {

using testing::RecordingLog;

TEST(SwarmLog, SaysWhoWhatAndWhy) {
  const RecordingLog log;
  LogRegionRestarted(RegionId(3), "no answer within 30000 ms");
  LogRegionAskedAgain(RegionId(3), LayerId(7), 2, "no answer within 30000 ms");
  LogRegionGivenUp(RegionId(3), LayerId(7), 3, "no answer within 30000 ms");
  LogRegionMoved(RegionId(3), 5);
  LogSessionRefused(SessionId(12),
                    absl::ResourceExhaustedError("256 requests are waiting already; try again later"));
  LogSessionQueued(SessionId(12), "64 sessions are active");
  LogSessionFailed(SessionId(12), 40, absl::UnavailableError("region 3 failed 3 times at layer 7"));
  LogSwarmAborted(2, absl::InternalError("the coordinator failed: out of memory"));
  const struct {
    LogLevel level;
    const char* message;
  } expected[] = {
      {LogLevel::kWarning, "region 3 was begun afresh: no answer within 30000 ms"},
      {LogLevel::kInfo, "region 3 is asked again at layer 7, attempt 2: no answer within 30000 ms"},
      {LogLevel::kError, "region 3 failed 3 times at layer 7: no answer within 30000 ms"},
      {LogLevel::kInfo, "region 3 is answered by another since epoch 5"},
      {LogLevel::kInfo, "session 12 was refused: 256 requests are waiting already; try again later"},
      {LogLevel::kDebug, "session 12 waits: 64 sessions are active"},
      {LogLevel::kInfo, "session 12 ended after 40 tokens: region 3 failed 3 times at layer 7"},
      {LogLevel::kError, "2 sessions were given up: the coordinator failed: out of memory"}};
  const std::vector<RecordingLog::Line> lines = log.lines();
  ASSERT_EQ(lines.size(), std::size(expected));
  for (size_t i = 0; i < lines.size(); ++i) {
    EXPECT_EQ(lines[i].level, expected[i].level) << lines[i].event;
    EXPECT_EQ(lines[i].message, expected[i].message);
  }
}

}  // namespace
}  // namespace omni
