#include <memory>
#include <utility>

#include <absl/strings/numbers.h>

#include "cli/output.h"
#include "cli/terminal.h"
#include "cli/verb.h"
#include "store/model/model.h"
#include "store/pack/pack.h"

namespace omni::cli {
namespace {

struct PackArgs {
  std::string checkpoint, from, dir;
  bool whole = false;
  int64_t alignment = 0;
};

bool IsTileAlignment(int64_t bytes) {
  return bytes == 0 || (bytes >= 64 && bytes <= 1 << 20 && (bytes & (bytes - 1)) == 0);
}

// One place for what is read and one for what is written; --from takes the first's.
absl::Status CheckPlaces(PackArgs& args) {
  if (!args.from.empty()) {
    if (!args.dir.empty())
      return UsageError("CHECKPOINT and --from are both given; --from MODEL needs only DIR beside it");
    args.dir = std::exchange(args.checkpoint, "");
  }
  if (args.dir.empty()) return UsageError("DIR is required");
  return absl::OkStatus();
}

absl::StatusOr<int> Pack(PackArgs args) {
  if (absl::Status s = CheckPlaces(args); !s.ok()) return s;
  const std::string& source = args.from.empty() ? args.checkpoint : args.from;
  StatusLine status(StderrCanErase());
  PackOptions options;
  options.progress = [&](double share) {
    status.Show("packing " + source + " into " + args.dir + "  " + OneDecimal(100 * share) + " %");
  };
  options.whole = args.whole;
  options.tile_alignment = args.alignment;
  const absl::Status written =
      args.from.empty() ? PackModel(source, args.dir, options) : RepackModel(source, args.dir, options);
  if (!written.ok()) return written;
  status.Show("verifying " + args.dir);
  // Reading it back verifies every checksum, and the figures are those of the disk.
  absl::StatusOr<Model> packed = OpenModel(args.dir);
  if (!packed.ok()) return packed.status();
  status.Clear();
  const ModelStats stats = packed->stats();
  PrintF("%s: %s, %s parameters (%s unique), %s distinct tiles of %s, model %s\n", args.dir.c_str(),
         HumanBytes(stats.total_bytes).c_str(), HumanCount(stats.parameters.total()).c_str(),
         HumanCount(stats.unique_parameters).c_str(), HumanCount(stats.unique_tiles).c_str(),
         HumanCount(stats.tiles).c_str(), packed->hash().c_str());
  return kExitOk;
}

}  // namespace

void AddPack(CLI::App& root, Invocation& invocation) {
  Verb verb(
      root, invocation, "pack", "Quantise a checkpoint into a packed model directory, or pack a model anew",
      "  omni pack runs/mini/export models/mini\n"
      "  omni pack --whole runs/mini/export /tmp/mini-whole   # no sharing between experts, for comparison\n"
      "  omni pack --from models/mini --tile-alignment 4096 /tmp/mini   # a packed model, written anew");
  auto args = std::make_shared<PackArgs>();
  verb.Argument("CHECKPOINT", args->checkpoint, "Checkpoint directory; not with --from");
  verb.Argument("DIR", args->dir, "Directory to make; must not exist or be empty");
  verb.Path("--from", args->from, "A packed model to write anew, tile by tile, in place of a checkpoint");
  verb.Bool("--whole", args->whole, "Store every expert whole");
  const auto read_alignment = [args](const std::string& text) -> std::string {
    int64_t bytes = 0;
    if (!absl::SimpleAtoi(text, &bytes) || !IsTileAlignment(bytes))
      return "'" + text + "' is neither 0 nor a power of two from 64 to 1048576";
    args->alignment = bytes;
    return {};
  };
  verb.Value("--tile-alignment", "N", read_alignment, "Bytes tiles are aligned to; 0: chosen by their size");
  verb.Body([args] { return Pack(*args); });
}

}  // namespace omni::cli
