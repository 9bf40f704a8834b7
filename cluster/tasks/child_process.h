// A program that is run for a task, and all that comes of it, through omni-child (child_main.cc).
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

namespace omni {

// 0: none.
struct ChildLimits {
  std::chrono::milliseconds time{std::chrono::minutes(10)};
  std::chrono::milliseconds grace{std::chrono::seconds(5)};  // between being asked to end and being ended
  int64_t cpu_seconds = 0;                                   // of each process
  int64_t memory_bytes = 1LL << 30;                          // resident, of all its processes
  int64_t address_bytes = 0;                                 // virtual, of each process
  int64_t disk_bytes = 1LL << 30;                            // of its folder, and of each file that it writes
  int64_t open_files = 256;
  int64_t processes = 64;
};

struct ChildSpec {
  std::vector<std::string> argv;         // argv[0] is the program's absolute path
  std::vector<std::string> environment;  // "NAME=VALUE": all of it
  std::string folder;                    // that it begins in
  std::string watched = {};              // that disk_bytes is of; empty: the same one
  std::optional<std::string> input;      // its standard input; none: a pipe
  ChildLimits limits;
};

// Where children are kept, and what is known of them.
struct ChildPlace {
  std::string program;  // omni-child
  // Of this server alone: a file for each child in children/, a folder for each attempt in runs/.
  std::string folder;
  std::string control_group;  // of version 2, in which each child gets one of its own; empty: none
  // A keeper that has been stopped for so long, or does not end within it when it has to, is abandoned: it
  // and all that it kept are ended without it.
  std::chrono::milliseconds patience{std::chrono::seconds(10)};
};

// One thread, except Terminate and Kill. The thread that starts it waits for its end.
class ChildProcess {
 public:
  static absl::StatusOr<std::unique_ptr<ChildProcess>> Start(const ChildPlace& place, const ChildSpec& spec);
  ~ChildProcess();  // ends it, and waits for that

  // Not blocking; closed by CloseIn and by the destructor.
  int in() const { return in_; }  // -1: closed, or there is an input
  int out() const { return out_; }
  int err() const { return err_; }
  int control() const { return control_; }  // may be read: ReadEnd has something
  void CloseIn();

  void Terminate();  // asks it to end; after `grace` it is ended
  void Kill();

  struct End {
    int error = 0;  // errno: it was never started
    bool exited = false;
    int code = 0, signal = 0;
    std::string why;  // "program", "asked", "memory", "processes", "killed": omni-child itself was
    int64_t cpu_ms = 0, memory_bytes = 0;
  };
  // Nothing that came of it is left, except what has hidden from all; its pipes have their last bytes.
  std::optional<End> ReadEnd();
  bool stopped() const;  // omni-child is, by a signal: it watches nothing
  // Ends all without it; as of ReadEnd, with "killed".
  End Abandon();

 private:
  ChildProcess() = default;
  void Clean(bool leftovers);

  ChildPlace place_;
  std::string mark_, group_;
  pid_t pid_ = -1;
  uint64_t start_ = 0;
  int in_ = -1, out_ = -1, err_ = -1, control_ = -1;
  std::string line_;
  bool over_ = false;
};

// Ends what the children of an earlier server of this folder have left, and removes their records and
// folders. To be called before the first is started. How many processes were ended.
absl::StatusOr<int> EndLeftovers(const ChildPlace& place);

// Which limit of the control group's the system has enforced, by its files: "memory", "processes", or none.
std::string ControlGroupLimit(const std::string& group);

// A task's own folder.
absl::StatusOr<std::string> MakeWorkFolder(const ChildPlace& place);

}  // namespace omni
