// The built program on a packed model of random weights, which all tests of a suite share.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/cli/process.h"
#include "tests/testing/checkpoint_fixture.h"
#include "tests/testing/temp_dir.h"

namespace omni::testing {

class OmniTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    dir_ = std::make_unique<TempDir>();
    ASSERT_TRUE(WriteRandomCheckpoint(*dir_ / "checkpoint", SmallConfig(), 5).ok());
    const Output packed = Omni({"pack", *dir_ / "checkpoint", Model()});
    ASSERT_EQ(packed.exit_code, 0) << packed.err;
    ASSERT_THAT(packed.out, ::testing::HasSubstr("distinct tiles of"));
    ASSERT_EQ(packed.err, "");
  }
  static void TearDownTestSuite() { dir_.reset(); }

  static std::string Model() { return *dir_ / "model"; }
  static std::string State() { return *dir_ / "state"; }

  static Output Omni(std::vector<std::string> arguments, ProcessOptions options = {}) {
    arguments.insert(arguments.begin(), OMNI_PROGRAM);
    options.env.insert({"XDG_STATE_HOME", State()});
    options.env.insert({"OMNI_THREADS", "2"});
    return RunProcess(arguments, options);
  }
  static Output Run(std::vector<std::string> arguments, const ProcessOptions& options = {}) {
    arguments.insert(arguments.begin(), {"run", "-m", Model()});
    return Omni(std::move(arguments), options);
  }
  static nlohmann::json Json(const Output& output) {
    EXPECT_EQ(output.exit_code, 0) << output.err;
    nlohmann::json json = nlohmann::json::parse(output.out, nullptr, false);
    EXPECT_TRUE(json.is_object()) << output.out;
    return json;
  }
  static void ExpectOneLine(const Output& output, int code, const std::string& part) {
    EXPECT_EQ(output.exit_code, code) << output.err;
    EXPECT_EQ(output.out, "");
    EXPECT_THAT(output.err, ::testing::AllOf(::testing::StartsWith("omni: "), ::testing::HasSubstr(part)));
    EXPECT_EQ(std::count(output.err.begin(), output.err.end(), '\n'), 1) << output.err;
  }

  inline static std::unique_ptr<TempDir> dir_;
};

// The same where the test starts servers: what they keep is where the suite's `omni` looks for it.
class OmniServerTest : public OmniTest {
 protected:
  static void SetUpTestSuite() {
    OmniTest::SetUpTestSuite();
    setenv("XDG_STATE_HOME", State().c_str(), 1);
  }
};

}  // namespace omni::testing
