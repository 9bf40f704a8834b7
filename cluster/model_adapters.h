// The adapters that requests to an open model may ask for.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "engine/around/adapter.h"
#include "engine/around/adapter_source.h"
#include "store/state/adapter_files.h"

namespace omni {

// What an adapter takes of memory at most, which is while it is made from its file: the file's bytes more
// than when it is ready. d: the model's width. Errors: AdapterFiles::Load's and Adapter::Read's.
absl::StatusOr<int64_t> MostAdapterBytes(const AdapterFiles& files, const std::string& name, int64_t d);

// When one is asked for, its file is read if it is another than the one that was read last (by inode, size
// and time). What is taken stays as it was for whoever has it. Thread-safe.
class ModelAdapters final : public AdapterSource {
 public:
  // dir: empty: OpenAdapterFiles, whose error is told to whoever asks for an adapter. `config` outlives it.
  ModelAdapters(const ModelConfig& config, std::string model_hash, const std::string& dir);

  absl::StatusOr<std::shared_ptr<const ReadyAdapter>> Take(const AdapterChoice& choice) override;
  const absl::StatusOr<AdapterFiles>& files() const { return files_; }
  // Those that can be read and are of this model.
  absl::StatusOr<std::vector<OfferedAdapter>> List() override;

 private:
  struct Version {  // what tells one file from another of the same name; all zero: there is none
    uint64_t device = 0, inode = 0, size = 0;
    int64_t modified_ns = 0;
    bool operator==(const Version&) const = default;
  };
  struct Entry {
    std::string name;
    Version version;
    std::shared_ptr<const ReadyAdapter> adapter;
  };

  static Version VersionOf(const std::string& path);
  absl::StatusOr<std::shared_ptr<const ReadyAdapter>> Read(const std::string& name);

  const ModelConfig& config_;
  const std::string model_hash_;
  const absl::StatusOr<AdapterFiles> files_;

  std::mutex mutex_;
  std::list<Entry> entries_;  // the one asked for last first
};

}  // namespace omni
