// Who has a coordinator's state folder: one process at a time, and known again after a restart.
#pragma once

#include <memory>
#include <string>

#include <absl/status/statusor.h>

#include "engine/base/open_file.h"

namespace omni {

// Holds a lock on the folder's file `holder`; the system lets go of it when the process ends, however that
// comes. So whoever has the lock knows that nobody else acts by the folder's token.
class StateHolder {
 public:
  // FailedPrecondition: another process has the folder.
  static absl::StatusOr<std::unique_ptr<StateHolder>> Take(const std::string& dir);

  // Drawn when the folder is first used: 32 hex digits.
  const std::string& token() const { return token_; }

 private:
  StateHolder(FileDescriptor file, std::string token) : file_(std::move(file)), token_(std::move(token)) {}

  FileDescriptor file_;
  std::string token_;
};

struct HeldFolder {
  std::string dir;
  std::unique_ptr<StateHolder> holder;
};
// Takes a folder, which is made if it is not there. Unavailable: it cannot be made; else StateHolder's
// errors.
absl::StatusOr<HeldFolder> TakeFolder(const std::string& dir);
// The first of the folders 0, 1, 2 ... below `dir` that nobody has.
absl::StatusOr<HeldFolder> TakeFreeFolder(const std::string& dir);

}  // namespace omni
