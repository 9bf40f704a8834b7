// A token over gRPC against one of the engine, in this process.
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <grpcpp/grpcpp.h>

#include "cluster/node.h"
#include "engine/text/prompt.h"
#include "omni/inference/v1/inference.grpc.pb.h"
#include "tests/bench/serve_measurements.h"
#include "tests/bench/swarm_figures.h"

namespace omni::bench {
namespace {

constexpr char kPrompt[] = "The captain looked at the sea";
constexpr int kTokens = 100;
// Short answers and many: what a shared machine does changes from second to second, and both of a pair have
// to meet with the same.
constexpr int kPairs = 200;

// Milliseconds of a token, from the first to the last of an answer.
class PerToken {
 public:
  void Saw() {
    last_ = Clock::now();
    if (seen_++ == 0) first_ = last_;
  }
  double Get() const {
    if (seen_ != kTokens) Fail("an answer ended before its last token");
    return Millis(last_ - first_) / (kTokens - 1);
  }

 private:
  int seen_ = 0;
  Clock::time_point first_, last_;
};

double OfEngine(Node& node) {
  GenerateRequest request;
  request.prompt = PromptTokens(node.model().tokenizer(), kPrompt);
  request.max_tokens = kTokens;
  request.stop_at_end_of_text = false;
  const auto result = node.swarm().Generate(std::move(request), nullptr);
  Check(result.status());
  return 1e3 / result->timings.DecodeRate();
}

double OverGrpc(inference::v1::Inference::Stub& stub) {
  inference::v1::GenerateRequest request;
  request.set_prompt(kPrompt);
  request.set_max_tokens(kTokens);
  request.set_ignore_end_of_text(true);
  grpc::ClientContext context;
  const auto reader = stub.GenerateStream(&context, request);
  inference::v1::GenerateResponse message;
  PerToken time;
  while (reader->Read(&message)) {
    if (message.has_token()) time.Saw();
  }
  const grpc::Status status = reader->Finish();
  if (!status.ok()) Fail("the answer over gRPC: " + status.error_message());
  return time.Get();
}

}  // namespace

nlohmann::json MeasureOverhead(const ServeBenchOptions& options) {
  NodeOptions engine;
  engine.model = options.model;
  engine.swarm.threads = options.threads;
  auto node = Node::Start(nullptr, engine);
  Check(node.status());
  const ServeProcess serve(options);
  const auto stub = inference::v1::Inference::NewStub(
      grpc::CreateChannel(serve.grpc_address(), grpc::InsecureChannelCredentials()));
  OfEngine(**node);
  OverGrpc(*stub);
  std::vector<double> overheads, engines;
  for (int pair = 0; pair < kPairs; ++pair) {
    const bool first = pair % 2 == 0;
    const double before = first ? OfEngine(**node) : 0;
    const double grpc = OverGrpc(*stub);
    engines.push_back(first ? before : OfEngine(**node));
    overheads.push_back(grpc - engines.back());
  }
  return {{"overhead_ms", Median(overheads)}, {"overhead_engine_ms", Median(engines)}};
}

}  // namespace omni::bench
