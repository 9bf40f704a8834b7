// What one caller may have of the inference service, and how it is told.
#include <atomic>
#include <chrono>
#include <memory>

#include <gmock/gmock.h>

#include "cluster/caller_limits.h"
#include "tests/cluster/inference_fixture.h"

namespace omni {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::HasSubstr;
using testing::StatusCode;
using testing::pb::GenerateResponse;

constexpr uint64_t kEndless = 900'000;  // tokens: more than a test waits for

class InferenceLimitsTest : public testing::InferenceFixture {
 protected:
  void Limit(const CallerLimitOptions& limits) {
    options_.limits = std::make_shared<CallerLimits>(
        limits, [this] { return CallerLimits::Clock::time_point(milliseconds(now_ms_)); });
    Restart();
  }
  // When to ask again, as the refusal's RetryInfo says.
  milliseconds Refused(const grpc::Status& status, const char* why) {
    EXPECT_EQ(status.error_code(), StatusCode::RESOURCE_EXHAUSTED) << status.error_message();
    EXPECT_THAT(status.error_message(), HasSubstr(why));
    return DetailsOf(status).retry.value_or(milliseconds(0));
  }
  std::atomic<int64_t> now_ms_ = 1'000'000;
};

TEST_F(InferenceLimitsTest, ACallerHasSoManyUnderWay) {
  Limit({.requests = 1, .tokens_per_minute = 0, .time = milliseconds(0)});
  grpc::ClientContext context;
  const auto reader = stub_->GenerateStream(&context, Request("the sea", kEndless));
  GenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_GT(Refused(Generate(Request("the ship", 3)).status, "1 requests under way"), milliseconds(0));
  context.TryCancel();
  while (reader->Read(&response)) {
  }
  reader->Finish();
  // It has ended here, and there a little later.
  const auto until = std::chrono::steady_clock::now() + std::chrono::minutes(1);
  grpc::Status status;
  do {
    status = Generate(Request("the ship", 3)).status;
  } while (status.error_code() == StatusCode::RESOURCE_EXHAUSTED && std::chrono::steady_clock::now() < until);
  EXPECT_TRUE(status.ok()) << status.error_message();
}

TEST_F(InferenceLimitsTest, TokensThatACallerOwesAreWaitedFor) {
  Limit({.requests = 0, .tokens_per_minute = 60, .time = milliseconds(0)});
  const Whole first = Generate(Request("the sea", 100));
  ASSERT_TRUE(first.status.ok()) << first.status.error_message();
  const milliseconds wait = Refused(Generate(Request("the sea", 1)).status, "60 tokens a minute");
  EXPECT_GE(wait, seconds(100 - 60 + 1));
  now_ms_ += wait.count();
  EXPECT_TRUE(Generate(Request("the sea", 1)).status.ok());
}

TEST_F(InferenceLimitsTest, AnAnswerEndsWithItsTimeAndHasSoManyTokens) {
  options_.most_tokens = 1'000'000;
  Limit({.requests = 0, .tokens_per_minute = 0, .time = seconds(60)});
  grpc::ClientContext context;
  const auto reader = stub_->GenerateStream(&context, Request("the sea", kEndless));
  GenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));
  now_ms_ += 60'000;
  while (reader->Read(&response)) {
  }
  const grpc::Status status = reader->Finish();
  EXPECT_EQ(status.error_code(), StatusCode::DEADLINE_EXCEEDED) << status.error_message();
  EXPECT_THAT(status.error_message(), HasSubstr("has taken the 60 s"));
  const grpc::Status more = Generate(Request("the sea", 1'000'001)).status;
  EXPECT_EQ(more.error_code(), StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(more.error_message(), HasSubstr("up to 1000000 here"));
}

}  // namespace
}  // namespace omni
