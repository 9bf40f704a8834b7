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

}  // namespace omni
