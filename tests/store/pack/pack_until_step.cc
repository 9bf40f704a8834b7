// Packs CHECKPOINT into DIR and kills itself, as a power cut would, just before fsync or rename number STEP
// (from 0). Exits 0 if the pack has fewer steps, 1 if it fails.
#include <signal.h>

#include <cstdlib>
#include <iostream>

#include "store/model/model.h"
#include "store/pack/pack.h"

int main(int argc, char** argv) {
  if (argc != 4) {
    std::cerr << "usage: pack_until_step CHECKPOINT DIR STEP\n";
    return 2;
  }
  int left = std::atoi(argv[3]);
  omni::PackOptions options;
  options.max_pack_bytes = 16384;
  options.step_hook = [&left](const std::string&) {
    if (left-- == 0) ::raise(SIGKILL);
    return absl::OkStatus();
  };
  const absl::Status status = omni::PackModel(argv[1], argv[2], options);
  if (!status.ok()) std::cerr << status << "\n";
  return status.ok() ? 0 : 1;
}
