// The control groups (cgroups, versions 1 and 2) that bound this process: the one it is in and all above it.
// Each has a limit of its own, of which its other members take their part.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace omni {

class ControlGroups {
 public:
  // `root` stands before every path under /proc and /sys; a test's folder, or empty. Reads when asked, keeps
  // nothing. What the system does not tell is not there; nothing fails.
  explicit ControlGroups(std::string root = "") : root_(std::move(root)) {}

  struct Limit {
    std::string group;   // its path within its hierarchy; "/" for the outermost that can be seen
    int64_t most = 0;    // bytes, or processes and threads
    int64_t in_use = 0;  // by all members together; 0 if unknown
    int64_t left() const { return most > in_use ? most - in_use : 0; }
  };
  // Of the groups with a limit, the one that leaves least. Of memory, pages of files that can be given back
  // do not count as in use.
  std::optional<Limit> Memory() const;
  std::optional<Limit> Tasks() const;  // processes and threads

  struct Quota {
    std::string group;
    double cores = 0;  // seconds of processor time a second
  };
  // The smallest.
  std::optional<Quota> Cpu() const;

 private:
  struct Group {
    std::string name, folder;  // folder: with the root
    bool unified = false;      // of version 2
  };
  // Those that bound what `controller` counts, the innermost first.
  std::vector<Group> Groups(const std::string& controller) const;

  std::string root_;
};

}  // namespace omni
