// etcd itself, for tests: one member or several, as processes of this machine, on loopback or in network
// namespaces.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "tests/testing/temp_dir.h"

namespace omni::testing {

// PEM files with which members serve clients, and only clients that have a certificate of the authority.
struct EtcdServerTls {
  std::string authority, certificate, key;
};

// Where a member runs that is not on loopback: an address of a network namespace (setns(2)), by an open file.
struct EtcdHost {
  std::string address;
  int network_namespace = -1;
};

struct EtcdClusterOptions {
  int members = 1;
  std::vector<EtcdHost> hosts = {};         // empty, or one for each member
  std::vector<std::string> arguments = {};  // of every member, beside those that it needs
  std::unique_ptr<EtcdServerTls> tls = nullptr;
};

// Its members end with it, and with the thread that started them. Data lies in memory where that is possible.
class EtcdCluster {
 public:
  static std::string WhyNot();  // why none can be started here; empty: one can
  // Returns when every member answers.
  static absl::StatusOr<std::unique_ptr<EtcdCluster>> Start(EtcdClusterOptions options);
  ~EtcdCluster();

  std::vector<std::string> endpoints() const;  // HOST:PORT by member
  void Kill(int member);                       // SIGKILL
  void Stop(int member);                       // SIGSTOP
  void Continue(int member);                   // SIGCONT
  absl::Status Restart(int member);            // of a killed one, with its data; returns when it answers
  absl::Status Begin(int member);              // the same, without waiting
  absl::Status WaitReady(int member);
  absl::Status Compact(int64_t revision);

 private:
  struct Member {
    std::string client, peer;  // HOST:PORT
    pid_t pid = -1;
  };
  explicit EtcdCluster(EtcdClusterOptions options) : options_(std::move(options)) {}
  absl::Status Launch();
  std::string LogOf(int member) const;

  const EtcdClusterOptions options_;
  TempDir dir_ = TempDir::InMemory();
  std::vector<Member> members_;
};

}  // namespace omni::testing
