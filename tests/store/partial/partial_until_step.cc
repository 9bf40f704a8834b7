// Makes DIR a part of the model WHOLE with regions 0 and 1, then lets go of region 0 and fills region 2, and
// kills itself just before change number STEP (from 0) of what is on the disk. Exits 0 if there are fewer, 1
// if something fails.
#include <signal.h>

#include <cstdlib>
#include <iostream>

#include "tests/store/partial/partial_fixture.h"
#include "tests/testing/file_calls.h"

namespace omni::testing {
namespace {

class KillAt : public FileWatcher {
 public:
  explicit KillAt(int left) : left_(left) {}
  int Before(const FileCall& call) override {
    if (Changes(call) && left_-- == 0) ::raise(SIGKILL);
    return call.kind == FileCall::Kind::kSync ? kPretend : 0;  // a kill loses nothing
  }

 private:
  int left_;
};

absl::Status Run(const std::string& whole_dir, const std::string& dir) {
  if (absl::Status s = StartFrom(whole_dir, dir); !s.ok()) return s;
  const auto whole = PartialModel::Open(whole_dir), part = PartialModel::Open(dir);
  if (!whole.ok() || !part.ok()) return whole.ok() ? part.status() : whole.status();
  if (absl::Status s = CopyTiles(**whole, **part, Regions({0, 1})); !s.ok()) return s;
  if (absl::Status s = (*part)->ReleaseAllBut(Regions({1, 2})); !s.ok()) return s;
  return CopyTiles(**whole, **part, Regions({1, 2}));
}

}  // namespace
}  // namespace omni::testing

int main(int argc, char** argv) {
  if (argc != 4) {
    std::cerr << "usage: partial_until_step WHOLE DIR STEP\n";
    return 2;
  }
  omni::testing::KillAt kill(std::atoi(argv[3]));
  const omni::testing::WatchFiles watch(kill);
  const absl::Status status = omni::testing::Run(argv[1], argv[2]);
  if (!status.ok()) std::cerr << status << "\n";
  return status.ok() ? 0 : 1;
}
