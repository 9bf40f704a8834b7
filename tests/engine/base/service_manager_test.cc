#include "engine/base/service_manager.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <string>

#include <gtest/gtest.h>

#include "tests/testing/recording_log.h"
#include "tests/testing/temp_dir.h"

namespace omni {
namespace {

using testing::TempDir;

// A manager's end of the socket.
class Listener {
 public:
  explicit Listener(const std::string& name) : fd_(::socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0)) {
    sockaddr_un at = {};
    at.sun_family = AF_UNIX;
    std::memcpy(at.sun_path, name.data(), name.size());
    if (name[0] == '@') at.sun_path[0] = '\0';
    EXPECT_EQ(::bind(fd_, reinterpret_cast<const sockaddr*>(&at),
                     static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.size())),
              0);
  }
  ~Listener() { ::close(fd_); }
  // The next datagram; empty: there is none.
  std::string Read() const {
    std::array<char, 1024> bytes;
    const ssize_t n = ::recv(fd_, bytes.data(), bytes.size(), 0);
    return n < 0 ? "" : std::string(bytes.data(), static_cast<size_t>(n));
  }

 private:
  int fd_;
};

TEST(ServiceManager, IsToldOverASocketWithAPath) {
  const TempDir dir;
  const Listener listener(dir / "notify");
  ServiceManager manager(dir / "notify", std::chrono::seconds(1));
  manager.Ready("serving mini");
  EXPECT_EQ(listener.Read(), "READY=1\nSTATUS=serving mini\n");
  manager.Alive();
  EXPECT_EQ(listener.Read(), "WATCHDOG=1\n");
  manager.Stopping(std::chrono::seconds(30));
  EXPECT_EQ(listener.Read(),
            "STOPPING=1\nEXTEND_TIMEOUT_USEC=30000000\nSTATUS=finishing what is under way\n");
  EXPECT_EQ(listener.Read(), "");
}

TEST(ServiceManager, IsToldOverAnAbstractSocket) {
  const std::string name = "@omni-service-manager-test-" + std::to_string(::getpid());
  const Listener listener(name);
  ServiceManager(name, {}).Alive();
  EXPECT_EQ(listener.Read(), "WATCHDOG=1\n");
}

TEST(ServiceManager, IsTakenOutOfTheEnvironment) {
  const TempDir dir;
  const Listener listener(dir / "notify");
  setenv("NOTIFY_SOCKET", std::string(dir / "notify").c_str(), 1);
  setenv("WATCHDOG_USEC", "120000000", 1);
  setenv("WATCHDOG_PID", std::to_string(::getpid()).c_str(), 1);
  ServiceManager manager = ServiceManager::FromEnvironment();
  EXPECT_EQ(manager.watchdog(), std::chrono::minutes(2));
  manager.Alive();
  EXPECT_EQ(listener.Read(), "WATCHDOG=1\n");
  for (const char* name : {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"})
    EXPECT_EQ(std::getenv(name), nullptr) << name;
  EXPECT_EQ(ServiceManager::FromEnvironment().watchdog(), std::chrono::microseconds(0));
}

TEST(ServiceManager, AWatchdogOfAnotherProcessIsNotOurs) {
  setenv("WATCHDOG_USEC", "120000000", 1);
  setenv("WATCHDOG_PID", "1", 1);
  EXPECT_EQ(ServiceManager::FromEnvironment().watchdog(), std::chrono::microseconds(0));
  setenv("WATCHDOG_USEC", "soon", 1);
  EXPECT_EQ(ServiceManager::FromEnvironment().watchdog(), std::chrono::microseconds(0));
}

TEST(ServiceManager, OneThatCannotBeToldIsSaidOnce) {
  const TempDir dir;
  for (const std::string& socket : {std::string(dir / "nobody"), std::string("relative"),
                                    "/" + std::string(200, 'x'), std::string("@") + std::string(200, 'x')}) {
    testing::RecordingLog log;
    ServiceManager manager(socket, {});
    manager.Ready("serving");
    manager.Alive();
    EXPECT_EQ(log.Messages("service_manager_not_told").size(), 1U) << socket;
  }
  testing::RecordingLog log;
  ServiceManager("", {}).Ready("nobody listens");
  EXPECT_EQ(log.Messages("service_manager_not_told").size(), 0U);
}

}  // namespace
}  // namespace omni
