// What a run says while it trains, on terminals of both kinds and in files.
#include "engine/train/progress.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>

namespace omni::train {
namespace {

class ProgressTest : public ::testing::Test {
 protected:
  // What a terminal of so many columns (0: it does not say) gets of a long line, a note and a short line.
  static std::string OnATerminal(const char* term, unsigned short columns) {
    const int terminal = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    EXPECT_TRUE(terminal >= 0 && grantpt(terminal) == 0 && unlockpt(terminal) == 0);
    const int end = open(ptsname(terminal), O_RDWR | O_NOCTTY | O_CLOEXEC);
    EXPECT_GE(end, 0);
    termios mode{};
    tcgetattr(end, &mode);
    cfmakeraw(&mode);
    tcsetattr(end, TCSANOW, &mode);
    winsize size{};
    size.ws_col = columns;
    EXPECT_EQ(ioctl(end, TIOCSWINSZ, &size), 0);
    const int before = dup(STDERR_FILENO);
    std::fflush(stderr);
    dup2(end, STDERR_FILENO);
    setenv("TERM", term, 1);
    {
      Progress progress;
      progress.Show(std::string(200, 'x'));
      progress.Say("note");
      progress.Show("step 4/4");
    }
    std::fflush(stderr);
    dup2(before, STDERR_FILENO);
    close(before);
    // With its last other end closed the terminal gives the rest, in one piece or several, and then an error.
    close(end);
    std::string said;
    char buffer[1024];
    for (ssize_t n; (n = read(terminal, buffer, sizeof buffer)) > 0;)
      said.append(buffer, static_cast<size_t>(n));
    close(terminal);
    return said;
  }
};

TEST_F(ProgressTest, IsOneLineWrittenOverWithinTheTerminal) {
  for (const unsigned short columns : {40, 0}) {
    const size_t width = columns == 0 ? 79 : columns - 1;  // the last column stays free
    EXPECT_EQ(OnATerminal("xterm", columns),
              "\r\033[K" + std::string(width, 'x') + "\nnote\n\r\033[Kstep 4/4\n");
  }
}

TEST_F(ProgressTest, IsALineEachTimeOnATerminalThatCannotGoBack) {
  for (const char* term : {"dumb", ""}) {
    EXPECT_EQ(OnATerminal(term, 40), std::string(200, 'x') + "\nnote\nstep 4/4\n");
  }
}

TEST_F(ProgressTest, IsALineEachTimeWhereNoTerminalIs) {
  ::testing::internal::CaptureStderr();
  {
    Progress progress;
    progress.Show(std::string(200, 'x'));
    progress.Say("note");
  }
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), std::string(200, 'x') + "\nnote\n");
}

}  // namespace
}  // namespace omni::train
