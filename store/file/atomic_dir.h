// A directory that appears whole or not at all.
#pragma once

#include <memory>
#include <string>

#include <absl/status/statusor.h>

#include "store/file/files.h"

namespace omni {

// Problem: a model is many files; a crash between two of them must not leave something that looks like a
// model.
// Solution: everything is written into a sibling DIR.tmp-<pid>, synced, and renamed to DIR in one step.
// DIR.lock beside it is held (flock) meanwhile, so a second writer of the same DIR is refused; a lock that a
// dead process left behind is free. Temporaries of dead processes are removed when the next writer begins.
class AtomicDir {
 public:
  static constexpr char kResumeFile[] = "resume.key";  // in the temporary directory while it is written

  // Refuses: a DIR that exists and is not an empty directory; a second writer; a parent that is missing or
  // read-only.
  // With a `resume_key`, what an earlier writer of the same key left is gone on with: its packs/ are kept for
  // the caller to judge, all else is removed; and what this one leaves when it fails or is killed stays for
  // the next.
  static absl::StatusOr<std::unique_ptr<AtomicDir>> Begin(const std::string& dir,
                                                          const std::string& resume_key = {});
  ~AtomicDir();  // removes the temporary directory unless committed or to be resumed, and frees the lock
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
  absl::Status RemoveStaleTemporaries();
  absl::StatusOr<bool> Adopt(const std::string& stale);  // whether it was one of resume_key_

  std::string dir_, parent_, temp_, lock_path_, resume_key_;
  int lock_fd_ = -1;
  bool made_temp_ = false, adopted_ = false;
};

}  // namespace omni
