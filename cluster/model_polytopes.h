// The file of polytopes that requests to an open model may ask for.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "cluster/file_reloader.h"
#include "engine/around/polytope_source.h"

namespace omni {

struct PolytopeFileOptions {
  std::string path;  // empty: kPolytopesFile in the model's folder, if it is there when it is first asked for
  std::string model_directory, model_hash;
  int64_t width = 0;  // of the model
};

inline constexpr char kPolytopesFile[] = "polytopes.omni";

// When one is asked for, and nobody has looked within the last second, the file is read again if it is
// another (FileReloader). One that cannot be used leaves the old ones in force, which the log says. What is
// taken stays as it was for whoever has it.
class ModelPolytopes final : public PolytopeSource {
 public:
  // Errors of a file that was named: that it cannot be read, that it is none, that it is another model's. One
  // that nobody named is not read before a request asks for it, and what is wrong with it is said then.
  static absl::StatusOr<std::unique_ptr<ModelPolytopes>> Open(
      PolytopeFileOptions options, FileReloader::Ticks ticks = std::chrono::steady_clock::now);

  absl::StatusOr<HeldPolytope> Take(const SafetyChoice& choice) override;

 private:
  ModelPolytopes(PolytopeFileOptions options, FileReloader::Ticks ticks);
  absl::Status Read();

  const PolytopeFileOptions options_;
  const std::string path_;
  std::once_flag first_;
  FileReloader reloader_;

  std::mutex mutex_;
  std::shared_ptr<const PolytopeSet> set_;  // null: none could be read so far
  absl::Status why_;                        // then
};

}  // namespace omni
