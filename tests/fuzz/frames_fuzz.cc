// A frame between nodes: what is accepted is written as a frame that says the same, and little is made of few
// bytes.
#include "cluster/frames.h"

#include "tests/fuzz/fuzz.h"

namespace omni::fuzz {

const int kRuns = 200000;

namespace {

const ModelConfig& Config() {
  static const ModelConfig* const config = [] {
    auto* c = new ModelConfig();
    c->layers = 3, c->attention_period = 3;
    c->d = 4, c->r = 2, c->f = 64, c->heads = 2, c->kv_heads = 1, c->window = 3, c->vocab = 257;
    return c;
  }();
  return *config;
}

std::shared_ptr<RegionRequest> Request(uint64_t id, RegionId region) {
  auto request = std::make_shared<RegionRequest>();
  request->id = id;
  request->region = region;
  request->epoch = 3;
  request->experts = {{Config().ExpertOf(region, 0), 1}, {Config().ExpertOf(region, 1), 2}};
  request->rows = 3;
  request->width = PadTo(Config().d, 64);
  int8_t* q = request->AllocateRows();
  for (int64_t i = 0; i < request->rows * request->width; ++i) q[i] = static_cast<int8_t>(i);
  for (int64_t i = 0; i < request->rows; ++i) request->mutable_scale()[i] = 0.5f;
  return request;
}

std::shared_ptr<RegionReply> Reply(uint64_t id) {
  auto reply = std::make_shared<RegionReply>();
  reply->request_id = id;
  reply->region = RegionId(2);
  reply->statuses.resize(2);
  reply->statuses[1] = absl::DataLossError("damaged");
  reply->output.resize(static_cast<size_t>(3 * Config().d), 1.0f);
  return reply;
}

}  // namespace

std::vector<std::string> Seeds() {
  return {
      EncodeFrame(HelloFrame{{1, 2}, {"c"}, 2, "hash", 16, "name", "id"}),
      EncodeFrame(WelcomeFrame{2, {"n"}, 5, 6, "1"}),
      EncodeFrame(GoodbyeFrame{"why"}),
      EncodeFrame(ComputeFrame{{Request(7, RegionId(1)), Request(8, RegionId(3))}}),
      EncodeFrame(AnswersFrame{{Reply(7), Reply(8)}}),
      EncodeFrame(PrefetchFrame{
          RegionId(1), LayerId(1), {Config().ExpertOf(RegionId(1), 1)}, Foresight::kRegionKnown}),
      EncodeFrame(AssignFrame{5, {{RegionId(0), 3, HoldingRole::kShadow}}, {"a:1", "b:2"}}),
      EncodeFrame(HoldingsFrame{8, {RegionId(1), RegionId(2)}, 2, 3, 4, "e"}),
      EncodeFrame(RefusedFrame{9, RegionId(1), 4, "why"}),
      EncodeFrame(CancelFrame{{1, 2}}),
      EncodeFrame(PingFrame{7}),
      EncodeFrame(PongFrame{7, 8}),
  };
}

}  // namespace omni::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace omni;
  using namespace omni::fuzz;
  const absl::StatusOr<Frame> frame = DecodeFrame({data, size}, Config());
  if (!frame.ok()) {
    Require(absl::IsInvalidArgument(frame.status()), "what does not fit is an invalid argument");
    RequireReadable(frame.status());
    return 0;
  }
  const std::string bytes = EncodeFrame(*frame);
  const absl::StatusOr<Frame> again =
      DecodeFrame({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}, Config());
  Require(again.ok(), "a frame that was accepted is accepted as it is written");
  Require(EncodeFrame(*again) == bytes, "a frame is always written as the same bytes");
  return 0;
}
