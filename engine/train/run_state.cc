#include "engine/train/run_state.h"

#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>

#include "engine/model/checkpoint.h"

namespace omni::train {

absl::StatusOr<RunState> ReadRunState(const std::string& run) {
  const std::string path = run + "/checkpoint/train.safetensors";
  const absl::StatusOr<SafetensorsFile> file = SafetensorsFile::Open(path);
  if (!file.ok()) return file.status();
  const auto entry = [&](const char* key) {
    const auto it = file->metadata().find(key);
    return it == file->metadata().end() ? std::string() : it->second;
  };
  RunState state;
  if (!absl::SimpleAtoi(entry("step"), &state.step) || !absl::SimpleAtod(entry("seconds"), &state.seconds)) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": step or seconds missing"));
  }
  state.record.data_hash = entry("data_xxh3");
  state.record.tokenizer_hash = entry("tokenizer_xxh3");
  state.record.settings = nlohmann::json::parse(entry("settings"), nullptr, false);
  if (!state.record.settings.is_object()) state.record.settings = nullptr;
  return state;
}

}  // namespace omni::train
