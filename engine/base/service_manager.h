// What a service tells the manager that started it, in systemd's protocol (sd_notify): a datagram of
// NAME=VALUE lines to the socket that the environment names. Without such a manager nothing is told.
#pragma once

#include <chrono>
#include <string>
#include <utility>

namespace omni {

// Thread-compatible. What cannot be told is said in the log, once.
class ServiceManager {
 public:
  // Takes NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID out of the environment, so that programs which this
  // one starts do not speak in its name.
  static ServiceManager FromEnvironment();

  // `socket`: a path, or after '@' an abstract name; empty: nobody listens. `watchdog` 0: none.
  ServiceManager(std::string socket, std::chrono::microseconds watchdog)
      : socket_(std::move(socket)), watchdog_(watchdog) {}

  // So long after it was last told that the service lives, the manager ends it; 0: it does not.
  std::chrono::microseconds watchdog() const { return watchdog_; }

  void Ready(const std::string& status);  // one line that says what is served
  void Alive();
  // It is about to end, and may take so long.
  void Stopping(std::chrono::milliseconds most);

 private:
  void Tell(const std::string& lines);

  std::string socket_;
  std::chrono::microseconds watchdog_;
  bool refused_ = false;
};

}  // namespace omni
