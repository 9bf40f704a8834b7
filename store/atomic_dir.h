// A directory that appears whole or not at all.
#pragma once

#include <memory>
#include <string>

#include <absl/status/statusor.h>

#include "store/files.h"

namespace omni {

// Problem: a model is many files; a crash between two of them must not leave something that looks like a
// model.
// Solution: everything is written into a sibling DIR.tmp-<pid>, synced, and renamed to DIR in one step.
// DIR.lock beside it is held (flock) meanwhile, so a second writer of the same DIR is refused; a lock that a
// dead process left behind is free. Temporaries of dead processes are removed when the next writer begins.
class AtomicDir {
 public:
  // Refuses: a DIR that exists and is not an empty directory; a second writer; a parent that is missing or
  // read-only.
  static absl::StatusOr<std::unique_ptr<AtomicDir>> Begin(const std::string& dir);
  ~AtomicDir();  // removes the temporary directory unless committed, and frees the lock
  AtomicDir(const AtomicDir&) = delete;
  AtomicDir& operator=(const AtomicDir&) = delete;

  const std::string& path() const {
    return temp_;
  }  // where to write; the writer syncs its own files and folders
  // Syncs the temporary directory itself, renames it, syncs the parent.
  absl::Status Commit(const StepHook& hook);

 private:
  AtomicDir() = default;
  absl::Status Lock();
  absl::Status RemoveStaleTemporaries() const;

  std::string dir_, parent_, temp_, lock_path_;
  int lock_fd_ = -1;
  bool made_temp_ = false;
};

}  // namespace omni
