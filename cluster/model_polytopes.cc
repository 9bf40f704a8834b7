#include "cluster/model_polytopes.h"

#include <utility>

#include <absl/strings/str_cat.h>

#include "engine/base/log.h"
#include "store/file/files.h"

namespace omni {
namespace {

constexpr int64_t kMostBytes = int64_t{8} << 30;

void NotReloaded(const absl::Status& why) {
  LogWarning("polytopes_not_reloaded", "the polytopes that were there stay in force: {reason}",
             {{"reason", why.message()}});
}

}  // namespace

ModelPolytopes::ModelPolytopes(PolytopeFileOptions options, FileReloader::Ticks ticks)
    : options_(std::move(options)),
      path_(options_.path.empty() ? absl::StrCat(options_.model_directory, "/", kPolytopesFile)
                                  : options_.path),
      reloader_(
          {path_}, [this] { return Read(); }, NotReloaded, std::move(ticks)) {}

absl::StatusOr<std::unique_ptr<ModelPolytopes>> ModelPolytopes::Open(PolytopeFileOptions options,
                                                                     FileReloader::Ticks ticks) {
  const bool named = !options.path.empty();
  std::unique_ptr<ModelPolytopes> made(new ModelPolytopes(std::move(options), std::move(ticks)));
  if (!named) return made;
  absl::Status read;
  std::call_once(made->first_, [&] { read = made->reloader_.Open(); });
  if (!read.ok()) return read;
  return made;
}

absl::Status ModelPolytopes::Read() {
  const absl::StatusOr<std::string> bytes = ReadText(path_, kMostBytes);
  std::shared_ptr<const PolytopeSet> read;
  absl::Status status = bytes.status();
  if (status.ok()) {
    absl::StatusOr<std::shared_ptr<const PolytopeSet>> set = PolytopeSet::Parse(*bytes, path_);
    status = set.status();
    if (status.ok()) read = *std::move(set);
  }
  if (status.ok()) status = read->Fits(options_.width, options_.model_hash);
  const std::lock_guard lock(mutex_);
  if (!status.ok()) {
    why_ = status;
    return status;
  }
  if (set_ != nullptr) {
    LogInfo("polytopes_reloaded", "{path} was read again: {polytopes} polytopes",
            {{"path", path_}, {"polytopes", read->projectors().size()}});
  }
  set_ = std::move(read);
  return status;
}

absl::StatusOr<HeldPolytope> ModelPolytopes::Take(const SafetyChoice& choice) {
  std::call_once(first_, [this] { reloader_.Open().IgnoreError(); });  // why_ has it
  reloader_.Look();
  const std::lock_guard lock(mutex_);
  return TakePolytope(set_, why_, choice);
}

}  // namespace omni
