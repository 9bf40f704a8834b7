// An empty directory on its way to holding a part of a model: the manifests and the tile tables come first.
#pragma once

#include <string>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "engine/base/open_file.h"
#include "store/file/files.h"
#include "store/format/model_files.h"
#include "store/partial/incoming_file.h"

namespace omni {

// Problem: the directory may be a place that cannot be renamed (a volume), a start may be killed at any byte,
// and what it leaves must be gone on with and never looks like a model.
// Solution: the folder `partial` marks the directory as being filled, and model.json, without which nothing
// takes it for a model, comes last.
//
// One thread; one process at a time, which the folder's lock sees to.
class PartialStart {
 public:
  // Whether `dir` is no model nor a part of one, as far as a glance tells: then Begin is what it needs.
  static bool IsNeeded(const std::string& dir);
  // Makes `dir` if need be. FailedPrecondition: it is a model or a part of one already, or holds what is none
  // of ours, or another process fills it.
  static absl::StatusOr<PartialStart> Begin(const std::string& dir);

  // The two manifests of the model with that hash (32 hex digits), as texts; must come first. InvalidArgument
  // or DataLoss: they are not. What an earlier start left of another database is removed.
  absl::Status SetManifests(const std::string& model_hash, std::string model_json, std::string deltas_json);
  // Files of the database that are not there yet, by name.
  const FileTable& missing() const { return missing_; }
  absl::StatusOr<IncomingFile> BeginFile(const std::string& name);  // one of the missing
  absl::Status FinishFile(const std::string& name, IncomingFile file);

  // When nothing is missing: pack files without tiles are made, and the directory is a part of a model, to be
  // opened by PartialModel::Open.
  absl::Status Finish();

 private:
  PartialStart(std::string dir, FileDescriptor lock) : lock_(std::move(lock)) { files_.dir = std::move(dir); }
  absl::Status FindMissing();
  absl::Status MakePack(const std::string& name, const PackHeader& header);
  absl::Status Put(const std::string& name, std::string_view bytes);

  FileDescriptor lock_;
  ModelFiles files_;
  std::string model_json_;
  std::vector<PackHeader> packs_;
  FileTable missing_;
};

}  // namespace omni
