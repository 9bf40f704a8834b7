// Who is asked again, by what the one that was asked says of who leads.
#include <atomic>
#include <chrono>
#include <future>
#include <memory>
#include <string>

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>

#include "cluster/forwarded_answer.h"
#include "cluster/forwarding_backend.h"
#include "cluster/grpc_errors.h"
#include "cluster/grpc_status.h"
#include "omni/inference/v1/inference.grpc.pb.h"

namespace omni {
namespace {

namespace pb = ::omni::inference::v1;
using ::testing::HasSubstr;

// An answer of one message, or of none.
class OneMessage final : public grpc::ServerWriteReactor<pb::GenerateResponse> {
 public:
  OneMessage() {
    message_.mutable_finished()->set_text("whole");
    StartWriteAndFinish(&message_, {}, grpc::Status::OK);
  }
  explicit OneMessage(const grpc::Status& status) { Finish(status); }
  void OnDone() override { delete this; }

 private:
  pb::GenerateResponse message_;
};

// A node that does not lead and says who does.
class Other final : public pb::Inference::CallbackService {
 public:
  grpc::ServerUnaryReactor* ListModels(grpc::CallbackServerContext* context, const pb::ListModelsRequest*,
                                       pb::ListModelsResponse*) override {
    ++asked;
    auto* reactor = context->DefaultReactor();
    if (leads) {
      reactor->Finish(grpc::Status::OK);
      return reactor;
    }
    context->AddTrailingMetadata(kCoordinatorMetadata, hint);
    reactor->Finish(ToDetailedGrpc(absl::UnavailableError("another leads"),
                                   {.reason = "NOT_LEADING", .metadata = {}, .retry = {}}));
    return reactor;
  }
  grpc::ServerWriteReactor<pb::GenerateResponse>* GenerateStream(grpc::CallbackServerContext*,
                                                                 const pb::GenerateRequest*) override {
    return asked++ == 0 ? new OneMessage(first) : new OneMessage();
  }
  std::string hint;
  grpc::Status first;  // of answers
  std::atomic<bool> leads = false;
  std::atomic<int> asked = 0;
};

class Own final : public InferenceBackend {
 public:
  absl::Status Serving() override { return absl::UnavailableError("it does not lead"); }
  std::string Elsewhere() override { return elsewhere; }
  absl::StatusOr<std::unique_ptr<SessionHandle>> Submit(GenerateRequest, SubmitOptions) override {
    return Serving();
  }
  const Tokenizer& tokenizer() override { return tokenizer_; }
  int64_t max_context() override { return 1; }
  std::string model_hash() override { return ""; }
  std::string node() override { return "own"; }
  std::string elsewhere;

 private:
  Tokenizer tokenizer_;
};

struct Served {
  explicit Served(grpc::Service* service) {
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(service);
    server = builder.BuildAndStart();
    address = "127.0.0.1:" + std::to_string(port);
  }
  std::unique_ptr<grpc::Server> server;
  std::string address;
};

class ForwardingHintTest : public ::testing::Test {
 protected:
  ForwardingHintTest()
      : at_first_(&first_),
        at_second_(&second_),
        backend_(own_, grpc::InsecureChannelCredentials(),
                 ForwardingBackend::Leader{[this](size_t) { return at_first_.address; }, [] { return false; },
                                           [this] { return own_address_; }}),
        service_(backend_.MakeService(nullptr, nullptr, false)),
        at_own_(service_.get()) {
    own_address_ = at_own_.address;
    own_.elsewhere = at_first_.address;
  }
  ~ForwardingHintTest() override {
    for (Served* served : {&at_own_, &at_second_, &at_first_}) served->server->Shutdown();
  }
  grpc::Status Ask(std::string* hint = nullptr) {
    const auto stub =
        pb::Inference::NewStub(grpc::CreateChannel(at_own_.address, grpc::InsecureChannelCredentials()));
    grpc::ClientContext context;
    pb::ListModelsResponse response;
    const grpc::Status status = stub->ListModels(&context, {}, &response);
    const auto found = context.GetServerTrailingMetadata().find(kCoordinatorMetadata);
    if (hint != nullptr && found != context.GetServerTrailingMetadata().end())
      *hint = std::string(found->second.data(), found->second.size());
    return status;
  }

  Other first_, second_;
  Served at_first_, at_second_;
  Own own_;
  std::string own_address_;
  ForwardingBackend backend_;
  std::unique_ptr<grpc::Service> service_;
  Served at_own_;
};

TEST_F(ForwardingHintTest, WhoIsSaidToLeadIsAsked) {
  first_.hint = at_second_.address;
  second_.leads = true;
  EXPECT_TRUE(Ask().ok());
  EXPECT_EQ(first_.asked, 1);
  EXPECT_EQ(second_.asked, 1);
}

// Who leads has ended in the middle, and gRPC has cancelled its calls: whoever leads then goes on.
TEST_F(ForwardingHintTest, AnAnswerThatIsCutOffIsAskedForAgain) {
  const auto stub =
      pb::Inference::NewStub(grpc::CreateChannel(at_own_.address, grpc::InsecureChannelCredentials()));
  pb::GenerateRequest request;
  request.set_request_id("r");
  pb::GenerateResponse message;
  first_.first = grpc::Status(grpc::StatusCode::CANCELLED, "CANCELLED");
  {
    grpc::ClientContext context;
    const auto reader = stub->GenerateStream(&context, request);
    ASSERT_TRUE(reader->Read(&message));
    EXPECT_EQ(message.finished().text(), "whole");
    EXPECT_TRUE(reader->Finish().ok());
    EXPECT_EQ(first_.asked, 2);
  }
  // What it cancels itself is over.
  first_.asked = 0;
  first_.first = ToDetailedGrpc(absl::CancelledError("somebody has taken it back"));
  grpc::ClientContext context;
  const auto reader = stub->GenerateStream(&context, request);
  EXPECT_FALSE(reader->Read(&message));
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_EQ(first_.asked, 1);
}

// It asked because it does not lead: it would have asked itself, in vain, and told its client to do so too.
TEST_F(ForwardingHintTest, ANodeThatIsNamedItselfDoesNotBelieveIt) {
  first_.hint = at_own_.address;
  std::string hint;
  const grpc::Status status = Ask(&hint);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(status.error_message(), HasSubstr(at_first_.address));
  EXPECT_EQ(hint, "");
  EXPECT_EQ(first_.asked, 1);
}

// A call that has still something of gRPC's would let go of its channel on a thread that gRPC then joins.
TEST(ForwardingTest, ItsEndWaitsForEveryCallAndKeepsNoChannel) {
  const auto forwarding = std::make_shared<Forwarding>(
      grpc::InsecureChannelCredentials(), [](size_t) { return "127.0.0.1:1"; }, [] { return ""; });
  const std::weak_ptr<grpc::Channel> channel = forwarding->ChannelTo("127.0.0.1:1");
  ASSERT_FALSE(channel.expired());
  forwarding->EnterOther();
  std::future<void> ended = std::async(std::launch::async, [&] { forwarding->End(); });
  EXPECT_EQ(ended.wait_for(std::chrono::milliseconds(50)), std::future_status::timeout);
  EXPECT_FALSE(channel.expired());
  forwarding->LeaveOther();
  ended.get();
  EXPECT_TRUE(channel.expired());
}

}  // namespace
}  // namespace omni
