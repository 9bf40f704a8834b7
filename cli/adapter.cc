#include "cli/adapter.h"

#include <utility>

#include <absl/strings/str_cat.h>

#include "store/state/adapter_files.h"

namespace omni::cli {

absl::StatusOr<std::unique_ptr<ReadyAdapter>> LoadAdapter(const std::string& name, const Model& model) {
  const absl::StatusOr<AdapterFiles> files = OpenAdapterFiles();
  if (!files.ok()) return files.status();
  const absl::StatusOr<std::string> bytes = files->Load(name);
  if (!bytes.ok()) return bytes.status();
  const auto named = [&](const absl::Status& s) {
    return absl::Status(s.code(), absl::StrCat("adapter ", name, ": ", s.message()));
  };
  absl::StatusOr<Adapter> adapter = Adapter::Read(*bytes);
  if (!adapter.ok()) return named(adapter.status());
  if (absl::Status s = adapter->Fits(model.config(), model.hash()); !s.ok()) return named(s);
  return std::make_unique<ReadyAdapter>(model.config(), *std::move(adapter));
}

}  // namespace omni::cli
