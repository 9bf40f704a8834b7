#include "tests/testing/etcd.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>

#include <absl/strings/str_cat.h>
#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <third_party/etcd.grpc.pb.h>

namespace omni::testing {
namespace {

constexpr const char* kPrograms[] = {"/usr/bin/etcd", "/usr/local/bin/etcd"};
constexpr auto kReady = std::chrono::seconds(60), kAsk = std::chrono::seconds(1);
constexpr int kLaunches = 3;  // another program may take a port that was free

std::string Program() {
  for (const char* program : kPrograms) {
    if (::access(program, X_OK) == 0) return program;
  }
  return "";
}

// Different ports that nobody uses at the moment.
std::vector<int> FreePorts(int count) {
  std::vector<int> sockets, ports;
  for (int i = 0; i < count; ++i) {
    const int s = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    if (s < 0 || ::bind(s, reinterpret_cast<sockaddr*>(&address), size) != 0 ||
        ::getsockname(s, reinterpret_cast<sockaddr*>(&address), &size) != 0) {
      ADD_FAILURE() << "no free port: " << std::strerror(errno);
    }
    sockets.push_back(s);
    ports.push_back(ntohs(address.sin_port));
  }
  for (const int s : sockets) ::close(s);
  return ports;
}

std::string ReadAll(const std::string& path) {
  std::ifstream in(path);
  return {std::istreambuf_iterator<char>(in), {}};
}

}  // namespace

std::string EtcdCluster::WhyNot() {
  return Program().empty() ? "etcd is not installed (apt-get install etcd-server)" : "";
}

absl::StatusOr<std::unique_ptr<EtcdCluster>> EtcdCluster::Start(EtcdClusterOptions options) {
  std::unique_ptr<EtcdCluster> cluster(new EtcdCluster(std::move(options)));
  absl::Status launched;
  for (int i = 0; i < kLaunches; ++i) {
    launched = cluster->Launch();
    if (launched.ok()) return cluster;
  }
  return launched;
}

EtcdCluster::~EtcdCluster() {
  for (size_t i = 0; i < members_.size(); ++i) Kill(static_cast<int>(i));
}

absl::Status EtcdCluster::Launch() {
  for (size_t i = 0; i < members_.size(); ++i) Kill(static_cast<int>(i));
  std::filesystem::remove_all(dir_ / "data");
  std::filesystem::create_directory(dir_ / "data");
  members_.clear();
  for (const EtcdHost& host : options_.hosts) {  // nobody else is there
    members_.push_back({.client = host.address + ":2379", .peer = host.address + ":2380"});
  }
  const std::vector<int> ports = FreePorts(options_.hosts.empty() ? 2 * options_.members : 0);
  for (int i = 0; i < options_.members && options_.hosts.empty(); ++i) {
    members_.push_back({.client = absl::StrCat("127.0.0.1:", ports[2 * i]),
                        .peer = absl::StrCat("127.0.0.1:", ports[2 * i + 1])});
  }
  for (int i = 0; i < options_.members; ++i) {
    if (absl::Status s = Begin(i); !s.ok()) return s;
  }
  for (int i = 0; i < options_.members; ++i) {
    if (absl::Status s = WaitReady(i); !s.ok()) return s;
  }
  return absl::OkStatus();
}

absl::Status EtcdCluster::Begin(int member) {
  const std::string scheme = options_.tls == nullptr ? "http://" : "https://";
  std::string cluster;
  for (size_t i = 0; i < members_.size(); ++i)
    absl::StrAppend(&cluster, i == 0 ? "" : ",", "m", i, "=http://", members_[i].peer);
  Member& m = members_[static_cast<size_t>(member)];
  std::vector<std::string> arguments = {Program(),
                                        absl::StrCat("--name=m", member),
                                        absl::StrCat("--data-dir=", dir_ / absl::StrCat("data/m", member)),
                                        absl::StrCat("--listen-client-urls=", scheme, m.client),
                                        absl::StrCat("--advertise-client-urls=", scheme, m.client),
                                        absl::StrCat("--listen-peer-urls=http://", m.peer),
                                        absl::StrCat("--initial-advertise-peer-urls=http://", m.peer),
                                        absl::StrCat("--initial-cluster=", cluster),
                                        "--logger=zap",
                                        "--log-level=warn"};
  if (options_.tls != nullptr) {
    arguments.push_back("--client-cert-auth");
    arguments.push_back("--trusted-ca-file=" + options_.tls->authority);
    arguments.push_back("--cert-file=" + options_.tls->certificate);
    arguments.push_back("--key-file=" + options_.tls->key);
  }
  arguments.insert(arguments.end(), options_.arguments.begin(), options_.arguments.end());
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  const std::string log = LogOf(member);
  const pid_t parent = ::getpid();
  const int where =
      options_.hosts.empty() ? -1 : options_.hosts[static_cast<size_t>(member)].network_namespace;
  m.pid = ::fork();
  if (m.pid < 0) return absl::ResourceExhaustedError(absl::StrCat("cannot fork: ", std::strerror(errno)));
  if (m.pid == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) ::_exit(127);
    const int out = ::open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
    ::dup2(out, 1);
    ::dup2(out, 2);
    if (where >= 0 && ::setns(where, CLONE_NEWNET) != 0) ::_exit(127);
    ::execv(argv[0], argv.data());
    ::_exit(127);
  }
  return absl::OkStatus();
}

absl::Status EtcdCluster::WaitReady(int member) {
  Member& m = members_[static_cast<size_t>(member)];
  std::shared_ptr<grpc::ChannelCredentials> credentials = grpc::InsecureChannelCredentials();
  if (options_.tls != nullptr) {
    credentials = grpc::SslCredentials({.pem_root_certs = ReadAll(options_.tls->authority),
                                        .pem_private_key = ReadAll(options_.tls->key),
                                        .pem_cert_chain = ReadAll(options_.tls->certificate)});
  }
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 50);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 200);
  const auto kv = etcdserverpb::KV::NewStub(grpc::CreateCustomChannel(m.client, credentials, arguments));
  const auto until = std::chrono::steady_clock::now() + kReady;
  grpc::Status status;
  while (std::chrono::steady_clock::now() < until) {
    if (::waitpid(m.pid, nullptr, WNOHANG) == m.pid) {
      m.pid = -1;
      break;
    }
    grpc::ClientContext context;
    context.set_wait_for_ready(true);
    context.set_deadline(std::chrono::system_clock::now() + kAsk);
    etcdserverpb::RangeRequest request;
    request.set_key("ready");
    etcdserverpb::RangeResponse response;
    status = kv->Range(&context, request, &response);
    if (status.ok()) return absl::OkStatus();
  }
  return absl::UnavailableError(absl::StrCat("etcd's member ", member, " at ", m.client, " does not answer: ",
                                             status.error_message(), "\n", ReadAll(LogOf(member))));
}

std::vector<std::string> EtcdCluster::endpoints() const {
  std::vector<std::string> endpoints;
  for (const Member& member : members_) endpoints.push_back(member.client);
  return endpoints;
}

void EtcdCluster::Kill(int member) {
  pid_t& pid = members_[static_cast<size_t>(member)].pid;
  if (pid < 0) return;
  ::kill(pid, SIGKILL);
  ::waitpid(pid, nullptr, 0);
  pid = -1;
}

// Of one that has ended there is no pid, and -1 would be every process there is.
void EtcdCluster::Stop(int member) {
  if (const pid_t pid = members_[static_cast<size_t>(member)].pid; pid > 0) ::kill(pid, SIGSTOP);
}

void EtcdCluster::Continue(int member) {
  if (const pid_t pid = members_[static_cast<size_t>(member)].pid; pid > 0) ::kill(pid, SIGCONT);
}

absl::Status EtcdCluster::Restart(int member) {
  if (absl::Status s = Begin(member); !s.ok()) return s;
  return WaitReady(member);
}

absl::Status EtcdCluster::Compact(int64_t revision) {
  const auto kv = etcdserverpb::KV::NewStub(
      grpc::CreateChannel(members_.front().client, grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kReady);
  etcdserverpb::CompactionRequest request;
  request.set_revision(revision);
  request.set_physical(true);
  etcdserverpb::CompactionResponse response;
  const grpc::Status status = kv->Compact(&context, request, &response);
  return {static_cast<absl::StatusCode>(status.error_code()), status.error_message()};
}

std::string EtcdCluster::LogOf(int member) const { return dir_ / absl::StrCat("m", member, ".log"); }

}  // namespace omni::testing
