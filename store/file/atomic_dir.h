// A directory that appears whole or not at all.
#pragma once

#include <memory>
#include <string>

#include <absl/status/statusor.h>

#include "engine/base/open_file.h"

namespace omni {

// Problem: a model is many files; a crash between two of them must not leave something that looks like a
// model.
// Solution: everything is written into a sibling DIR.tmp-<number>, synced, and renamed to DIR in one step.
// The number says nothing, but of what may be gone on with: there it is the checksum of what is written.
// DIR.lock beside it is held (flock) meanwhile, so that a second writer of the same DIR is refused, and so is
// the sibling itself: one that nobody holds is what a dead writer left, on whatever machine or in whatever
// container it ran, and is removed when the next writer begins.
class AtomicDir {
 public:
  // Refuses, before anything is written: a DIR that exists and is not an empty directory, or is one that
  // cannot be replaced (a mount point, another user's); a second writer; a parent that is missing or
  // read-only.
  // With a `resume_key`, which names what is written, what an earlier writer of the same key left is gone on
  // with: its packs/ are kept for the caller to judge, all else is removed; and what this one leaves when it
  // fails, is killed or loses its power stays for the next, as far as the caller has synced it.
  static absl::StatusOr<std::unique_ptr<AtomicDir>> Begin(const std::string& dir,
                                                          const std::string& resume_key = {});
  ~AtomicDir();  // removes the temporary directory unless committed or to be resumed, and frees the lock
  AtomicDir(const AtomicDir&) = delete;
  AtomicDir& operator=(const AtomicDir&) = delete;

  const std::string& path() const {
    return temp_;
  }  // where to write; the writer syncs its own files and folders
  // Syncs the temporary directory itself, renames it, syncs the parent.
  absl::Status Commit();

 private:
  AtomicDir() = default;
  absl::Status Lock();
  absl::Status TakeOrRemoveLeftovers();
  absl::Status Adopt();  // what lies at resume_temp_
  absl::Status MakeTemporary();
  absl::Status CheckReplaceable(const std::string& fresh) const;

  std::string dir_, parent_, temp_, lock_path_, resume_temp_;  // temp_ is empty once it has become dir_
  FileDescriptor lock_, temp_lock_;
  bool adopted_ = false;
  bool keep_ = false;  // what was written, when not committed
};

}  // namespace omni
