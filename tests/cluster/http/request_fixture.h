// What tests of requests read them against.
#pragma once

#include <string>

#include <absl/status/status.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cluster/http/openai_request.h"

namespace omni::testing {

class RequestTest : public ::testing::Test {
 protected:
  RequestTest() {
    model_.name = "mini";
    model_.max_context = 100;
    model_.tokenizer = &tokenizer_;
  }
  // Refused, about this field; the message has `part`.
  static void ExpectBad(const absl::Status& status, const std::string& param, const std::string& part = "") {
    ASSERT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_EQ(ErrorParam(status), param) << status;
    EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr(part));
  }

  Tokenizer tokenizer_ = *Tokenizer::Train("the sea and the ship and the sea", 260);
  ServedModel model_;
};

}  // namespace omni::testing
