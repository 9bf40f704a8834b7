// What one answer on its way costs the others: nothing.
#include "cluster/http/generation_call.h"

#include <future>
#include <memory>
#include <string>
#include <utility>

#include "tests/cluster/http/door_fixture.h"

namespace omni {
namespace {

using testing::Get;
using testing::RawClient;

// What is waited for, and by whom.
struct Gate {
  std::promise<void> reached, opened;
  void Pass() {
    reached.set_value();
    opened.get_future().wait();
  }
  bool WaitForReached() {
    return reached.get_future().wait_for(std::chrono::minutes(1)) == std::future_status::ready;
  }
  void Open() { opened.set_value(); }
};

// An answer whose words are long in coming.
class SlowForm final : public AnswerForm {
 public:
  explicit SlowForm(Gate& gate) : gate_(gate) {}
  std::string Whole(const std::vector<AnswerChoice>& choices, const AnswerUsage&) override {
    gate_.Pass();
    return std::to_string(choices.size());
  }
  std::string Begin() override { return "begin "; }
  std::string Piece(size_t, const std::string&, const std::vector<AnswerToken>&) override { return "piece "; }
  std::string EndOfChoice(size_t, const AnswerChoice&) override {
    gate_.Pass();
    return "all ";
  }
  std::string End(const AnswerUsage&) override { return "end"; }
  std::string Failed(const absl::Status&) override { return "failed"; }

 private:
  Gate& gate_;
};

// /ask is answered by a call, of which the test says what it asks for; all else at once.
class Server : public HttpHandler {
 public:
  std::shared_ptr<HttpCall> OnRequest(HttpRequest request, std::shared_ptr<HttpExchange> exchange) override {
    if (request.path == "/ask") {
      const std::string caller = request.Header("x-caller");
      return StartGeneration(context, {std::move(request), "", caller}, read, std::move(exchange));
    }
    exchange->Answer({});
    return nullptr;
  }
  HttpAnswer OnRefused(int status, const std::string&) override {
    HttpAnswer answer;
    answer.status = status;
    return answer;
  }
  void OnDone(const HttpDone&) override {}

  GenerationContext context;
  ReadAsked read;  // set while nobody asks
};

class GenerationCallTest : public testing::HttpDoorFixture {
 protected:
  void Serve() {
    Open();
    model_ = Served();
    readers_ = std::make_unique<FairExecutor>();
    handler_.context = {backend_.get(), &model_, &metrics_, readers_.get()};
    HttpServerOptions options;
    options.listen = "127.0.0.1:0";
    auto server = HttpServer::Listen(options, handler_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    server_->Run();
  }
  void TearDown() override {
    server_ = nullptr;
    readers_ = nullptr;
    HttpDoorFixture::TearDown();
  }
  Asked AskedFor(std::shared_ptr<AnswerForm> form) const {
    Asked asked;
    asked.form = std::move(form);
    asked.choices.emplace_back();
    asked.choices.back().prompt = {TokenId(97)};
    asked.choices.back().max_tokens = 2;
    return asked;
  }
  void ExpectOthersAreAnswered() {
    RawClient other(server_->address());
    other.Send(Get("/other"));
    const auto answer = other.Read();
    ASSERT_TRUE(answer.has_value());
    EXPECT_EQ(answer->status, 200);
  }

  ServedModel model_;
  HttpMetrics metrics_;
  Server handler_;
  std::unique_ptr<FairExecutor> readers_;
  std::unique_ptr<HttpServer> server_;
};

TEST_F(GenerationCallTest, OthersAreAnsweredWhileALongAnswerIsPutIntoWords) {
  Serve();
  for (const bool stream : {false, true}) {
    Gate gate;
    handler_.read = [&](const RoutedRequest&) -> absl::StatusOr<Asked> {
      Asked asked = AskedFor(std::make_shared<SlowForm>(gate));
      asked.stream = asked.said_again = stream;
      return asked;
    };
    RawClient client(server_->address());
    client.Send(Get("/ask"));
    ASSERT_TRUE(gate.WaitForReached());
    ExpectOthersAreAnswered();
    gate.Open();
    const auto answer = client.Read();
    ASSERT_TRUE(answer.has_value());
    EXPECT_THAT(answer->body, stream ? ::testing::EndsWith("all end") : ::testing::EndsWith("1"));
  }
}

TEST_F(GenerationCallTest, ARequestGoesWithItsClientWhileOthersAreRead) {
  Serve();
  Gate gate;
  auto large = std::make_shared<std::string>("what it holds");
  const std::weak_ptr<std::string> there = large;
  handler_.read = [&](const RoutedRequest&) -> absl::StatusOr<Asked> {
    gate.Pass();
    return absl::InvalidArgumentError("read");
  };
  RawClient reading(server_->address());
  reading.Send(Get("/ask"));
  ASSERT_TRUE(gate.WaitForReached());
  handler_.read = [large = std::exchange(large, nullptr)](const RoutedRequest&) -> absl::StatusOr<Asked> {
    return absl::InternalError("it was read, though nobody waits");
  };
  RawClient waiting(server_->address());
  waiting.Send(Get("/ask"));
  ExpectOthersAreAnswered();
  while (server_->connections() < 2) std::this_thread::yield();
  waiting.Close();
  const auto until = std::chrono::steady_clock::now() + std::chrono::minutes(1);
  while (server_->connections() > 1 && std::chrono::steady_clock::now() < until) std::this_thread::yield();
  handler_.read = nullptr;
  EXPECT_TRUE(there.expired());
  gate.Open();
  EXPECT_EQ(reading.Read()->status, 400);
}

TEST_F(GenerationCallTest, OneRequestForWhichThereIsNoMemoryIsRefusedAlone) {
  Serve();
  handler_.read = [](const RoutedRequest&) -> absl::StatusOr<Asked> { throw std::bad_alloc(); };
  RawClient client(server_->address());
  client.Send(Get("/ask"));
  const auto answer = client.Read();
  ASSERT_TRUE(answer.has_value());
  EXPECT_EQ(Error(*answer, 429)["code"], "rate_limit_exceeded");
  ExpectOthersAreAnswered();
}

}  // namespace
}  // namespace omni
