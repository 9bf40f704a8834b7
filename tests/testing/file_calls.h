// The system calls on files, seen and refused by a test.
#pragma once

#include <cstdint>
#include <string>

namespace omni::testing {

// A program that links this library has its own open, write, fsync, rename and their kin, which come before
// the C library's for everything in it: our code, the C++ library's and RocksDB's. Without a watcher they are
// the system's. Not seen are calls that the C library makes itself (fopen, fwrite, mkstemp).
struct FileCall {
  enum class Kind {
    kOpen,      // flags; path
    kRead,      // path, bytes
    kWrite,     // path, fd, bytes
    kTruncate,  // path, bytes: the new length
    kAllocate,  // path, fd; offset and bytes
    kSync,      // path, fd; of a file or folder
    kRename,    // path, to; exchange
    kLink,      // path, to
    kUnlink,    // path: a file
    kMakeFolder,
    kRemoveFolder,
  };
  Kind kind;
  std::string path;  // absolute
  std::string to = {};
  int fd = -1;
  int flags = 0;
  int64_t offset = 0, bytes = 0;
  const void* data = nullptr;  // kWrite
  bool exchange = false;       // kRename: the two names change places
  bool by_product = false;     // called from the program itself, not from a library that is loaded
};

bool Changes(const FileCall& call);  // whether it can change what is on the disk, or make it last
bool IsStep(const FileCall& call);   // the same, but for changes of a file's bytes

// Called for every call of any thread; changing calls, one at a time.
class FileWatcher {
 public:
  virtual ~FileWatcher() = default;
  static constexpr int kPretend = -1;
  // An errno: the call fails with it and does nothing. kPretend: it does nothing and returns 0. 0: it goes to
  // the system.
  virtual int Before(const FileCall&) { return 0; }
  // `result` as the system gave it; -1 for an error.
  virtual void After(const FileCall&, int64_t /*result*/) {}
};

// Sets the watcher for as long as it lives; one at a time.
class WatchFiles {
 public:
  explicit WatchFiles(FileWatcher& watcher);
  ~WatchFiles();
  WatchFiles(const WatchFiles&) = delete;
  WatchFiles& operator=(const WatchFiles&) = delete;
};

}  // namespace omni::testing
