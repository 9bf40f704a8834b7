// How a request is found again: its name in its answer, and what the log says of it.
#include <filesystem>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/cluster/http/door_fixture.h"
#include "tests/testing/recording_log.h"

namespace omni {
namespace {

using ::testing::AllOf;
using testing::Get;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using ::testing::Not;
using testing::Post;
using testing::RawAnswer;
using testing::RecordingLog;
using ::testing::StartsWith;

constexpr char kChat[] = "/v1/chat/completions";

class RequestLogTest : public testing::HttpDoorFixture {
 protected:
  static std::string Body(bool stream) {
    return std::string(R"({"messages":[{"role":"user","content":"x"}],"max_tokens":9,"ignore_eos":true,)") +
           (stream ? R"("stream":true})" : R"("seed":1})");
  }
};

TEST_F(RequestLogTest, ARequestIsCalledTheSameInItsAnswerAndInTheLog) {
  Open();
  const RecordingLog log;
  const std::string trace = "0af7651916cd43dd8448eb211c80319c";
  const std::string headers = "X-Request-Id: mine-1\r\nTraceparent: 00-" + trace + "-b7ad6b7169203331-01\r\n";
  for (const bool stream : {false, true}) {
    const RawAnswer answer = Ask(Post(kChat, Body(stream), headers));
    ASSERT_EQ(answer.status, 200) << answer.body;
    EXPECT_EQ(answer.headers.at("X-Request-Id"), "mine-1");
    EXPECT_THAT(answer.headers.at("traceparent"), MatchesRegex("00-" + trace + "-[0-9a-f]{16}-01"));
  }
  for (const std::string& request : {Get("/health"), Get("/nothing"), Post(kChat, "{")}) {
    const RawAnswer answer = Ask(request);
    EXPECT_THAT(answer.headers.at("X-Request-Id"), MatchesRegex("[0-9a-f]{32}"));
    EXPECT_FALSE(answer.headers.contains("traceparent"));
  }
  backend_->submitting = absl::InternalError("broken");
  EXPECT_EQ(Ask(Post(kChat, Body(true), headers)).headers.at("X-Request-Id"), "mine-1");
  EXPECT_TRUE(door_->Drain(std::chrono::minutes(1)));
  const std::vector<std::string> lines = log.Messages("http_request");
  ASSERT_EQ(lines.size(), 6u);
  for (const size_t i : {0, 1}) {
    EXPECT_THAT(lines[i], StartsWith("POST /v1/chat/completions: 200 after "));
    EXPECT_THAT(lines[i], HasSubstr("(request=mine-1, trace=" + trace + ", span="));
    EXPECT_THAT(lines[i], AllOf(HasSubstr(", tokens=9, session="), Not(HasSubstr("session=0,"))));
  }
  EXPECT_THAT(lines[3], StartsWith("GET other: 404 after "));
  EXPECT_THAT(lines[5], AllOf(HasSubstr(": 500 after "), HasSubstr("request=mine-1")));
}

TEST_F(RequestLogTest, ASessionThatFailsIsFoundByTheNumberThatItsRequestsLineSays) {
  OpenOptions open;
  open.residency = Residency::kStreamed;
  open.cache_bytes = 6 * testing::TileBytes(testing::StreamedConfig());
  Open({}, open);
  for (const auto& entry : std::filesystem::directory_iterator(temp_ / "m" + "/packs"))
    std::filesystem::resize_file(entry.path(), 4096);
  const RecordingLog log;
  EXPECT_EQ(Ask(Post(kChat, Body(false), "X-Request-Id: mine-2\r\n")).status, 500);
  EXPECT_TRUE(door_->Drain(std::chrono::minutes(1)));
  const std::vector<std::string> failed = log.Messages("session_failed"),
                                 lines = log.Messages("http_request");
  ASSERT_EQ(failed.size(), 1u);
  ASSERT_EQ(lines.size(), 1u);
  const std::string number = failed[0].substr(8, failed[0].find(' ', 8) - 8);
  EXPECT_THAT(failed[0], StartsWith("session " + number + " ended"));
  EXPECT_THAT(lines[0], AllOf(HasSubstr("request=mine-2"), HasSubstr(", session=" + number + ",")));
}

TEST_F(RequestLogTest, ItsLinesHaveNoLimit) {
  Open();
  const RecordingLog log({.level = LogLevel::kInfo, .per_second = 1});
  for (int i = 0; i < 20; ++i) EXPECT_EQ(Ask(Get("/health")).status, 200);
  EXPECT_TRUE(door_->Drain(std::chrono::minutes(1)));
  EXPECT_EQ(log.Messages("http_request").size(), 20u);
}

TEST_F(RequestLogTest, ItsLinesCanBeSwitchedOff) {
  log_requests_ = false;
  Open();
  const RecordingLog log;
  EXPECT_EQ(Ask(Get("/health")).status, 200);
  EXPECT_TRUE(door_->Drain(std::chrono::minutes(1)));
  EXPECT_EQ(log.Messages("http_request").size(), 0u);
}

}  // namespace
}  // namespace omni
