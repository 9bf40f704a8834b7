// Control groups (cgroups) of a test's own, where the system allows it.
#pragma once

#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <string>

namespace omni::testing {

// A group that exists as long as this; no process may be left in it then. folder() is empty if none may be
// made here.
class ControlGroup {
 public:
  // The limits as files of version 1, in the hierarchy of `controller`, and of version 2. `parent` is another
  // group's folder; if empty, the outermost.
  ControlGroup(const std::string& controller, const std::map<std::string, std::string>& first,
               const std::map<std::string, std::string>& second, const std::string& parent = "") {
    static int number = 0;
    const std::string name = "/omni-test-" + std::to_string(getpid()) + "-" + std::to_string(++number);
    if (!parent.empty()) {
      Make(parent + name, std::filesystem::exists(parent + "/cgroup.controllers") ? second : first);
    } else if (!Make("/sys/fs/cgroup/" + controller + name, first)) {
      Make("/sys/fs/cgroup" + name, second);
    }
  }
  ~ControlGroup() {
    if (!folder_.empty()) rmdir(folder_.c_str());
  }
  ControlGroup(const ControlGroup&) = delete;
  ControlGroup& operator=(const ControlGroup&) = delete;

  const std::string& folder() const { return folder_; }

 private:
  bool Make(const std::string& folder, const std::map<std::string, std::string>& limits) {
    if (mkdir(folder.c_str(), 0755) != 0) return false;
    for (const auto& [file, value] : limits) {
      if (!std::filesystem::exists(folder + "/" + file) ||
          !(std::ofstream(folder + "/" + file) << value << std::flush)) {
        rmdir(folder.c_str());
        return false;
      }
    }
    folder_ = folder;
    return true;
  }

  std::string folder_;
};

inline std::string Bytes(int mebibytes) { return std::to_string(int64_t{mebibytes} << 20); }

}  // namespace omni::testing
