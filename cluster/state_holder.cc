#include "cluster/state_holder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <system_error>
#include <utility>

#include <absl/strings/str_cat.h>

#include "engine/base/random.h"
#include "engine/base/system_error.h"

namespace omni {
namespace {

constexpr size_t kTokenDigits = 32;  // hex

}  // namespace

absl::StatusOr<std::unique_ptr<StateHolder>> StateHolder::Take(const std::string& dir) {
  const std::string path = absl::StrCat(dir, "/holder");
  FileDescriptor file(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0600));
  if (file.get() < 0) return SystemError(path, "open", errno);
  if (::flock(file.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return SystemError(path, "lock", errno);
    return absl::FailedPreconditionError(absl::StrCat(
        dir,
        ": another process keeps its state here; is one running already at this address? Then end it, or "
        "listen elsewhere. Else give each coordinator a --state folder of its own"));
  }
  std::string token(kTokenDigits + 1, '\0');
  const ssize_t bytes = ::pread(file.get(), token.data(), token.size(), 0);
  if (bytes < 0) return SystemError(path, "read", errno);
  token.resize(static_cast<size_t>(bytes));
  // One that a crash left half written is another one: nobody has acted by it.
  if (token.size() != kTokenDigits || token.find_first_not_of("0123456789abcdef") != std::string::npos) {
    token = RandomHex(kTokenDigits);
    if (::ftruncate(file.get(), 0) != 0 ||
        ::pwrite(file.get(), token.data(), token.size(), 0) != static_cast<ssize_t>(token.size()) ||
        ::fsync(file.get()) != 0) {
      return SystemError(path, "write", errno);
    }
  }
  return std::unique_ptr<StateHolder>(new StateHolder(std::move(file), std::move(token)));
}

absl::StatusOr<HeldFolder> TakeFolder(const std::string& dir) {
  std::error_code error;
  std::filesystem::create_directories(dir, error);
  if (error) {
    return absl::UnavailableError(
        absl::StrCat(dir, ": the folder for what the cluster keeps cannot be made: ", error.message()));
  }
  absl::StatusOr<std::unique_ptr<StateHolder>> held = StateHolder::Take(dir);
  if (!held.ok()) return held.status();
  return HeldFolder{dir, *std::move(held)};
}

absl::StatusOr<HeldFolder> TakeFreeFolder(const std::string& dir) {
  constexpr int kMost = 1000;
  for (int number = 0;; ++number) {
    absl::StatusOr<HeldFolder> held = TakeFolder(absl::StrCat(dir, "/", number));
    if (held.ok() || number >= kMost || !absl::IsFailedPrecondition(held.status())) return held;
  }
}

}  // namespace omni
