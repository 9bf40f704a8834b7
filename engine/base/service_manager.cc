#include "engine/base/service_manager.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <utility>

#include "engine/base/log.h"

namespace omni {
namespace {

std::string Take(const char* name) {
  const char* value = std::getenv(name);
  std::string text = value == nullptr ? "" : value;
  unsetenv(name);
  return text;
}

// 0 if it is no number.
int64_t Number(std::string_view text) {
  int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc() && end == text.data() + text.size() && number > 0 ? number : 0;
}

// 0, or the error.
int Send(const std::string& socket_name, const std::string& text) {
  sockaddr_un to = {};
  to.sun_family = AF_UNIX;
  if (socket_name.size() >= sizeof to.sun_path || (socket_name[0] != '/' && socket_name[0] != '@'))
    return EINVAL;
  std::memcpy(to.sun_path, socket_name.data(), socket_name.size());
  if (socket_name[0] == '@') to.sun_path[0] = '\0';
  const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + socket_name.size());
  const int fd = ::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return errno;
  const ssize_t sent = ::sendto(fd, text.data(), text.size(), MSG_NOSIGNAL | MSG_DONTWAIT,
                                reinterpret_cast<const sockaddr*>(&to), size);
  const int error = sent < 0 ? errno : 0;
  ::close(fd);
  return error;
}

}  // namespace

ServiceManager ServiceManager::FromEnvironment() {
  std::string socket = Take("NOTIFY_SOCKET");
  const std::string pid = Take("WATCHDOG_PID");
  const int64_t watchdog = Number(Take("WATCHDOG_USEC"));
  const bool ours = pid.empty() || Number(pid) == ::getpid();
  return {std::move(socket), std::chrono::microseconds(ours ? watchdog : 0)};
}

void ServiceManager::Ready(const std::string& status) { Tell("READY=1\nSTATUS=" + status + "\n"); }
void ServiceManager::Alive() { Tell("WATCHDOG=1\n"); }

void ServiceManager::Stopping(std::chrono::milliseconds most) {
  const auto wait = std::chrono::duration_cast<std::chrono::microseconds>(most);
  Tell("STOPPING=1\nEXTEND_TIMEOUT_USEC=" + std::to_string(wait.count()) +
       "\nSTATUS=finishing what is under way\n");
}

void ServiceManager::Tell(const std::string& lines) {
  if (socket_.empty()) return;
  const int error = Send(socket_, lines);
  if (error == 0 || std::exchange(refused_, true)) return;
  LogWarning("service_manager_not_told", "the service manager at {socket} cannot be told anything: {reason}",
             {{"socket", socket_}, {"reason", std::strerror(error)}});
}

}  // namespace omni
