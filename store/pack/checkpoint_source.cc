#include <algorithm>
#include <cmath>
#include <set>
#include <utility>
#include <vector>

#include <absl/strings/str_cat.h>

#include "engine/base/quoted.h"
#include "engine/model/checkpoint.h"
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

// The gate, up and down rows of the experts of one layer; either part may be absent.
struct ExpertTensors {
  const float* tied[3] = {nullptr, nullptr, nullptr};
  const float* own[3] = {nullptr, nullptr, nullptr};
};

class CheckpointSource : public PackSource {
 public:
  CheckpointSource(std::string path, ModelConfig config, std::string tokenizer, SafetensorsFile file)
      : path_(std::move(path)),
        config_(std::move(config)),
        tokenizer_(std::move(tokenizer)),
        file_(std::move(file)),
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
  absl::StatusOr<std::string> TwoBit(const SharedSection& section, std::string* scales);
  absl::StatusOr<std::string> Int8(const SharedSection& section, std::string* scales);
  absl::Status AddNeuron(LayerId layer, ExpertId expert, int64_t neuron);
  int64_t tied_neurons() const { return config_.f - config_.own_neurons; }

  std::string path_;  // of model.safetensors
  ModelConfig config_;
  std::string tokenizer_;
  SafetensorsFile file_;
  std::set<std::string> known_;
  std::vector<ExpertTensors> experts_;  // by layer
  TileBuilder builder_;
  std::vector<int8_t> trits_;
  std::string scales_name_, scales_;  // of the last matrix, whose section comes next
  // Tiles of tied neurons are the same for a whole region: kept while its experts are asked for.
  LayerId tied_layer_{-1};
  RegionId tied_region_{-1};
  std::vector<std::string> tied_tiles_;
};

absl::StatusOr<const float*> CheckpointSource::Find(const std::string& name, std::vector<int64_t> shape) {
  known_.insert(name);
  return file_.F32(name, shape);
}

absl::Status CheckpointSource::FindExperts(int64_t layer) {
  static constexpr const char* kParts[3] = {"gate", "up", "down"};
  ExpertTensors& tensors = experts_[static_cast<size_t>(layer)];
  for (int part = 0; part < 3; ++part) {
    if (tied_neurons() > 0) {
      absl::StatusOr<const float*> found = Find(absl::StrCat("layers.", layer, ".tied.", kParts[part]),
                                                {config_.num_regions(), tied_neurons(), config_.d});
      if (!found.ok()) return found.status();
      tensors.tied[part] = *found;
    }
    if (config_.own_neurons > 0) {
      absl::StatusOr<const float*> found = Find(absl::StrCat("layers.", layer, ".own.", kParts[part]),
                                                {config_.num_experts(), config_.own_neurons, config_.d});
      if (!found.ok()) return found.status();
      tensors.own[part] = *found;
    }
  }
  return absl::OkStatus();
}

absl::Status CheckpointSource::CheckTensors() {
  for (const SharedSection& s : SharedLayout(config_).sections) {
    if (s.name.ends_with(kScaleSuffix)) continue;
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
    case SectionKind::kFloat32:
      break;
  }
  return Floats(s);
}

absl::Status CheckpointSource::AddNeuron(LayerId layer, ExpertId expert, int64_t neuron) {
  const ExpertTensors& tensors = experts_[layer.index()];
  const int64_t tied = tied_neurons();
  const bool is_tied = neuron < tied;
  const int64_t row = is_tied ? config_.RegionOf(expert).value * tied + neuron
                              : expert.value * config_.own_neurons + (neuron - tied);
  float mean[3];
  for (int part = 0; part < 3; ++part) {
    const float* w = (is_tied ? tensors.tied[part] : tensors.own[part]) + row * config_.d;
    mean[part] = Ternarize(w, config_.d, 1, trits_.data() + part * config_.d);
  }
  const float up_scale = mean[1] * mean[2];
  if (!std::isfinite(mean[0]) || !std::isfinite(mean[1]) || !std::isfinite(mean[2]) ||
      !std::isfinite(up_scale)) {
    return NotFinite(
        path_, absl::StrCat("layer ", layer.value, ", ", is_tied ? "region " : "expert ",
                            is_tied ? config_.RegionOf(expert).value : expert.value, ", neuron ", neuron));
  }
  builder_.SetNeuron(neuron % kTileNeurons, trits_.data(), trits_.data() + config_.d,
                     trits_.data() + 2 * config_.d, mean[0], up_scale);
  return absl::OkStatus();
}

absl::StatusOr<const uint8_t*> CheckpointSource::Tile(LayerId layer, ExpertId expert, int64_t tile) {
  const int64_t first = tile * kTileNeurons, last = std::min(first + kTileNeurons, config_.f);
  const bool tied = last <= tied_neurons();
  if (tied) {
    if (layer != tied_layer_ || config_.RegionOf(expert) != tied_region_) {
      tied_layer_ = layer;
      tied_region_ = config_.RegionOf(expert);
      tied_tiles_.assign(static_cast<size_t>(TilesPerExpert(config_)), std::string());
    }
    const std::string& kept = tied_tiles_[static_cast<size_t>(tile)];
    if (!kept.empty()) return reinterpret_cast<const uint8_t*>(kept.data());
  }
  builder_.Clear();
  for (int64_t neuron = first; neuron < last; ++neuron) {
    if (absl::Status s = AddNeuron(layer, expert, neuron); !s.ok()) return s;
  }
  if (tied) tied_tiles_[static_cast<size_t>(tile)] = builder_.bytes();
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
