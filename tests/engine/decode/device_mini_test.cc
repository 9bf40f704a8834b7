// A greedy text of the shipped model, by the device's code on fibers and by the CPU: every logit.
#include <algorithm>
#include <cstring>
#include <string>

#include <gtest/gtest.h>

#include "engine/decode/cpu_decoder.h"
#include "engine/decode/device_decoder.h"
#include "store/model/model.h"
#include "tests/testing/simt_runtime.h"

namespace omni {
namespace {

TEST(DeviceMiniTest, SixtyFourTokensAreTheCpus) {
  simt::SetOrder(simt::Order::kAscending);
  const absl::StatusOr<Model> model = OpenModel(std::string(OMNI_SOURCE_DIR) + "/models/mini");
  ASSERT_TRUE(model.ok()) << model.status();
  const ModelConfig& config = model->config();
  WorkerPool pool(1);
  CpuDecoder cpu(model->weights(), pool);
  DeviceSettings settings;
  settings.max_rows = 16;
  const auto device = DeviceDecoder::Create(model->weights(), &model->experts(), settings);
  ASSERT_TRUE(device.ok()) << device.status();
  SessionState cpu_state(config), device_state(config);

  std::vector<TokenId> next = {TokenId(256)};
  for (TokenId token : model->tokenizer().Encode("It was a dark night")) next.push_back(token);
  for (int i = 0; i < 64; ++i) {
    std::vector<BatchRow> cpu_rows, device_rows;
    for (size_t t = 0; t < next.size(); ++t) {
      cpu_rows.push_back({&cpu_state, next[t], t + 1 == next.size()});
      device_rows.push_back({&device_state, next[t], t + 1 == next.size()});
    }
    const auto want = RunBatch(cpu, config, model->experts(), pool, cpu_rows);
    const auto got = RunBatch(**device, config, model->experts(), pool, device_rows);
    ASSERT_TRUE(want.ok() && got.ok()) << want.status() << got.status();
    ASSERT_EQ(got->size(), want->size());
    ASSERT_EQ(std::memcmp(got->data(), want->data(), want->size_bytes()), 0) << "token " << i;
    const auto best = std::max_element(want->begin(), want->end()) - want->begin();
    next = {TokenId(static_cast<int32_t>(best))};
  }
  EXPECT_EQ((*device)->graphs_made(), 1);
  for (const std::string& fault : simt::TakeFaults()) ADD_FAILURE() << fault;
}

}  // namespace
}  // namespace omni
