#include "tests/testing/node_process.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <fstream>
#include <sstream>
#include <thread>
#include <utility>

namespace omni::testing {
namespace {

std::string ReadAll(const std::string& path) {
  std::ifstream in(path);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

}  // namespace

NodeProcess::NodeProcess(const std::string& program, std::vector<std::string> arguments, std::string log,
                         int network_namespace, const char* verb)
    : log_(std::move(log)), out_(log_ + ".out") {
  arguments.insert(arguments.begin(), {program, verb});
  std::vector<char*> argv;
  for (std::string& a : arguments) argv.push_back(a.data());
  argv.push_back(nullptr);
  unlink(out_.c_str());
  pid_ = fork();
  if (pid_ != 0) return;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  const int out = open(out_.c_str(), O_CREAT | O_WRONLY | O_TRUNC, 0600);
  const int err = open(log_.c_str(), O_CREAT | O_WRONLY | O_APPEND, 0600);
  dup2(out, 1);
  dup2(err, 2);
  if (network_namespace >= 0 && setns(network_namespace, CLONE_NEWNET) != 0) _exit(127);
  execv(argv[0], argv.data());
  _exit(127);
}

NodeProcess::~NodeProcess() {
  if (pid_ > 0) Kill();
}

std::string NodeProcess::WaitForAddress(std::chrono::seconds limit) {
  return WaitFor("listening on ", limit);
}
std::string NodeProcess::WaitForGrpcAddress(std::chrono::seconds limit) { return WaitFor("gRPC at ", limit); }

// The rest of the line that begins so.
std::string NodeProcess::WaitFor(const std::string& before, std::chrono::seconds limit) {
  const auto until = std::chrono::steady_clock::now() + limit;
  while (std::chrono::steady_clock::now() < until) {
    const std::string text = ReadAll(out_);
    const size_t at = text.find(before), end = text.find('\n', at == std::string::npos ? 0 : at);
    if (at != std::string::npos && end != std::string::npos)
      return text.substr(at + before.size(), end - at - before.size());
    if (!running()) return "";
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return "";
}

int NodeProcess::Wait() {
  int status = 0;
  while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
  }
  pid_ = -1;
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

void NodeProcess::Kill() {
  if (pid_ <= 0) return;
  kill(pid_, SIGKILL);
  Wait();
}

int NodeProcess::Interrupt(std::chrono::seconds limit) {
  if (pid_ <= 0) return -1;
  kill(pid_, SIGTERM);
  const auto until = std::chrono::steady_clock::now() + limit;
  siginfo_t ended{};
  while (std::chrono::steady_clock::now() < until) {
    if (waitid(P_PID, static_cast<id_t>(pid_), &ended, WEXITED | WNOHANG | WNOWAIT) != 0 || ended.si_pid != 0)
      return Wait();
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  kill(pid_, SIGKILL);
  return Wait();
}

// Of one that has ended there is no pid, and -1 would be every process there is.
void NodeProcess::Stop() {
  if (pid_ > 0) kill(pid_, SIGSTOP);
}
void NodeProcess::Continue() {
  if (pid_ > 0) kill(pid_, SIGCONT);
}

bool NodeProcess::running() {
  if (pid_ <= 0) return false;
  if (waitpid(pid_, nullptr, WNOHANG) != pid_) return true;
  pid_ = -1;
  return false;
}

std::string NodeProcess::Log() const { return ReadAll(log_); }

}  // namespace omni::testing
