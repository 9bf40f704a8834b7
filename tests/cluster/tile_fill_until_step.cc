// Fills DIR with regions 0 and 1 of the model HASH from the node ADDRESS, and kills itself just before change
// number STEP (from 0) of what is on the disk. Exits 0 if there are fewer, 1 if something fails.
#include <signal.h>

#include <atomic>
#include <cstdlib>
#include <iostream>

#include "cluster/tile_client.h"
#include "tests/testing/file_calls.h"

namespace {

class KillAt : public omni::testing::FileWatcher {
 public:
  KillAt(std::string dir, int left) : dir_(std::move(dir)), left_(left) {}
  int Before(const omni::testing::FileCall& call) override {
    if (!call.path.starts_with(dir_)) return 0;
    if (omni::testing::Changes(call) && left_-- == 0) ::raise(SIGKILL);
    return call.kind == omni::testing::FileCall::Kind::kSync ? kPretend : 0;  // a kill loses nothing
  }

 private:
  const std::string dir_;
  int left_;
};

absl::Status Run(const std::string& address, const std::string& hash, const std::string& dir) {
  omni::FillOptions options;
  options.peers = {address};
  options.batch_bytes = 1 << 14;
  options.commit_bytes = 1 << 15;
  const auto part = omni::OpenOrBeginPartial(dir, hash, options);
  if (!part.ok()) return part.status();
  const omni::RegionId regions[] = {omni::RegionId(0), omni::RegionId(1)};
  return omni::FillRegions(**part, regions, options);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) {
    std::cerr << "usage: tile_fill_until_step ADDRESS HASH DIR STEP\n";
    return 2;
  }
  KillAt kill(argv[3], std::atoi(argv[4]));
  const omni::testing::WatchFiles watch(kill);
  const absl::Status status = Run(argv[1], argv[2], argv[3]);
  if (!status.ok()) std::cerr << status << "\n";
  return status.ok() ? 0 : 1;
}
