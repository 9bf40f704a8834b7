// synth_until DIR step|tile N: writes a small synthetic model, resumably, and kills itself before its N-th
// change of names on the disk or fsync, or when its N-th tile is asked for. Without such a one it ends
// normally and says how many pack files an earlier run had left.
#include <signal.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

#include "store/pack/pack_writer.h"
#include "store/pack/synth_source.h"
#include "tests/testing/file_calls.h"

namespace omni {
namespace {

class KillingSource : public PackSource {
 public:
  KillingSource(std::unique_ptr<PackSource> source, long last) : source_(std::move(source)), left_(last) {}
  const ModelConfig& config() const override { return source_->config(); }
  std::string TokenizerBytes() const override { return source_->TokenizerBytes(); }
  absl::StatusOr<std::string> Section(const SharedSection& section) override {
    return source_->Section(section);
  }
  absl::StatusOr<const uint8_t*> Tile(LayerId layer, ExpertId expert, int64_t tile) override {
    if (left_-- == 0) ::raise(SIGKILL);
    return source_->Tile(layer, expert, tile);
  }
  bool EqualsKeyframe(LayerId layer, ExpertId expert, int64_t tile) const override {
    return source_->EqualsKeyframe(layer, expert, tile);
  }
  bool tiles_resemble() const override { return source_->tiles_resemble(); }

 private:
  std::unique_ptr<PackSource> source_;
  long left_;
};

class KillAt : public testing::FileWatcher {
 public:
  explicit KillAt(long left) : left_(left) {}
  int Before(const testing::FileCall& call) override {
    if (testing::IsStep(call) && left_-- == 0) ::raise(SIGKILL);
    return call.kind == testing::FileCall::Kind::kSync ? kPretend : 0;  // a kill loses nothing
  }

 private:
  long left_;
};

int Main(int argc, char** argv) {
  if (argc != 4) return 2;
  const long last = std::atol(argv[3]);
  const bool at_tile = std::strcmp(argv[2], "tile") == 0;
  const absl::StatusOr<ModelConfig> config = SynthConfig("char", 3, 16, 0.25);
  if (!config.ok()) return 2;
  KillingSource source(SyntheticSource(*config, 7), at_tile ? last : -1);
  KillAt kill(at_tile ? -1 : last);
  const testing::WatchFiles watch(kill);
  PackOptions options;
  options.max_pack_bytes = 200'000;
  options.resume_key = "synth_until";
  int64_t kept = 0;
  options.kept_files = &kept;
  const absl::Status written = WriteModel(source, argv[1], options);
  if (!written.ok()) {
    std::fprintf(stderr, "%s\n", std::string(written.message()).c_str());
    return 1;
  }
  std::printf("%lld\n", static_cast<long long>(kept));
  return 0;
}

}  // namespace
}  // namespace omni

int main(int argc, char** argv) { return omni::Main(argc, argv); }
