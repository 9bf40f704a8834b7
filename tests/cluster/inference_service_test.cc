// Answers that are taken up again, over a server on loopback and a log that a test has written.
#include "cluster/inference_service.h"

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <absl/strings/str_cat.h>
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include "engine/text/prompt.h"
#include "omni/inference/v1/inference.grpc.pb.h"
#include "tests/cluster/session_log_fixture.h"
#include "tests/testing/recording_log.h"

namespace omni {
namespace {

namespace pb = ::omni::inference::v1;
using testing::Calls;
using testing::Tokens;

// A coordinator at which nothing may be computed any more.
class FakeBackend : public InferenceService::Backend {
 public:
  absl::Status Serving() override { return absl::OkStatus(); }
  std::string Elsewhere() override { return ""; }
  absl::StatusOr<std::unique_ptr<SessionHandle>> Submit(GenerateRequest, SubmitOptions) override {
    ++submitted;
    return absl::InternalError("nothing is computed here");
  }
  const Tokenizer& tokenizer() override { return tokenizer_; }
  int64_t max_context() override { return context; }
  std::string model_hash() override { return "hash"; }
  std::string node() override { return "node"; }

  int submitted = 0;
  int64_t context = 1000;

 private:
  const Tokenizer tokenizer_ = Tokenizer::Train("ab ab abc", 300).value();
};

// A log that may be read, and written to only as long as the test likes.
class GuardedLog : public SessionLog {
 public:
  explicit GuardedLog(SessionLog& inner) : inner_(inner) {}
  void Begin(const std::string& id, std::string request, Done done) override {
    inner_.Begin(id, std::move(request), std::move(done));
  }
  void Append(std::vector<LoggedTokens> tokens, Done done) override {
    inner_.Append(std::move(tokens), std::move(done));
  }
  void Find(const std::string& id, std::function<void(absl::StatusOr<LoggedSession>)> done) override {
    inner_.Find(id, std::move(done));
  }
  void Forget(const std::string& id, Done done) override { inner_.Forget(id, std::move(done)); }
  void Times(std::function<void(absl::StatusOr<LoggedTimes>)> done) override {
    inner_.Times(std::move(done));
  }
  void SetTimes(const LoggedTimes& times, Done done) override { inner_.SetTimes(times, std::move(done)); }
  void Touch(const std::string& id, Done done) override {
    if (failing) return done(absl::UnavailableError("the disk failed"));
    inner_.Touch(id, std::move(done));
  }

  std::atomic<bool> failing = false;

 private:
  SessionLog& inner_;
};

class InferenceServiceTest : public ::testing::Test {
 protected:
  InferenceServiceTest() {
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(service_.service());
    server_ = builder.BuildAndStart();
    stub_ = pb::Inference::NewStub(
        grpc::CreateChannel(absl::StrCat("127.0.0.1:", port), grpc::InsecureChannelCredentials()));
  }
  ~InferenceServiceTest() override { server_->Shutdown(); }

  // As a coordinator has left it that has gone.
  void Log(const std::string& id, int32_t tokens, int max_tokens) {
    pb::GenerateRequest request;
    request.set_prompt("abc");
    request.set_max_tokens(static_cast<uint64_t>(max_tokens));
    request.set_ignore_end_of_text(true);
    ASSERT_TRUE(calls_.Begin(id, request.SerializeAsString()).ok());
    ASSERT_TRUE(calls_.Append({{id, 0, Tokens(60, tokens), ""}}).ok());
  }
  struct Answer {
    std::vector<int32_t> tokens;
    std::string reason;
    grpc::Status status;
  };
  Answer TakeUp(const std::string& id, uint64_t have) {
    grpc::ClientContext context;
    pb::GenerateRequest request;
    request.set_request_id(id);
    request.set_have(have);
    const auto reader = stub_->GenerateStream(&context, request);
    Answer answer;
    pb::GenerateResponse message;
    while (reader->Read(&message)) {
      if (message.has_token()) answer.tokens.push_back(message.token().id());
      if (message.has_finished()) answer.reason = message.finished().reason();
    }
    answer.status = reader->Finish();
    return answer;
  }

  FakeBackend backend_;
  testing::DatabaseLog log_;
  Calls calls_{log_};
  GuardedLog guarded_{log_.log()};
  testing::TempDir dir_;
  std::unique_ptr<Database> database_ = Database::Open(dir_ / "saved", {}).value();
  std::unique_ptr<SavedSessions> saved_ = MakeDatabaseSavedSessions(*database_);
  InferenceService service_{{}, backend_, guarded_, *saved_};
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<pb::Inference::Stub> stub_;
};

// Its last token was logged, and its coordinator killed before it said that it was the last.
TEST_F(InferenceServiceTest, AnAnswerThatIsWholeEndsWithTheReasonThatItWouldHaveHad) {
  const auto prompt = static_cast<int64_t>(PromptTokens(backend_.tokenizer(), "abc").size());
  backend_.context = prompt + 5;
  Log("at-the-limit", 5, 100);
  const Answer context = TakeUp("at-the-limit", 3);
  EXPECT_TRUE(context.status.ok()) << context.status.error_message();
  EXPECT_EQ(context.reason, "context");
  EXPECT_EQ(context.tokens, (std::vector<int32_t>{63, 64}));

  Log("at-its-length", 5, 5);
  EXPECT_EQ(TakeUp("at-its-length", 0).reason, "length") << "as a session says it, which asks for this first";
  EXPECT_EQ(backend_.submitted, 0);

  // One that is not is gone on with.
  Log("short-of-it", 4, 100);
  EXPECT_EQ(TakeUp("short-of-it", 4).status.error_code(), grpc::StatusCode::INTERNAL);
  EXPECT_EQ(backend_.submitted, 1);
}

TEST_F(InferenceServiceTest, WhoHasMoreThanThereIsOrAsksForNothingKnownIsToldSo) {
  Log("whole", 3, 3);
  const Answer beyond = TakeUp("whole", 4);
  EXPECT_EQ(beyond.status.error_code(), grpc::StatusCode::OUT_OF_RANGE);
  EXPECT_EQ(beyond.status.error_message(), "the answer has 3 tokens, and the client says it has 4");
  EXPECT_TRUE(beyond.tokens.empty());
  EXPECT_EQ(backend_.submitted, 0);
  EXPECT_EQ(TakeUp("unknown", 1).status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(TakeUp("no/name", 0).status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(InferenceServiceTest, ARequestIsCalledTheSameInItsMetadataAndInTheLog) {
  Log("whole", 5, 5);
  const testing::RecordingLog log;
  const std::string trace = "0af7651916cd43dd8448eb211c80319c";
  const auto told = [](const grpc::ClientContext& context) {
    std::map<std::string, std::string> metadata;
    for (const auto& [key, value] : context.GetServerInitialMetadata())
      metadata[std::string(key.data(), key.size())] = std::string(value.data(), value.size());
    return metadata;
  };
  for (const bool named : {true, false}) {
    grpc::ClientContext context;
    if (named) {
      context.AddMetadata("x-request-id", "mine-3");
      context.AddMetadata("traceparent", "00-" + trace + "-b7ad6b7169203331-01");
    }
    pb::GenerateRequest request;
    request.set_request_id("whole");
    const auto reader = stub_->GenerateStream(&context, request);
    pb::GenerateResponse message;
    while (reader->Read(&message)) {
    }
    EXPECT_TRUE(reader->Finish().ok());
    auto metadata = told(context);
    EXPECT_THAT(metadata["x-request-id"], ::testing::MatchesRegex(named ? "mine-3" : "[0-9a-f]+"));
    EXPECT_EQ(metadata.contains("traceparent"), named);
    if (named) {
      EXPECT_THAT(metadata["traceparent"], ::testing::StartsWith("00-" + trace + "-"));
    }
  }
  grpc::ClientContext context;
  context.AddMetadata("x-request-id", "mine-4");
  pb::GetSessionRequest get;
  get.set_id("none");
  pb::Session session;
  EXPECT_EQ(stub_->GetSession(&context, get, &session).error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(told(context)["x-request-id"], "mine-4");
  const std::vector<std::string> lines = log.Messages("grpc_request");
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_THAT(lines[0], ::testing::StartsWith("GenerateStream: OK after "));
  EXPECT_THAT(lines[0], ::testing::HasSubstr("(request=mine-3, trace=" + trace + ", span="));
  EXPECT_THAT(lines[0], ::testing::HasSubstr(", tokens=5, "));
  EXPECT_THAT(lines[2], ::testing::StartsWith("GetSession: NOT_FOUND after "));
  EXPECT_THAT(lines[2], ::testing::HasSubstr("(request=mine-4, "));
}

// They may be what a write has left that failed, which the next power cut takes away.
TEST_F(InferenceServiceTest, NoTokenThatIsFoundIsShownBeforeAnotherWriteHasLasted) {
  Log("found", 5, 5);
  guarded_.failing = true;
  const Answer refused = TakeUp("found", 0);
  EXPECT_EQ(refused.status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_TRUE(refused.tokens.empty());
  guarded_.failing = false;
  EXPECT_EQ(TakeUp("found", 0).tokens.size(), 5u);
}

TEST_F(InferenceServiceTest, TakingAnAnswerUpIsNotedForAsLongAsItIsKept) {
  Log("idle", 5, 5);
  ASSERT_TRUE(calls_.SetTimes({std::chrono::seconds(5), {{"idle", std::chrono::seconds(2)}}}).ok());
  EXPECT_EQ(calls_.Times(), "5000: idle 2000");
  EXPECT_EQ(TakeUp("idle", 0).reason, "length");
  EXPECT_EQ(calls_.Times(), "5000: idle -");
}

}  // namespace
}  // namespace omni
