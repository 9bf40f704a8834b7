// A coordinator's state in a world that the test moves, on a random tiny model.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "actors/coordinator_state.h"
#include "actors/region_state.h"
#include "tests/actors/fake_world.h"
#include "tests/actors/testing.h"

namespace omni::testing {

// Takes rows aside, or says that it does not, as a device's decoder.
class SwitchedDecoder : public CpuDecoder {
 public:
  using CpuDecoder::CpuDecoder;
  bool takes_asides() const override { return asides; }
  bool asides = true;
};

class CoordinatorTest : public ::testing::Test {
 protected:
  explicit CoordinatorTest(const CoordinatorOptions& options = SmallOptions(),
                           const ModelConfig& config = TinyConfig())
      : tiny_(config),
        counters_(tiny_.model.config()),
        decoder_(tiny_.model.weights(), pool_),
        state_(tiny_.model.config(), decoder_, options, counters_),
        region_(tiny_.model.config(), tiny_.model, pool_) {
    state_.Connect(&world_, world_.Links(tiny_.model.config().num_regions()));
  }

  static CoordinatorOptions SmallOptions() {
    CoordinatorOptions options;
    options.max_active = 3;
    options.max_queued = 2;
    options.max_rows = 8;
    options.prefill_rows_beside_decode = 2;
    return options;
  }

  std::shared_ptr<SessionChannel> Submit(const GenerateRequest& request) {
    auto channel = std::make_shared<SessionChannel>(10'000);
    state_.Submit(
        std::make_shared<Session>(SessionId(next_id_++), request, tiny_.tokenizer, 1'000'000, channel));
    return channel;
  }

  void Serve() {
    const RegionRequestPtr request = world_.requests.front();
    world_.requests.pop_front();
    state_.OnReply(*region_.Start(request, nullptr));
  }
  // One step, its jobs served in order.
  void StepOnce() {
    ASSERT_GT(world_.steps, 0);
    --world_.steps;
    state_.Step();
    while (!world_.requests.empty()) Serve();
  }
  void RunAll() {
    while (world_.steps > 0) StepOnce();
  }
  static std::optional<absl::StatusOr<GenerateResult>> End(SessionChannel& channel) {
    std::stop_source stop;
    stop.request_stop();
    return channel.Take(stop.get_token()).result;
  }

  TinyModel tiny_;
  WorkerPool pool_{1};
  SwarmCounters counters_;
  FakeWorld world_;
  SwitchedDecoder decoder_;
  CoordinatorState state_;
  RegionState region_;
  uint64_t next_id_ = 1;
};

}  // namespace omni::testing
