#include "engine/train/resume.h"

#include <filesystem>
#include <utility>

#include <absl/strings/str_cat.h>

#include "engine/model/checkpoint.h"
#include "engine/text/text_file.h"
#include "engine/train/data.h"

namespace omni::train {
namespace {

namespace fs = std::filesystem;

// Older versions wrote no settings down, but the model's are always there.
absl::StatusOr<nlohmann::json> ModelSettings(const fs::path& checkpoint, const TrainSettings& s) {
  const std::string path = (checkpoint / "config.json").string();
  const absl::StatusOr<std::string> text = ReadText(path);
  if (!text.ok()) return text.status();
  const absl::StatusOr<ModelConfig> config = ConfigFromJson(*text);
  if (!config.ok()) {
    return absl::Status(config.status().code(), absl::StrCat(path, ": ", config.status().message()));
  }
  TrainSettings was = s;
  was.config = *config;
  return RecordedSettings(was);
}

absl::StatusOr<Tokenizer> CheckTokenizer(const fs::path& checkpoint, const TrainSettings& s,
                                         const std::string& recorded) {
  const std::string path = (checkpoint / "tokenizer.omni").string();
  absl::StatusOr<Tokenizer> tokenizer = Tokenizer::Load(path);
  if (!tokenizer.ok()) return tokenizer;
  const std::string hash = TextHash(tokenizer->Serialize());
  if (!recorded.empty() && recorded != hash) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": not the tokenizer that the weights beside it belong to (its hash is ", hash,
                     ", not ", recorded, "); put that one back"));
  }
  if (s.tokenizer.empty()) return tokenizer;
  const absl::StatusOr<Tokenizer> wanted = Tokenizer::Load(s.tokenizer);
  if (!wanted.ok()) return wanted;
  if (TextHash(wanted->Serialize()) == hash) return tokenizer;
  return absl::InvalidArgumentError(
      absl::StrCat("--tokenizer: ", s.tokenizer,
                   " is not the tokenizer that the run was started with; leave the flag out, or "
                   "begin a new run"));
}

// With a space after it.
const char* FlagOf(NeuronKind kind) {
  switch (kind) {
    case NeuronKind::kBase:
      break;
    case NeuronKind::kRegion:
      return "--part-region ";
    case NeuronKind::kMember:
      return "--part-member ";
    case NeuronKind::kOwn:
      return "--part-own ";
  }
  return "";
}

// Whether neurons of a kind, whose copies were one until step `before`, have to part at the step that is gone
// on from.
absl::StatusOr<bool> HasToPart(const TrainSettings& s, NeuronKind kind, int64_t step, int64_t before) {
  const int64_t part = PartStep(s, kind);
  const bool parted = step >= before, now = step >= part;
  // Just parted they are still equal, and can go on as one.
  if (parted && !now && step > before) {
    const bool shared = part == s.shared_steps;
    return absl::InvalidArgumentError(
        absl::StrCat(shared ? "--shared-steps " : FlagOf(kind), part, ": the experts parted after step ",
                     before, ", and cannot be one again at step ", step, "; give at most ", step));
  }
  return now && !parted;
}

// The settings as far as they say when neurons part, as they were recorded. Where nothing was they part from
// the start.
TrainSettings RecordedParting(const nlohmann::json& recorded) {
  TrainSettings was;
  const auto read = [&](const char* flag, int64_t* value) {
    const auto it = recorded.find(flag);
    if (it != recorded.end() && it->is_number_integer()) *value = it->get<int64_t>();
  };
  read("shared-steps", &was.shared_steps);
  read("part-region", &was.part_region);
  read("part-member", &was.part_member);
  read("part-own", &was.part_own);
  return was;
}

absl::StatusOr<std::vector<NeuronKind>> Parting(const TrainSettings& s, int64_t step,
                                                const nlohmann::json& recorded, bool unknown) {
  const TrainSettings was = RecordedParting(recorded);
  std::vector<NeuronKind> kinds;
  for (const NeuronGroup& group : NeuronGroups(s.config)) {
    if (group.copies == 1) continue;
    const absl::StatusOr<bool> part = HasToPart(s, group.kind, step, PartStep(was, group.kind));
    if (!part.ok()) return part.status();
    // Where it is not known they may not have parted, and at this very step parting once more changes
    // nothing.
    if (*part || (unknown && step == PartStep(s, group.kind))) kinds.push_back(group.kind);
  }
  if (step >= FirstPartStep(s) && step % s.expert_every != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--expert-every ", s.expert_every, ": the checkpoint's step, ", step, ", is no multiple of it"));
  }
  return kinds;
}

}  // namespace

absl::StatusOr<Resumed> CheckResume(const TrainSettings& s) {
  const fs::path checkpoint = fs::path(s.out) / "checkpoint";
  absl::StatusOr<RunState> state = ReadRunState(s.out);
  if (!state.ok()) return state.status();
  Resumed resumed;
  resumed.state = std::move(*state);
  const RunRecord& record = resumed.state.record;
  resumed.unknown = record.settings.is_null();
  absl::StatusOr<nlohmann::json> recorded = record.settings;
  if (resumed.unknown) recorded = ModelSettings(checkpoint, s);
  if (!recorded.ok()) return recorded.status();
  if (absl::Status st = CompareSettings(*recorded, s, &resumed.changes); !st.ok()) {
    return absl::Status(st.code(), absl::StrCat(s.out, ": ", st.message()));
  }
  absl::StatusOr<Tokenizer> tokenizer = CheckTokenizer(checkpoint, s, record.tokenizer_hash);
  if (!tokenizer.ok()) return tokenizer.status();
  resumed.corpus = {std::move(*tokenizer), record.data_hash};
  absl::StatusOr<std::vector<NeuronKind>> parting =
      Parting(s, resumed.state.step, *recorded, resumed.unknown);
  if (!parting.ok()) return parting.status();
  resumed.parting = std::move(*parting);
  return resumed;
}

absl::StatusOr<std::string> StartTokenizerHash(const std::string& start) {
  const absl::StatusOr<SafetensorsFile> file = SafetensorsFile::Open(start);
  if (!file.ok()) return file.status();
  const auto recorded = file->metadata().find("tokenizer_xxh3");
  if (recorded != file->metadata().end()) return recorded->second;
  const absl::StatusOr<Tokenizer> beside =
      Tokenizer::Load((fs::path(start).parent_path() / "tokenizer.omni").string());
  return beside.ok() ? TextHash(beside->Serialize()) : std::string();
}

}  // namespace omni::train
