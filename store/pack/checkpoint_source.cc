#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include <absl/strings/str_cat.h>

#include "engine/base/quoted.h"
#include "engine/model/checkpoint.h"
#include "engine/model/neuron_groups.h"
#include "engine/model/quantize.h"
#include "engine/text/tokenizer.h"
#include "store/file/files.h"
#include "store/format/tile.h"
#include "store/pack/pack_source.h"

namespace omni {
namespace {

constexpr int64_t kMaxConfigBytes = int64_t{1} << 20;
constexpr int64_t kMaxTokenizerBytes = int64_t{1} << 30;
constexpr char kScaleSuffix[] = ".scale", kPositionsSuffix[] = ".positions";

absl::Status NotFinite(const std::string& path, absl::string_view where) {
  return absl::InvalidArgumentError(absl::StrCat(
      path, ": ", where, " holds a value that is not finite, or too large; the checkpoint is broken"));
}

// The gate, up and down rows of one neuron group of a layer.
using GroupTensors = std::array<const float*, 3>;

class CheckpointSource : public PackSource {
 public:
  CheckpointSource(std::string path, ModelConfig config, std::string tokenizer, SafetensorsFile file)
      : path_(std::move(path)),
        config_(std::move(config)),
        tokenizer_(std::move(tokenizer)),
        file_(std::move(file)),
        groups_(NeuronGroups(config_)),
        builder_(config_.d),
        trits_(static_cast<size_t>(3 * config_.d)) {}

  // Finds every tensor of the config's layout, and no other, in the file.
  absl::Status CheckTensors();

  const ModelConfig& config() const override { return config_; }
  std::string TokenizerBytes() const override { return tokenizer_; }
  absl::StatusOr<std::string> Section(const SharedSection& section) override;
  absl::StatusOr<const uint8_t*> Tile(LayerId layer, ExpertId expert, int64_t tile) override;

 private:
  absl::StatusOr<const float*> Find(const std::string& name, std::vector<int64_t> shape);
  absl::Status FindExperts(int64_t layer);
  absl::StatusOr<std::string> Floats(const SharedSection& section);
  absl::StatusOr<std::string> Members(const SharedSection& section);
  absl::StatusOr<std::string> TwoBit(const SharedSection& section, std::string* scales);
  absl::StatusOr<std::string> Int8(const SharedSection& section, std::string* scales);
  absl::Status AddNeuron(LayerId layer, ExpertId expert, int64_t neuron);
  const NeuronGroup& GroupOf(int64_t neuron) const;

  std::string path_;  // of model.safetensors
  ModelConfig config_;
  std::string tokenizer_;
  SafetensorsFile file_;
  std::set<std::string> known_;
  std::vector<NeuronGroup> groups_;
  std::vector<std::vector<GroupTensors>> experts_;  // by layer and group
  TileBuilder builder_;
  std::vector<int8_t> trits_;
  std::string scales_name_, scales_;  // of the last matrix, whose section comes next
  // Tiles that experts have in common are made once: those of a whole region's experts while they are asked
  // for, those of a layer's for as long.
  LayerId kept_layer_{-1};
  RegionId kept_region_{-1};
  std::map<std::pair<int64_t, int64_t>, std::string> kept_;  // by tile and copy
};

absl::StatusOr<const float*> CheckpointSource::Find(const std::string& name, std::vector<int64_t> shape) {
  known_.insert(name);
  return file_.F32(name, shape);
}

absl::Status CheckpointSource::FindExperts(int64_t layer) {
  static constexpr const char* kParts[3] = {"gate", "up", "down"};
  for (const NeuronGroup& group : groups_) {
    GroupTensors& tensors = experts_[static_cast<size_t>(layer)].emplace_back();
    for (size_t part = 0; part < 3; ++part) {
      absl::StatusOr<const float*> found =
          Find(absl::StrCat("layers.", layer, ".", group.tensor, ".", kParts[part]),
               {group.copies, group.count, config_.d});
      if (!found.ok()) return found.status();
      tensors[part] = *found;
    }
  }
  return absl::OkStatus();
}

absl::Status CheckpointSource::CheckTensors() {
  for (const SharedSection& s : SharedLayout(config_).sections) {
    if (s.name.ends_with(kScaleSuffix)) continue;
    if (s.kind == SectionKind::kBytes) {
      known_.insert(s.name);
      if (absl::Status found = file_.U8(s.name, {s.cols}).status(); !found.ok()) return found;
      continue;
    }
    const bool vector =
        s.kind == SectionKind::kFloat32 && !s.name.ends_with(".route") && !s.name.ends_with(kPositionsSuffix);
    absl::StatusOr<const float*> found = vector ? Find(s.name, {s.cols}) : Find(s.name, {s.rows, s.cols});
    if (!found.ok()) return found.status();
  }
  experts_.resize(static_cast<size_t>(config_.layers));
  for (int64_t layer = 0; layer < config_.layers; ++layer) {
    if (config_.IsAttention(layer)) continue;
    if (absl::Status s = FindExperts(layer); !s.ok()) return s;
    known_.insert(
        absl::StrCat("layers.", layer, ".norm_readout"));  // trained or not, unused if the flag is off
  }
  for (const auto& [name, view] : file_.tensors()) {
    if (known_.count(name) == 0) {
      return absl::InvalidArgumentError(
          absl::StrCat(path_, ": tensor ", Quoted(name),
                       " has no place in a model of this config.json; are they of one training run?"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> CheckpointSource::Floats(const SharedSection& s) {
  const auto* values = static_cast<const float*>(file_.tensors().at(s.name).data);
  const bool positions = s.name.ends_with(kPositionsSuffix);
  for (int64_t i = 0; i < s.rows * s.cols; ++i) {
    if (!std::isfinite(values[i])) return NotFinite(path_, absl::StrCat("tensor ", s.name));
    if (positions && !(values[i] >= 0.0f && values[i] < 1.0f)) {
      return absl::InvalidArgumentError(
          absl::StrCat(path_, ": tensor ", s.name, " holds ", values[i], "; positions lie in [0, 1)"));
    }
  }
  return std::string(reinterpret_cast<const char*>(values), static_cast<size_t>(s.bytes));
}

absl::StatusOr<std::string> CheckpointSource::Members(const SharedSection& s) {
  const auto* values = static_cast<const uint8_t*>(file_.tensors().at(s.name).data);
  for (int64_t token = 0; token < s.cols; ++token) {
    if (values[token] < config_.experts_per_region()) continue;
    return absl::InvalidArgumentError(absl::StrCat(path_, ": tensor ", s.name, " gives token ", token,
                                                   " the member ", int{values[token]}, "; a region has ",
                                                   config_.experts_per_region(), " experts"));
  }
  return std::string(reinterpret_cast<const char*>(values), static_cast<size_t>(s.bytes));
}

absl::StatusOr<std::string> CheckpointSource::TwoBit(const SharedSection& s, std::string* scales) {
  const auto* values = static_cast<const float*>(file_.tensors().at(s.name).data);
  std::string codes(static_cast<size_t>(s.bytes), '\0');
  std::vector<int8_t> levels(static_cast<size_t>(s.cols));
  std::vector<float> halves(static_cast<size_t>(PadTo(s.rows, kernels::kTwoBitRows)), 0.0f);
  const int64_t width = PadTo(s.cols, kernels::kTernaryCols);
  for (int64_t row = 0; row < s.rows; ++row) {
    const float scale = TwoBitLevels(values + row * s.cols, s.cols, levels.data());
    if (!std::isfinite(scale)) return NotFinite(path_, absl::StrCat("tensor ", s.name, ", row ", row, ","));
    halves[static_cast<size_t>(row)] = 0.5f * scale;
    char* group = codes.data() + row / kernels::kTwoBitRows * width;
    const int shift = static_cast<int>(2 * (row % kernels::kTwoBitRows));
    for (int64_t j = 0; j < s.cols; ++j) {
      group[j] = static_cast<char>(group[j] | ((levels[static_cast<size_t>(j)] + 3) / 2) << shift);
    }
  }
  scales->assign(reinterpret_cast<const char*>(halves.data()), halves.size() * sizeof(float));
  return codes;
}

absl::StatusOr<std::string> CheckpointSource::Int8(const SharedSection& s, std::string* scales) {
  const auto* values = static_cast<const float*>(file_.tensors().at(s.name).data);
  std::string codes(static_cast<size_t>(s.bytes), '\0');
  std::vector<float> steps(static_cast<size_t>(s.rows));
  const int64_t width = PadTo(s.cols, kernels::kTernaryCols);
  for (int64_t row = 0; row < s.rows; ++row) {
    const float* w = values + row * s.cols;
    for (int64_t j = 0; j < s.cols; ++j) {
      if (!std::isfinite(w[j])) return NotFinite(path_, absl::StrCat("tensor ", s.name, ", row ", row, ","));
    }
    steps[static_cast<size_t>(row)] =
        Int8Row(w, s.cols, reinterpret_cast<int8_t*>(codes.data() + row * width));
  }
  scales->assign(reinterpret_cast<const char*>(steps.data()), steps.size() * sizeof(float));
  return codes;
}

absl::StatusOr<std::string> CheckpointSource::Section(const SharedSection& s) {
  if (s.name == scales_name_) return std::move(scales_);
  scales_name_ = s.name + kScaleSuffix;
  switch (s.kind) {
    case SectionKind::kTwoBit:
      return TwoBit(s, &scales_);
    case SectionKind::kInt8:
      return Int8(s, &scales_);
    case SectionKind::kBytes:
      return Members(s);
    case SectionKind::kFloat32:
      break;
  }
  return Floats(s);
}

const NeuronGroup& CheckpointSource::GroupOf(int64_t neuron) const {
  return *std::find_if(groups_.begin(), groups_.end(),
                       [&](const NeuronGroup& group) { return neuron < group.first + group.count; });
}

absl::Status CheckpointSource::AddNeuron(LayerId layer, ExpertId expert, int64_t neuron) {
  const NeuronGroup& group = GroupOf(neuron);
  const GroupTensors& tensors = experts_[layer.index()][static_cast<size_t>(&group - groups_.data())];
  const int64_t copy = group.CopyOf(config_, expert);
  const int64_t row = copy * group.count + (neuron - group.first);
  float mean[3];
  for (size_t part = 0; part < 3; ++part) {
    mean[part] = Ternarize(tensors[part] + row * config_.d, config_.d, 1,
                           trits_.data() + static_cast<int64_t>(part) * config_.d);
  }
  const float up_scale = mean[1] * mean[2];
  if (!std::isfinite(mean[0]) || !std::isfinite(mean[1]) || !std::isfinite(mean[2]) ||
      !std::isfinite(up_scale)) {
    return NotFinite(
        path_, absl::StrCat("layer ", layer.value, ", ", group.copy_name, " ", copy, ", neuron ", neuron));
  }
  builder_.SetNeuron(neuron % kTileNeurons, trits_.data(), trits_.data() + config_.d,
                     trits_.data() + 2 * config_.d, mean[0], up_scale);
  return absl::OkStatus();
}

absl::StatusOr<const uint8_t*> CheckpointSource::Tile(LayerId layer, ExpertId expert, int64_t tile) {
  const int64_t first = tile * kTileNeurons, last = std::min(first + kTileNeurons, config_.f);
  const NeuronGroup& group = GroupOf(first);
  std::string* kept = nullptr;
  if (group.kind != NeuronKind::kOwn && last <= group.first + group.count) {
    if (layer != kept_layer_) {
      kept_.clear();
    } else if (config_.RegionOf(expert) != kept_region_) {
      std::erase_if(kept_, [&](const auto& entry) {
        return GroupOf(entry.first.first * kTileNeurons).kind == NeuronKind::kRegion;
      });
    }
    kept_layer_ = layer;
    kept_region_ = config_.RegionOf(expert);
    kept = &kept_[{tile, group.CopyOf(config_, expert)}];
    if (!kept->empty()) return reinterpret_cast<const uint8_t*>(kept->data());
  }
  builder_.Clear();
  for (int64_t neuron = first; neuron < last; ++neuron) {
    if (absl::Status s = AddNeuron(layer, expert, neuron); !s.ok()) return s;
  }
  if (kept != nullptr) *kept = builder_.bytes();
  return reinterpret_cast<const uint8_t*>(builder_.bytes().data());
}

}  // namespace

absl::StatusOr<std::unique_ptr<PackSource>> OpenCheckpointSource(const std::string& checkpoint) {
  const std::string config_path = checkpoint + "/config.json";
  absl::StatusOr<std::string> text = ReadText(config_path, kMaxConfigBytes);
  if (!text.ok()) {
    return absl::Status(text.status().code(), absl::StrCat(text.status().message(), "; is ", checkpoint,
                                                           " a training checkpoint?"));
  }
  absl::StatusOr<ModelConfig> config = ConfigFromJson(*text);
  if (!config.ok()) {
    return absl::Status(config.status().code(), absl::StrCat(config_path, ": ", config.status().message()));
  }
  const std::string tokenizer_path = checkpoint + "/tokenizer.omni";
  absl::StatusOr<std::string> bytes = ReadText(tokenizer_path, kMaxTokenizerBytes);
  if (!bytes.ok()) return bytes.status();
  absl::StatusOr<Tokenizer> tokenizer = Tokenizer::Parse(*bytes);
  if (!tokenizer.ok()) {
    return absl::Status(tokenizer.status().code(),
                        absl::StrCat(tokenizer_path, ": ", tokenizer.status().message()));
  }
  if (tokenizer->vocab() > config->vocab) {
    return absl::InvalidArgumentError(absl::StrCat(
        tokenizer_path, ": ", tokenizer->vocab(), " tokens, but config.json has a vocab of ", config->vocab));
  }
  const std::string weights_path = checkpoint + "/model.safetensors";
  absl::StatusOr<SafetensorsFile> file = SafetensorsFile::Open(weights_path);
  if (!file.ok()) return file.status();
  auto source = std::make_unique<CheckpointSource>(weights_path, *std::move(config), *std::move(bytes),
                                                   *std::move(file));
  if (absl::Status s = source->CheckTensors(); !s.ok()) return s;
  return std::unique_ptr<PackSource>(std::move(source));
}

}  // namespace omni
