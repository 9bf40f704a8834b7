#include <memory>

#include <absl/strings/numbers.h>

#include "cli/output.h"
#include "cli/terminal.h"
#include "cli/verb.h"
#include "store/model/model.h"
#include "store/pack/pack.h"

namespace omni::cli {
namespace {

struct PackArgs {
  std::string checkpoint, dir;
  bool whole = false;
  int64_t alignment = 0;
};

bool IsTileAlignment(int64_t bytes) {
  return bytes == 0 || (bytes >= 64 && bytes <= 1 << 20 && (bytes & (bytes - 1)) == 0);
}

absl::StatusOr<int> Pack(const PackArgs& args) {
  StatusLine status(StderrCanErase());
  PackOptions options;
  options.progress = [&](double share) {
    status.Show("packing " + args.checkpoint + " into " + args.dir + "  " + OneDecimal(100 * share) + " %");
  };
  options.whole = args.whole;
  options.tile_alignment = args.alignment;
  if (absl::Status s = PackModel(args.checkpoint, args.dir, options); !s.ok()) return s;
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
      root, invocation, "pack", "Quantise a checkpoint into a packed model directory",
      "  omni pack runs/mini/export models/mini\n"
      "  omni pack --whole runs/mini/export /tmp/mini-whole   # no sharing between experts, for comparison");
  auto args = std::make_shared<PackArgs>();
  verb.Argument("CHECKPOINT", args->checkpoint, "Checkpoint directory")->required();
  verb.Argument("DIR", args->dir, "Directory to make; must not exist or be empty")->required();
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
