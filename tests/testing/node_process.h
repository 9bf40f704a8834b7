// `omni node`, or another verb that serves, as a process of its own on loopback, which a test kills, stops
// and starts again.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <string>
#include <vector>

namespace omni::testing {

// Ends with it, and with the thread that started it.
class NodeProcess {
 public:
  // `arguments` after `omni node`, or the other verb; what it says goes to the file `log`. Nothing waits for
  // it. In the network namespace of that open file, else in the caller's.
  NodeProcess(const std::string& program, std::vector<std::string> arguments, std::string log,
              int network_namespace = -1, const char* verb = "node");
  ~NodeProcess();
  NodeProcess(const NodeProcess&) = delete;
  NodeProcess& operator=(const NodeProcess&) = delete;

  // HOST:PORT once it listens; empty if it has ended before, or after `limit`.
  std::string WaitForAddress(std::chrono::seconds limit = std::chrono::seconds(60));
  // The same of `omni serve`, where it listens for gRPC.
  std::string WaitForGrpcAddress(std::chrono::seconds limit = std::chrono::seconds(60));
  void Kill();  // SIGKILL, and waits for its end
  // SIGTERM, and waits for its end: the exit code, 128 + signal if one ended it. What has not ended within
  // the limit is killed.
  int Interrupt(std::chrono::seconds limit = std::chrono::seconds(120));
  void Stop();      // SIGSTOP
  void Continue();  // SIGCONT
  bool running();
  pid_t pid() const { return pid_; }  // -1: it has ended
  std::string Log() const;

 private:
  int Wait();
  std::string WaitFor(const std::string& before, std::chrono::seconds limit);

  std::string log_, out_;
  pid_t pid_ = -1;
};

}  // namespace omni::testing
