#include "cli/terminal.h"

#include <gtest/gtest.h>

#include "engine/base/log.h"

namespace omni::cli {
namespace {

TEST(StatusLine, IsClearedBeforeALineOfTheLog) {
  ::testing::internal::CaptureStderr();
  {
    StatusLine line(true);
    line.Show("12.3 tok/s");
    LogWarning("tested", "first");
    LogWarning("tested", "second");
    line.Show("12.4 tok/s");
  }
  LogWarning("tested", "third");
  EXPECT_EQ(::testing::internal::GetCapturedStderr(),
            "\r\033[K12.3 tok/s\r\033[Komni: warning: first\nomni: warning: second\n"
            "\r\033[K12.4 tok/s\r\033[Komni: warning: third\n");
}

TEST(StatusLine, OfANonTerminalIsNeverShownNorCleared) {
  ::testing::internal::CaptureStderr();
  StatusLine line(false);
  line.Show("12.3 tok/s");
  LogWarning("tested", "first");
  line.Clear();
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "omni: warning: first\n");
}

}  // namespace
}  // namespace omni::cli
