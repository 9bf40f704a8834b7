// Packs CHECKPOINT into DIR and kills itself just before change number STEP (from 0) of what is on the disk:
// a file or folder made, renamed or removed, an fsync. What was written before stays, synced or not; power
// cuts, which leave less, are pack_crash_test's own. Exits 0 if the pack has fewer such steps, 1 if it fails.
#include <fcntl.h>
#include <signal.h>

#include <cstdlib>
#include <iostream>

#include "store/pack/pack.h"
#include "tests/testing/file_calls.h"

namespace {

class KillAt : public omni::testing::FileWatcher {
 public:
  explicit KillAt(int left) : left_(left) {}
  int Before(const omni::testing::FileCall& call) override {
    if (omni::testing::IsStep(call) && left_-- == 0) ::raise(SIGKILL);
    return call.kind == omni::testing::FileCall::Kind::kSync ? kPretend : 0;  // a kill loses nothing
  }

 private:
  int left_;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::cerr << "usage: pack_until_step CHECKPOINT DIR STEP\n";
    return 2;
  }
  KillAt kill(std::atoi(argv[3]));
  const omni::testing::WatchFiles watch(kill);
  omni::PackOptions options;
  options.max_pack_bytes = 16384;
  const absl::Status status = omni::PackModel(argv[1], argv[2], options);
  if (!status.ok()) std::cerr << status << "\n";
  return status.ok() ? 0 : 1;
}
