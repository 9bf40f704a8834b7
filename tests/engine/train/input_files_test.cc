// Every file and place that a setting may name, with everything that is none: refused before the training.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "tests/engine/train/run_fixture.h"

namespace omni::train {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class TrainInputFiles : public TrainRun {
 protected:
  using Setter = std::function<void(TrainSettings&, const std::string&)>;

  // Every setting that names a file to be read.
  static std::map<std::string, Setter> Files() {
    return {{"data", [](TrainSettings& s, const std::string& path) { s.data = {path}; }},
            {"valid", [](TrainSettings& s, const std::string& path) { s.valid = {path}; }},
            {"start", [](TrainSettings& s, const std::string& path) { s.start = path; }},
            {"tokenizer", [](TrainSettings& s, const std::string& path) { s.tokenizer = path; }}};
  }
  std::string Write(const std::string& name, const std::string& bytes) const {
    std::ofstream(Path(name), std::ios::binary) << bytes;
    return Path(name);
  }
  std::string Pipe(const std::string& name) const {
    EXPECT_EQ(mkfifo(Path(name).c_str(), 0600), 0);
    return Path(name);
  }
  std::string Folder(const std::string& name) const {
    fs::create_directory(Path(name));
    return Path(name);
  }
  static bool HasCheckpoint(const TrainSettings& s) { return fs::exists(fs::path(s.out) / "checkpoint"); }
};

// Somebody who may not do everything, until the object goes.
class AsSomebody {
 public:
  AsSomebody() { good_ = before_ != 0 || seteuid(65534) == 0; }
  ~AsSomebody() {
    if (seteuid(before_) != 0) ADD_FAILURE() << "cannot become user " << before_ << " again";
  }
  bool good() const { return good_; }

 private:
  const uid_t before_ = geteuid();
  bool good_;
};

TEST_F(TrainInputFiles, RefusesWhatIsNoFileOfItsKind) {
  const std::vector<std::string> bad = {Path("missing"),
                                        Pipe("pipe"),
                                        Pipe("pipe.xz"),
                                        Folder("folder"),
                                        "/dev/null",
                                        Write("empty", ""),
                                        Write("text.txt.gz", "\x1f\x8b\x08 and so on"),
                                        Write("cut.XZ",
                                              "\xfd"
                                              "7zXZ")};
  for (const auto& [setting, set] : Files()) {
    for (const std::string& path : bad) {
      SCOPED_TRACE(setting + " " + path);
      TrainSettings s = Small("run");
      s.eval_every = 4;
      set(s, path);
      EXPECT_THAT(Problem(s), HasSubstr(path));
      EXPECT_FALSE(HasCheckpoint(s));
    }
  }
}

TEST_F(TrainInputFiles, RefusesAFileThatItMayNotRead) {
  const std::string path = Write("secret", "text");
  ASSERT_EQ(chmod(path.c_str(), 0), 0);
  ASSERT_EQ(chmod(Path(".").c_str(), 0755), 0);
  ASSERT_EQ(chmod(Folder("run").c_str(), 0777), 0);
  const AsSomebody somebody;
  if (!somebody.good()) GTEST_SKIP() << "cannot become another user, and this one may read everything";
  for (const auto& [setting, set] : Files()) {
    SCOPED_TRACE(setting);
    TrainSettings s = Small("run");
    s.eval_every = 4;
    set(s, path);
    EXPECT_THAT(Problem(s), HasSubstr(path + ": "));
    EXPECT_FALSE(HasCheckpoint(s));
  }
}

TEST_F(TrainInputFiles, RefusesAPlaceThatItCannotWriteBeforeItReadsTheText) {
  const std::vector<std::string> bad = {Path("text.txt"), Path("text.txt/run"), Pipe("pipe"), "/dev/null",
                                        "/proc/run"};
  for (const std::string& out : bad) {
    SCOPED_TRACE(out);
    TrainSettings s = Small("run");
    s.data = {Path("missing")};
    s.out = out;
    EXPECT_THAT(Problem(s), HasSubstr(out));
  }
  TrainSettings s = Small("folder");
  s.data = {Path("missing")};
  Pipe(fs::path(Folder("folder")).filename().string() + "/log.jsonl");
  EXPECT_THAT(Problem(s), HasSubstr("log.jsonl: not a regular file"));
  ASSERT_EQ(chmod(Path(".").c_str(), 0555), 0);
  {
    const AsSomebody somebody;
    if (!somebody.good()) GTEST_SKIP() << "cannot become another user, and this one may write everywhere";
    s.out = Path("new");
    EXPECT_THAT(Problem(s), HasSubstr(Path("new") + ": cannot make"));
  }
  ASSERT_EQ(chmod(Path(".").c_str(), 0755), 0);
}

TEST_F(TrainInputFiles, RefusesAValidationTextThatIsTooShort) {
  TrainSettings s = Small("run");
  s.valid = {Write("valid.txt", "twenty-one bytes here")};
  s.eval_every = 4;
  s.plot = true;
  EXPECT_THAT(Problem(s), HasSubstr("--valid: the validation text has"));
  EXPECT_FALSE(HasCheckpoint(s));
  s.valid.clear();
  s.tune = 0.0001;
  EXPECT_THAT(Problem(s), HasSubstr("--tune: the validation text has"));
  EXPECT_FALSE(HasCheckpoint(s));
}

TEST_F(TrainInputFiles, RefusesACheckpointWithAFileThatIsNone) {
  TrainSettings s = Small("run");
  s.stop_at = 2;
  ASSERT_TRUE(Train(s).ok());
  s.resume = true;
  s.stop_at = 4;
  for (const std::string name : {"train.safetensors", "model.safetensors", "tokenizer.omni"}) {
    const fs::path file = fs::path(s.out) / "checkpoint" / name, kept = Path("kept");
    fs::rename(file, kept);
    const std::string at = fs::path("run/checkpoint") / name;
    const std::vector<std::function<void()>> kinds = {[] {}, [&] { Pipe(at); }, [&] { Folder(at); },
                                                      [&] { Write(at, ""); }, [&] { Write(at, "text"); }};
    for (size_t kind = 0; kind < kinds.size(); ++kind) {
      SCOPED_TRACE(name + " kind " + std::to_string(kind));
      kinds[kind]();
      EXPECT_THAT(Problem(s), HasSubstr(file.string()));
      fs::remove(file);
    }
    fs::rename(kept, file);
  }
  EXPECT_TRUE(Train(s).ok());
}

}  // namespace
}  // namespace omni::train
