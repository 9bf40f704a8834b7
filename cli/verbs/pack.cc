#include <cstdio>
#include <memory>

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

absl::StatusOr<int> Pack(const PackArgs& args) {
  const int64_t a = args.alignment;
  if (a != 0 && (a < 64 || (a & (a - 1)) != 0)) {
    return UsageError("--tile-alignment: " + std::to_string(a) + " is not 0 or a power of two from 64");
  }
  StatusLine status(StderrIsTerminal());
  PackOptions options;
  options.progress = [&](double share) {
    status.Show("packing " + args.checkpoint + " into " + args.dir + "  " + OneDecimal(100 * share) + " %");
  };
  options.whole = args.whole;
  options.tile_alignment = a;
  if (absl::Status s = PackModel(args.checkpoint, args.dir, options); !s.ok()) return s;
  status.Show("verifying " + args.dir);
  // Reading it back verifies every checksum, and the figures are those of the disk.
  absl::StatusOr<Model> packed = OpenModel(args.dir);
  if (!packed.ok()) return packed.status();
  status.Clear();
  const ModelStats stats = packed->stats();
  std::printf("%s: %s, %s parameters (%s unique), %s distinct tiles of %s, model %s\n", args.dir.c_str(),
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
  verb.app().add_option("CHECKPOINT", args->checkpoint, "Checkpoint directory")->required()->type_name("");
  verb.app()
      .add_option("DIR", args->dir, "Directory to make; must not exist or be empty")
      ->required()
      ->type_name("");
  verb.Bool("--whole", args->whole, "Store every expert whole");
  verb.Number("--tile-alignment", args->alignment, 0, 1 << 20,
              "Bytes tiles are aligned to; 0: chosen by their size");
  verb.Body([args] { return Pack(*args); });
}

}  // namespace omni::cli
