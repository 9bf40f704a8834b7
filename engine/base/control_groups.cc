#include "engine/base/control_groups.h"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <string_view>

#include <absl/strings/match.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_replace.h>
#include <absl/strings/str_split.h>

namespace omni {
namespace {

constexpr size_t kMaxBytes = 1 << 20;             // of a file that is read
constexpr int kMaxDepth = 64;                     // of groups in groups
constexpr int64_t kUnlimited = int64_t{1} << 60;  // version 1 writes a number near 2^63 for "no limit"

std::optional<std::string> Read(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return std::nullopt;
  std::string text(kMaxBytes, '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(std::max<std::streamsize>(0, in.gcount())));
  return text;
}

std::optional<int64_t> ToNumber(std::string_view text) {
  int64_t value = 0;
  const auto [at, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || at == text.data() || value < 0) return std::nullopt;
  return value;
}

std::optional<int64_t> ReadNumber(const std::string& path) {
  const std::optional<std::string> text = Read(path);
  return text ? ToNumber(*text) : std::nullopt;
}

std::vector<std::string> Words(const std::string& text, char separator) {
  return absl::StrSplit(text, separator, absl::SkipEmpty());
}

bool Has(const std::vector<std::string>& words, const std::string& word) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

// Where a hierarchy can be seen.
struct Mount {
  std::string root;   // the group that stands at `point`
  std::string point;  // a folder
};

// proc(5): "36 35 98:0 /root /point options [optional ...] - type source superoptions", with spaces in octal.
std::optional<Mount> ParseMount(const std::string& line, const std::string& controller, bool unified) {
  const std::vector<std::string> words = Words(line, ' ');
  const auto dash = std::find(words.begin(), words.end(), "-");
  if (words.size() < 9 || words.end() - dash < 4) return std::nullopt;
  if (dash[1] != (unified ? "cgroup2" : "cgroup")) return std::nullopt;
  if (!unified && !Has(Words(dash[3], ','), controller)) return std::nullopt;
  const auto plain = [](const std::string& text) {
    return absl::StrReplaceAll(text, {{"\\040", " "}, {"\\011", "\t"}, {"\\134", "\\"}});
  };
  return Mount{plain(words[3]), plain(words[4])};
}

Mount FindMount(const std::string& root, const std::string& controller, bool unified) {
  const std::string text = Read(root + "/proc/self/mountinfo").value_or("");
  for (const std::string& line : Words(text, '\n')) {
    if (std::optional<Mount> mount = ParseMount(line, controller, unified)) return *mount;
  }
  return {"/", unified ? "/sys/fs/cgroup" : "/sys/fs/cgroup/" + controller};
}

// `path` as seen from the mount's own group: empty for that group itself. A container may be told of a path
// outside of what it sees.
std::string Below(const Mount& mount, std::string path) {
  if (mount.root != "/" && (path == mount.root || absl::StartsWith(path, mount.root + "/")))
    path.erase(0, mount.root.size());
  return path == "/" || absl::StartsWith(path, "/..") ? "" : path;
}

// The limit, if there is one.
std::optional<int64_t> LimitOf(const std::string& path) {
  const std::optional<int64_t> most = ReadNumber(path);  // "max" is no number
  return most && *most < kUnlimited ? most : std::nullopt;
}

int64_t ReclaimablePages(const std::string& folder) {
  const std::string stat = Read(folder + "/memory.stat").value_or("");
  int64_t bytes = 0;
  for (const std::string& line : Words(stat, '\n')) {
    for (const std::string_view name : {"inactive_file ", "total_inactive_file "}) {
      if (line.starts_with(name)) bytes = ToNumber(std::string_view(line).substr(name.size())).value_or(0);
    }
  }
  return bytes;
}

void TakeLeast(std::optional<ControlGroups::Limit>& least, ControlGroups::Limit limit) {
  if (!least || limit.left() < least->left()) least = std::move(limit);
}

}  // namespace

std::vector<ControlGroups::Group> ControlGroups::Groups(const std::string& controller) const {
  std::vector<Group> groups;
  const std::string text = Read(root_ + "/proc/self/cgroup").value_or("");
  for (const std::string& line : Words(text, '\n')) {  // "4:memory:/a/b", or "0::/a/b" for version 2
    const std::vector<std::string> parts = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (parts.size() != 3) continue;
    const bool unified = parts[1].empty();
    if (!unified && !Has(Words(parts[1], ','), controller)) continue;
    const Mount mount = FindMount(root_, controller, unified);
    std::string path = Below(mount, parts[2]);
    for (int depth = 0; depth < kMaxDepth; ++depth) {
      groups.push_back({path.empty() ? "/" : path, root_ + mount.point + path, unified});
      if (path.empty()) break;
      const size_t slash = path.find_last_of('/');
      path.resize(slash == std::string::npos ? 0 : slash);
    }
  }
  return groups;
}

std::optional<ControlGroups::Limit> ControlGroups::Memory() const {
  std::optional<Limit> least;
  for (const Group& group : Groups("memory")) {
    const char* most_name = group.unified ? "/memory.max" : "/memory.limit_in_bytes";
    const char* used_name = group.unified ? "/memory.current" : "/memory.usage_in_bytes";
    const std::optional<int64_t> most = LimitOf(group.folder + most_name);
    if (!most) continue;
    const int64_t used = ReadNumber(group.folder + used_name).value_or(0);
    TakeLeast(least, {group.name, *most, std::max<int64_t>(0, used - ReclaimablePages(group.folder))});
  }
  return least;
}

std::optional<ControlGroups::Limit> ControlGroups::Tasks() const {
  std::optional<Limit> least;
  for (const Group& group : Groups("pids")) {
    const std::optional<int64_t> most = LimitOf(group.folder + "/pids.max");
    if (most) TakeLeast(least, {group.name, *most, ReadNumber(group.folder + "/pids.current").value_or(0)});
  }
  return least;
}

std::optional<ControlGroups::Quota> ControlGroups::Cpu() const {
  std::optional<Quota> least;
  for (const Group& group : Groups("cpu")) {
    std::optional<int64_t> micros, period;
    if (group.unified) {  // "max 100000" or "50000 100000"
      const std::vector<std::string> words = absl::StrSplit(Read(group.folder + "/cpu.max").value_or(""),
                                                            absl::ByAnyChar(" \n"), absl::SkipEmpty());
      if (words.size() == 2) micros = ToNumber(words[0]), period = ToNumber(words[1]);
    } else {
      micros = ReadNumber(group.folder + "/cpu.cfs_quota_us");  // -1: none
      period = ReadNumber(group.folder + "/cpu.cfs_period_us");
    }
    if (!micros || !period || *micros == 0 || *period == 0) continue;
    const double cores = static_cast<double>(*micros) / static_cast<double>(*period);
    if (!least || cores < least->cores) least = Quota{group.name, cores};
  }
  return least;
}

}  // namespace omni
