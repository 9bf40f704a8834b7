#include "engine/decode/router.h"

#include <cmath>
#include <set>

#include <gtest/gtest.h>

#include "tests/testing/random_model.h"

namespace omni {
namespace {

std::vector<float> CellCentres(const ModelConfig& c) {
  std::vector<float> positions;
  for (int64_t k = 0; k < c.lattice[2]; ++k) {
    for (int64_t j = 0; j < c.lattice[1]; ++j) {
      for (int64_t i = 0; i < c.lattice[0]; ++i) {
        positions.push_back((static_cast<float>(i) + 0.5f) / static_cast<float>(c.lattice[0]));
        positions.push_back((static_cast<float>(j) + 0.5f) / static_cast<float>(c.lattice[1]));
        positions.push_back((static_cast<float>(k) + 0.5f) / static_cast<float>(c.lattice[2]));
      }
    }
  }
  return positions;
}

TEST(RouterTest, FracIsTheFloorsRestAndNeverOne) {
  EXPECT_EQ(Frac(1.25f), 0.25f);
  EXPECT_EQ(Frac(-0.25f), 0.75f);
  EXPECT_EQ(Frac(-3.0f), 0.0f);
  EXPECT_EQ(Frac(-1e-9f), 0.0f);  // 1 - 1e-9 rounds to 1
  EXPECT_EQ(Frac(0.99999994f), 0.99999994f);
}

TEST(RouterTest, DistanceTakesTheShorterWayRoundEveryAxis) {
  const float origin[3] = {0.0f, 0.0f, 0.0f};
  EXPECT_EQ(TorusDistanceSquared({0.25f, 0.0f, 0.0f}, origin), 0.0625f);
  for (size_t axis = 0; axis < 3; ++axis) {
    TorusPoint z = {0.0f, 0.0f, 0.0f};
    z[axis] = 0.875f;
    EXPECT_EQ(TorusDistanceSquared(z, origin), 0.015625f);
  }
  const float position[3] = {0.9375f, 0.125f, 0.5f};
  EXPECT_EQ(TorusDistanceSquared({0.0625f, 0.875f, 0.5f}, position), 0.015625f + 0.0625f);
  EXPECT_EQ(TorusDistanceSquared({0.5f, 0.5f, 0.5f}, origin), 0.75f);  // the antipode
}

TEST(RouterTest, TheLowestIdWinsEqualDistances) {
  const std::vector<float> positions = {0.5f,  0.5f, 0.5f, 0.25f, 0.0f, 0.0f,
                                        0.75f, 0.0f, 0.0f, 0.25f, 0.0f, 0.0f};
  EXPECT_EQ(NearestExpert({0.0f, 0.0f, 0.0f}, positions.data(), nullptr, 4),
            ExpertId(1));  // 1, 2 and 3 are equally near
  EXPECT_EQ(NearestExpert({0.75f, 0.0f, 0.0f}, positions.data(), nullptr, 4), ExpertId(2));
  EXPECT_EQ(NearestExpert({0.25f, 0.0f, 0.0f}, positions.data(), nullptr, 4),
            ExpertId(1));  // 3 lies at the same place
}

TEST(RouterTest, ABiasMakesAnExpertNearer) {
  const std::vector<float> positions = {0.25f, 0.0f, 0.0f, 0.5f, 0.0f, 0.0f}, near = {0.0f, 0.0f};
  const TorusPoint z = {0.375f, 0.0f, 0.0f};  // 1/64 from both
  EXPECT_EQ(NearestExpert(z, positions.data(), near.data(), 2), ExpertId(0));
  const std::vector<float> one = {0.0f, 0.001f}, other = {0.001f, 0.001f}, far = {-1.0f, -2.0f};
  EXPECT_EQ(NearestExpert(z, positions.data(), one.data(), 2), ExpertId(1));
  EXPECT_EQ(NearestExpert(z, positions.data(), other.data(), 2), ExpertId(0));
  EXPECT_EQ(NearestExpert(z, positions.data(), far.data(), 2), ExpertId(0));
}

TEST(RouterTest, APointThatIsNoNumberGoesToExpertZero) {
  const std::vector<float> positions = CellCentres(testing::TinyConfig());
  EXPECT_EQ(NearestExpert({std::nanf(""), 0.9f, 0.9f}, positions.data(), nullptr, 128), ExpertId(0));
}

TEST(RouterTest, ACellsPointsGoToTheCellsExpert) {
  const ModelConfig c = testing::TinyConfig();
  const std::vector<float> positions = CellCentres(c);
  std::set<ExpertId> reached;
  testing::Random random(4);
  for (int i = 0; i < 100000; ++i) {
    const TorusPoint z = {random.Uniform(0, 1), random.Uniform(0, 1), random.Uniform(0, 1)};
    const ExpertId nearest = NearestExpert(z, positions.data(), nullptr, c.num_experts());
    reached.insert(nearest);
    int64_t cell[3];
    bool inside = true;  // not within float's reach of a face, where two cells are equally near
    for (size_t axis = 0; axis < 3; ++axis) {
      const float at = z[axis] * static_cast<float>(c.lattice[axis]);
      cell[axis] = static_cast<int64_t>(at);
      inside = inside && std::fabs(at - std::nearbyint(at)) > 1e-4f;
    }
    if (inside) {
      ASSERT_EQ(nearest.value, cell[0] + c.lattice[0] * (cell[1] + c.lattice[1] * cell[2]));
    }
  }
  EXPECT_EQ(reached.size(), 128u);
}

TEST(RouterTest, RoutesByTheFractionOfThreeDotProducts) {
  const int64_t d = 37;
  std::vector<float> route(3 * d), h(d);
  testing::Random random(9);
  for (float& w : route) w = random.Uniform(-1, 1);
  for (float& x : h) x = random.Uniform(-2, 2);
  const TorusPoint z = Route(kernels::ActiveOps(), route.data(), h.data(), d);
  for (size_t axis = 0; axis < 3; ++axis) {
    double sum = 0;
    for (size_t i = 0; i < h.size(); ++i) sum += static_cast<double>(route[axis * h.size() + i]) * h[i];
    EXPECT_NEAR(z[axis], sum - std::floor(sum), 1e-5);
  }
}

}  // namespace
}  // namespace omni
