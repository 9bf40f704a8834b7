#include "store/state/adapter_files.h"

#include <algorithm>
#include <filesystem>
#include <system_error>

#include <absl/strings/ascii.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>

#include "engine/base/quoted.h"
#include "engine/base/replace_file.h"
#include "store/file/files.h"
#include "store/state/state_dir.h"

namespace omni {
namespace {

constexpr std::string_view kSuffix = ".adapter";
constexpr size_t kMostNameBytes = 64;
constexpr int64_t kMostBytes = int64_t{1} << 30;

// If it is not there, with those above it.
absl::Status MakeFolder(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) return absl::UnavailableError(absl::StrCat(path, ": cannot be made: ", error.message()));
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckAdapterName(std::string_view name) {
  const bool fits = !name.empty() && name.size() <= kMostNameBytes && absl::ascii_isalnum(name[0]) &&
                    std::ranges::all_of(name, [](unsigned char c) {
                      return absl::ascii_isalnum(c) || c == '.' || c == '-' || c == '_';
                    });
  if (fits) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "an adapter's name is 1 to ", kMostNameBytes,
      " letters, digits, '.', '-' and '_', the first a letter or a digit, not ", Quoted(std::string(name))));
}

std::string AdapterFiles::PathOf(const std::string& name) const {
  return absl::StrCat(dir_, "/", name, std::string(kSuffix));
}

absl::Status AdapterFiles::Save(const std::string& name, std::string_view bytes) const {
  if (absl::Status s = CheckAdapterName(name); !s.ok()) return s;
  if (absl::Status s = MakeFolder(dir_); !s.ok()) return s;
  return ReplaceFile(PathOf(name), bytes);
}

absl::StatusOr<std::string> AdapterFiles::Load(const std::string& name) const {
  if (absl::Status s = CheckAdapterName(name); !s.ok()) return s;
  std::error_code error;
  if (!std::filesystem::exists(PathOf(name), error)) {
    const absl::StatusOr<std::vector<std::string>> names = Names();
    if (!names.ok()) return names.status();
    return absl::NotFoundError(absl::StrCat(
        PathOf(name), ": there is no adapter ", Quoted(name), "; ",
        names->empty() ? "there is none at all" : absl::StrCat("there are ", absl::StrJoin(*names, ", "))));
  }
  return ReadText(PathOf(name), kMostBytes);
}

absl::Status AdapterFiles::Remove(const std::string& name) const {
  if (const absl::StatusOr<std::string> there = Load(name); !there.ok()) return there.status();
  if (absl::Status s = RemoveFile(PathOf(name)); !s.ok()) return s;
  return SyncDirectory(dir_);
}

absl::StatusOr<std::vector<std::string>> AdapterFiles::Names() const {
  std::vector<std::string> names;
  std::error_code error;
  if (!std::filesystem::exists(dir_, error)) return names;
  std::filesystem::directory_iterator files(dir_, error), end;
  for (; !error && files != end; files.increment(error)) {
    const std::string file = files->path().filename();
    if (!file.ends_with(kSuffix)) continue;
    std::string name = file.substr(0, file.size() - kSuffix.size());
    if (CheckAdapterName(name).ok()) names.push_back(std::move(name));
  }
  if (error) return absl::UnavailableError(absl::StrCat(dir_, ": ", error.message()));
  std::ranges::sort(names);
  return names;
}

absl::StatusOr<AdapterFiles> OpenAdapterFiles() {
  const absl::StatusOr<std::string> state = StateDir();
  if (!state.ok()) return state.status();
  return AdapterFiles(*state + "/adapters");
}

}  // namespace omni
