// Adapters on disk, by name: whole files that are replaced, never changed. What is in them is for whoever
// reads them (docs/formats/adapter.md).
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

namespace omni {

// 1 to 64 letters, digits, '.', '-' and '_', the first a letter or a digit. The error says so.
absl::Status CheckAdapterName(std::string_view name);

// A folder of adapters; any number of processes may use it. Thread-safe. Errors name
// the file.
class AdapterFiles {
 public:
  explicit AdapterFiles(std::string dir) : dir_(std::move(dir)) {}

  // Makes the folder if need be. When it returns OK the bytes survive a power cut; before that the old ones
  // do.
  absl::Status Save(const std::string& name, std::string_view bytes) const;
  absl::StatusOr<std::string> Load(const std::string& name) const;  // NotFound: says which there are
  absl::Status Remove(const std::string& name) const;
  absl::StatusOr<std::vector<std::string>> Names() const;  // ascending; none if there is no folder
  std::string PathOf(const std::string& name) const;       // of a good name; the file need not be there

 private:
  std::string dir_;
};

absl::StatusOr<AdapterFiles> OpenAdapterFiles();  // in StateDir()/adapters

}  // namespace omni
