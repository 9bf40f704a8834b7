#include "cli/service.h"

#include <thread>

#include "engine/base/interrupt.h"
#include "engine/base/service_manager.h"

namespace omni::cli {

void ServeUntilInterrupted(ClusterNode& node, const std::string& what, std::chrono::milliseconds drain) {
  constexpr std::chrono::milliseconds kLook{50};
  constexpr std::chrono::seconds kEnding{10};  // connections, databases
  ServiceManager manager = ServiceManager::FromEnvironment();
  manager.Ready(what);
  // Four times in the time after which a service counts as hung.
  const std::chrono::microseconds every = manager.watchdog() / 4;
  auto next = std::chrono::steady_clock::now();
  while (!InterruptGuard::Requested()) {
    std::this_thread::sleep_for(kLook);
    if (every.count() == 0 || std::chrono::steady_clock::now() < next) continue;
    next = std::chrono::steady_clock::now() + every;
    if (node.Turned()) manager.Alive();
  }
  manager.Stopping(drain + kEnding);
}

}  // namespace omni::cli
