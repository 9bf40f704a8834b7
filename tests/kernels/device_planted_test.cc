// Faults put into the device's own code, of the kinds that a GPU may run for months without showing them:
// each must be found, whatever the values that came out.
#include <gmock/gmock.h>

#include <functional>

#include "tests/kernels/device_testing.h"
#include "tests/testing/simt.h"

namespace omni::kernels::device {
namespace {

constexpr int64_t kD = 192;

// The kernels in which faults can be planted, on inputs of one kind.
struct Everything {
  explicit Everything(Random& random)
      : x(random.Floats(4 * kD, -1.0f, 1.0f)),
        gain(random.Floats(kD, 0.5f, 1.5f)),
        codes(std::vector<uint8_t>(1 << 16, 121)),
        q(4 * kD),
        q_sum(std::vector<int32_t>(5)),
        routes(std::vector<int32_t>{0, 0, 0, 0, 0}),
        largest(std::vector<uint32_t>(5)),
        a(5 * 64),
        y(4 * 4096),
        scale(std::vector<float>(4096, 0.5f)),
        ring(2 * 16 * 130) {
    NormQuantize(x.data(), kD, nullptr, 4, kD, kD, nullptr, 0, rows(), nullptr, nullptr, nullptr);
  }
  Quantized rows() const { return {q.data(), kD, scale.data(), q_sum.data()}; }

  void Norm() {
    NormQuantize(x.data(), kD, gain.data(), 4, kD, kD, nullptr, 0, rows(), nullptr, nullptr, nullptr);
  }
  void Product() {
    TwoBitProducts products;
    products.of[0] = {{codes.data(), 3, 16}, {nullptr, y.data(), 64, scale.data(), 64, 0, false}};
    products.count = 1;
    TwoBit(products, rows(), 4, nullptr);
  }
  void Gate() {
    const Array<const uint8_t*> table(std::vector<const uint8_t*>{codes.data()});
    const Experts experts{
        table.data(), 1, 1, kD, kD, 26 * kD, 26 * kD + 39 * 64, 26 * kD + 39 * 64 + 256, -1};
    Quantized five = rows();
    five.stride = 0;  // five rows that are one
    ExpertGateUp(experts, routes.data(), five, 5, a.data(), 64, largest.data(), nullptr);
  }
  void Attention() {
    Segment segment;
    segment.count = 1;
    segment.position = 40;
    segment.slot = 40 % 16;
    segment.ring = ring.data();
    const Array<Segment> segments(std::vector<Segment>{segment});
    ring.Put(std::vector<uint16_t>(2 * 16 * 130, 0x3c00));
    const device::Attention of{x.data(),      x.data(), x.data(), x.data(), x.data(), kD, kD,   ring.data(),
                               ring.data(),   1,        1,        130,      16,       0,  0.1f, a.data(),
                               largest.data()};
    Attend(of, segments.data(), routes.data(), 1, y.data(), kD, nullptr);
  }
  void Routing() {
    Route({x.data(), x.data() + 3 * kD - 60, nullptr, nullptr, nullptr, 20, 1, kD}, x.data(), kD,
          routes.data(), 1, tokens.data(), nullptr);
  }
  void Largest() { ArgMax(x.data(), kD, kD, 1, tokens.data(), nullptr); }

  Array<float> x, gain;
  Array<uint8_t> codes;
  Array<int8_t> q;
  Array<int32_t> q_sum, routes;
  Array<uint32_t> largest;
  Array<float> a, y, scale;
  Array<uint16_t> ring;
  Array<int32_t> tokens{4};
};

struct PlantedFault {
  const char* name;
  void (Everything::*run)();
  const char* found;  // in the first fault
};
constexpr PlantedFault kFaults[] = {
    {"kNormWithoutBarrier", &Everything::Norm, "value["},
    {"kBarrierInBranch", &Everything::Norm, "__syncthreads"},
    {"kUnsetTotal", &Everything::Norm, "never written"},
    {"kPlainMaximum", &Everything::Norm, "largest[0]"},
    {"kShuffleMaskTooNarrow", &Everything::Norm, "mask lacks"},
    {"kShuffleTooWide", &Everything::Norm, "its mask lacks"},
    {"kPartsWithoutBarrier", &Everything::Product, "parts["},
    {"kOneWarpTooMany", &Everything::Product, "parts["},
    {"kGateWithoutBarrier", &Everything::Gate, "sums["},
    {"kNextRowsWithoutBarrier", &Everything::Gate, "sums["},
    {"kWeightsWithoutBarrier", &Everything::Attention, "weight["},
    {"kPartsUnfinished", &Everything::Attention, "parts["},
    {"kPointWithoutBarrier", &Everything::Routing, "z["},
    {"kLanesLeaveEarly", &Everything::Largest, "has ended"},
};

class DevicePlantedTest : public testing::TestWithParam<simt::Order> {
 protected:
  void SetUp() override { simt::SetOrder(GetParam()); }
  void TearDown() override { simt::Plant(nullptr); }
};
INSTANTIATE_TEST_SUITE_P(Orders, DevicePlantedTest,
                         testing::Values(simt::Order::kAscending, simt::Order::kDescending,
                                         simt::Order::kShuffled));

TEST_P(DevicePlantedTest, WithoutThemNothingIsFound) {
  Random random{5};
  Everything everything(random);
  for (const PlantedFault& fault : kFaults) (everything.*fault.run)();
  EXPECT_THAT(simt::TakeFaults(), testing::IsEmpty());
}

TEST_P(DevicePlantedTest, EachIsFound) {
  Random random{5};
  Everything everything(random);
  for (const PlantedFault& fault : kFaults) {
    simt::TakeFaults();
    simt::Plant(fault.name);
    (everything.*fault.run)();
    EXPECT_TRUE(simt::PlantReached()) << fault.name;
    const std::vector<std::string> found = simt::TakeFaults();
    ASSERT_FALSE(found.empty()) << fault.name;
    EXPECT_THAT(found[0], testing::HasSubstr(fault.found)) << fault.name;
  }
}

}  // namespace
}  // namespace omni::kernels::device
