#include "engine/decode/device_library.h"

#include <cstdlib>
#include <fstream>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/testing/temp_dir.h"

namespace omni {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

namespace device = kernels::device;

TEST(DeviceLibrary, IsLookedForBesideTheProgramUnlessItIsNamed) {
  EXPECT_THAT(DeviceLibraryPlaces("/opt/omni/bin", nullptr),
              ElementsAre("/opt/omni/bin/libomni_cuda.so", "/opt/omni/lib/omni/libomni_cuda.so"));
  EXPECT_THAT(DeviceLibraryPlaces("", nullptr), ::testing::IsEmpty());
  EXPECT_EQ(DeviceLibraryPlaces("/opt/omni/bin", ""), DeviceLibraryPlaces("/opt/omni/bin", nullptr));
  EXPECT_THAT(DeviceLibraryPlaces("/opt/omni/bin", "/there.so"), ElementsAre("/there.so"));
}

TEST(DeviceLibrary, RefusesWhatIsNoneOrOfAnotherVersion) {
  const testing::TempDir dir;
  std::ofstream(dir / "text.so") << "no library";
  const auto refused = [](const std::string& path) {
    const auto table = ReadDeviceLibrary(path);
    EXPECT_EQ(table.status().code(), absl::StatusCode::kFailedPrecondition);
    return std::string(table.status().message());
  };
  EXPECT_THAT(refused(dir / "text.so"), HasSubstr("text.so: cannot be loaded: "));
  EXPECT_THAT(refused("libm.so.6"), HasSubstr("libm.so.6: is no library of Omni's device code"));
  EXPECT_THAT(refused(OMNI_OTHER_VERSION), HasSubstr("was made for another Omni, version "));
  EXPECT_THAT(refused(OMNI_OTHER_SHAPE), HasSubstr("was made for another Omni, version "));
}

TEST(DeviceLibrary, GivesTheFunctionsOnceItIsLoaded) {
  EXPECT_EQ(device::Count(), 0);
  const device::Failure missing = device::Use(0);
  EXPECT_TRUE(missing);
  EXPECT_THAT(device::FailureText(missing), HasSubstr("no library of the device's code"));
  setenv(kDeviceLibraryVariable, OMNI_FIBERS, 1);
  const auto path = LoadDeviceLibrary();
  ASSERT_TRUE(path.ok()) << path.status();
  EXPECT_EQ(*path, OMNI_FIBERS);
  EXPECT_EQ(device::Count(), 1);
  device::Properties properties;
  EXPECT_FALSE(device::Use(0));
  EXPECT_FALSE(device::Describe(0, &properties));
  EXPECT_STREQ(properties.name, "fibers");
  const auto table = ReadDeviceLibrary(OMNI_FIBERS);
  ASSERT_TRUE(table.ok()) << table.status();
  // None was forgotten.
  const auto* words = reinterpret_cast<void* const*>(&(*table)->FailureText);
  const auto* end = reinterpret_cast<void* const*>(*table + 1);
  for (; words != end; ++words) EXPECT_NE(*words, nullptr);
}

}  // namespace
}  // namespace omni
