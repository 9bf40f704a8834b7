#include "tests/testing/power_cut.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <sstream>

namespace omni::testing {
namespace {

namespace fs = std::filesystem;
using Kind = DiskStep::Kind;

std::string Parent(const std::string& path) { return fs::path(path).parent_path().string(); }
std::string Name(const std::string& path) { return fs::path(path).filename().string(); }

std::pair<uint64_t, uint64_t> Key(const struct stat& st) { return {st.st_dev, st.st_ino}; }

}  // namespace

FileTree ReadTree(const std::string& root) {
  FileTree tree;
  for (const auto& entry : fs::recursive_directory_iterator(root)) {
    auto& bytes = tree[entry.path().lexically_relative(root).string()];
    if (!entry.is_regular_file()) continue;
    std::ifstream in(entry.path(), std::ios::binary);
    bytes =
        std::make_shared<std::string>(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
  }
  return tree;
}

void WriteTree(const FileTree& tree, const std::string& root) {
  fs::remove_all(root);
  fs::create_directories(root);
  for (const auto& [path, bytes] : tree) {
    if (bytes == nullptr) {
      fs::create_directory(root + "/" + path);
    } else {
      std::ofstream(root + "/" + path, std::ios::binary) << *bytes;
    }
  }
}

DiskRecorder::DiskRecorder(const std::string& root) : root_(root), start_(ReadTree(root)) {
  std::vector<std::string> all = {root};
  for (const auto& [path, bytes] : start_) all.push_back(root + "/" + path);
  for (const std::string& path : all) {  // numbered as a Disk below numbers them
    struct stat st {};
    if (::lstat(path.c_str(), &st) == 0) numbers_[Key(st)] = files_++;
  }
  watch_.emplace(*this);
}

DiskRecorder::~DiskRecorder() = default;

int DiskRecorder::FileOf(int fd) const {
  struct stat st {};
  if (::fstat(fd, &st) != 0) return -1;
  const auto it = numbers_.find(Key(st));
  return it == numbers_.end() ? -1 : it->second;
}

int DiskRecorder::FolderOf(const std::string& path) const {
  struct stat st {};
  if (::stat(Parent(path).c_str(), &st) != 0) return -1;
  const auto it = numbers_.find(Key(st));
  return it == numbers_.end() ? -1 : it->second;
}

void DiskRecorder::Enter(const std::string& path, int* file) {
  struct stat st {};
  if (::lstat(path.c_str(), &st) == 0) numbers_[Key(st)] = *file = files_++;
}

void DiskRecorder::Promise(const std::string& text) {
  steps_.push_back({.kind = Kind::kPromise, .path = text});
}

void DiskRecorder::Refuse(std::function<int(const FileCall&)> rule) { refuse_ = std::move(rule); }

int DiskRecorder::Before(const FileCall& call) {
  const int refused = refuse_ && call.path.starts_with(root_) ? refuse_(call) : 0;
  if (refused != 0) return refused;
  if (call.kind == FileCall::Kind::kSync) return kPretend;
  struct stat st {};
  if (call.kind == FileCall::Kind::kOpen) existed_ = ::lstat(call.path.c_str(), &st) == 0;
  return 0;
}

void DiskRecorder::After(const FileCall& call, int64_t result) {
  if (result < 0 || !Changes(call)) return;
  DiskStep step{.kind = Kind::kSync, .path = call.path, .by_product = call.by_product};
  switch (call.kind) {
    case FileCall::Kind::kOpen:
    case FileCall::Kind::kMakeFolder:
      step.folder = FolderOf(call.path);
      if (step.folder < 0) return;
      step.name = Name(call.path);
      if (call.kind == FileCall::Kind::kMakeFolder || !existed_) {
        step.kind = call.kind == FileCall::Kind::kOpen ? Kind::kCreate : Kind::kMakeFolder;
        Enter(call.path, &step.file);
      } else {
        if ((call.flags & O_TRUNC) == 0) return;
        step.kind = Kind::kTruncate;
        step.file = FileOf(static_cast<int>(result));
      }
      break;
    case FileCall::Kind::kWrite:
      step.file = FileOf(call.fd);
      step.kind = Kind::kWrite;
      step.offset = call.offset >= 0 ? call.offset : ::lseek(call.fd, 0, SEEK_CUR) - result;
      step.bytes.assign(static_cast<const char*>(call.data), static_cast<size_t>(result));
      if (step.file < 0) return;
      break;
    case FileCall::Kind::kTruncate:
    case FileCall::Kind::kAllocate: {
      step.file = FileOf(call.fd);
      if (step.file < 0) return;
      if (call.kind == FileCall::Kind::kAllocate && (call.flags & FALLOC_FL_PUNCH_HOLE) != 0) {
        step.kind = Kind::kWrite;
        step.offset = call.offset;
        step.bytes.assign(static_cast<size_t>(call.bytes), '\0');
        break;
      }
      struct stat st {};
      ::fstat(call.fd, &st);
      step.kind = Kind::kTruncate;
      step.offset = st.st_size;
      break;
    }
    case FileCall::Kind::kSync:
      step.file = FileOf(call.fd);
      if (step.file < 0) return;
      break;
    case FileCall::Kind::kRename:
      step.kind = call.exchange ? Kind::kExchange : Kind::kRename;
      step.folder = FolderOf(call.path);
      step.name = Name(call.path);
      step.to_folder = FolderOf(call.to);
      step.to_name = Name(call.to);
      step.path = call.to;
      if (step.folder < 0 && step.to_folder < 0) return;
      break;
    case FileCall::Kind::kUnlink:
    case FileCall::Kind::kRemoveFolder:
      step.kind = Kind::kUnlink;
      step.folder = FolderOf(call.path);
      step.name = Name(call.path);
      if (step.folder < 0) return;
      break;
    default:
      return;  // Stop will see that the disk is another one
  }
  steps_.push_back(std::move(step));
}

namespace {

void Mix(size_t value, size_t* hash) { *hash = (*hash ^ value) * 0x9e3779b97f4a7c15u + (*hash >> 29); }

// The disk as the steps make it.
class Disk {
 public:
  explicit Disk(const FileTree& start) {
    files_.push_back({.folder = true});
    std::map<std::string, int> numbers = {{"", 0}};
    for (const auto& [path, bytes] : start) {
      const int number = static_cast<int>(files_.size());
      numbers[path] = number;
      files_.push_back({.folder = bytes == nullptr});
      if (bytes != nullptr) files_.back().now = files_.back().safe = *bytes;
      files_[static_cast<size_t>(numbers.at(Parent(path)))].entries[Name(path)] = number;
    }
    for (File& file : files_) file.safe_entries = file.entries;
  }

  void Do(const DiskStep& step) {
    switch (step.kind) {
      case Kind::kCreate:
      case Kind::kMakeFolder:
        if (files_.size() <= static_cast<size_t>(step.file))
          files_.resize(static_cast<size_t>(step.file) + 1);
        At(step.file).folder = step.kind == Kind::kMakeFolder;
        At(step.folder).entries[step.name] = step.file;
        break;
      case Kind::kWrite: {
        File& file = At(step.file);
        const auto end = static_cast<size_t>(step.offset) + step.bytes.size();
        if (file.now.size() < end) file.now.resize(end);
        std::memcpy(&file.now[static_cast<size_t>(step.offset)], step.bytes.data(), step.bytes.size());
        file.unsynced.emplace_back(step.offset, step.bytes.size());
        file.Changed();
        break;
      }
      case Kind::kTruncate:
        At(step.file).now.resize(static_cast<size_t>(step.offset));
        At(step.file).Changed();
        break;
      case Kind::kSync: {
        File& file = At(step.file);
        file.Changed();
        file.safe = file.now;
        file.unsynced.clear();
        file.safe_entries = file.entries;
        break;
      }
      case Kind::kRename: {
        const int moved = At(step.folder).entries.at(step.name);
        At(step.folder).entries.erase(step.name);
        At(step.to_folder).entries[step.to_name] = moved;
        break;
      }
      case Kind::kExchange:
        std::swap(At(step.folder).entries.at(step.name), At(step.to_folder).entries.at(step.to_name));
        break;
      case Kind::kUnlink:
        At(step.folder).entries.erase(step.name);
        break;
      case Kind::kPromise:
        break;
    }
  }

  enum class Data { kKept, kLost, kTorn };
  std::vector<int> UnsyncedFolders() const {
    std::vector<int> folders;
    for (size_t i = 0; i < files_.size(); ++i) {
      if (files_[i].entries != files_[i].safe_entries) folders.push_back(static_cast<int>(i));
    }
    return folders;
  }
  // `hash` becomes one of the tree.
  FileTree Tree(const std::set<int>& lost_folders, Data data, size_t* hash) const {
    FileTree tree;
    *hash = 0;
    Walk(0, "", lost_folders, data, &tree, hash);
    return tree;
  }

 private:
  struct Version {
    std::shared_ptr<const std::string> bytes;
    size_t hash = 0;
  };
  struct File {
    bool folder = false;
    std::string now = {}, safe = {};
    std::vector<std::pair<int64_t, size_t>> unsynced = {};  // offset and bytes of writes
    std::map<std::string, int> entries = {}, safe_entries = {};
    mutable std::array<Version, 3> versions = {};  // by Data; null until somebody asks

    void Changed() { versions = {}; }
  };
  File& At(int number) { return files_[static_cast<size_t>(number)]; }

  static std::string Bytes(const File& file, Data data) {
    if (data == Data::kKept) return file.now;
    if (data == Data::kLost || file.unsynced.empty()) return file.safe;
    std::string torn = file.safe;
    torn.resize(file.now.size());
    for (const auto& [offset, bytes] : file.unsynced) {
      for (size_t i = 0; i < bytes && static_cast<size_t>(offset) + i < torn.size(); ++i)
        torn[static_cast<size_t>(offset) + i] = '\0';
    }
    const auto [offset, bytes] = file.unsynced.back();
    const size_t at = std::min(static_cast<size_t>(offset), torn.size());
    torn.replace(at, bytes, file.now, at, bytes);
    return torn;
  }

  static const Version& VersionOf(const File& file, Data data) {
    Version& version = file.versions[static_cast<size_t>(data)];
    if (version.bytes == nullptr) {
      version.bytes = std::make_shared<std::string>(Bytes(file, data));
      version.hash = std::hash<std::string>()(*version.bytes);
    }
    return version;
  }

  void Walk(int number, const std::string& path, const std::set<int>& lost_folders, Data data, FileTree* tree,
            size_t* hash) const {
    const File& folder = files_[static_cast<size_t>(number)];
    for (const auto& [name, child] : lost_folders.count(number) > 0 ? folder.safe_entries : folder.entries) {
      const File& file = files_[static_cast<size_t>(child)];
      const std::string below = path.empty() ? name : path + "/" + name;
      auto& bytes = (*tree)[below];
      Mix(std::hash<std::string>()(below), hash);
      if (file.folder) {
        Walk(child, below, lost_folders, data, tree, hash);
      } else {
        bytes = VersionOf(file, data).bytes;
        Mix(VersionOf(file, data).hash, hash);
      }
    }
  }

  std::vector<File> files_;
};

bool SameTree(const FileTree& a, const FileTree& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const auto& x, const auto& y) {
    if (x.first != y.first || (x.second == nullptr) != (y.second == nullptr)) return false;
    return x.second == nullptr || *x.second == *y.second;
  });
}

std::string Names(const FileTree& tree) {
  std::string names;
  for (const auto& [path, bytes] : tree)
    names += "  " + path + (bytes == nullptr ? "/" : " " + std::to_string(bytes->size())) + "\n";
  return names;
}

// All sets of the folders, or if they are many, those of none, one, all but one, all.
std::vector<std::set<int>> Choices(const std::vector<int>& folders) {
  constexpr size_t kMany = 5;
  std::vector<std::set<int>> choices;
  const size_t all = folders.size();
  for (size_t bits = 0; all <= kMany && bits < (size_t{1} << all); ++bits) {
    std::set<int>& choice = choices.emplace_back();
    for (size_t i = 0; i < all; ++i) {
      if ((bits >> i & 1) != 0) choice.insert(folders[i]);
    }
  }
  if (all <= kMany) return choices;
  const std::set<int> every(folders.begin(), folders.end());
  choices = {{}, every};
  for (const int folder : folders) {
    choices.push_back({folder});
    choices.push_back(every);
    choices.back().erase(folder);
  }
  return choices;
}

const char* Describe(Disk::Data data) {
  if (data == Disk::Data::kKept) return "unsynced bytes kept";
  return data == Disk::Data::kLost ? "unsynced bytes lost" : "of unsynced bytes only the last write kept";
}

}  // namespace

void DiskRecorder::Stop() {
  watch_.reset();
  Disk disk(start_);
  for (const DiskStep& step : steps_) disk.Do(step);
  size_t hash = 0;
  const FileTree seen = disk.Tree({}, Disk::Data::kKept, &hash), real = ReadTree(root_);
  EXPECT_TRUE(SameTree(seen, real)) << "the recorded calls make\n"
                                    << Names(seen) << "and there is\n"
                                    << Names(real);
}

namespace {

// Shows the states of one cut that `shown` does not have yet; false once `look` said so.
bool ShowCut(const DiskRecorder& disk, const Disk& state, CutState* seen, std::set<size_t>* shown,
             const std::function<bool(const CutState&)>& look) {
  for (const std::set<int>& lost : Choices(state.UnsyncedFolders())) {
    for (const Disk::Data data : {Disk::Data::kLost, Disk::Data::kTorn, Disk::Data::kKept}) {
      seen->tree = state.Tree(lost, data, &seen->hash);
      Mix(seen->promises.size(), &seen->hash);
      if (!shown->insert(seen->hash).second) continue;
      std::ostringstream text;
      text << "cut after step " << seen->steps << " of " << disk.steps().size();
      if (seen->steps > 0) text << " (" << disk.steps()[seen->steps - 1].path << ")";
      text << ", " << Describe(data) << ", entries of " << lost.size() << " folders lost";
      seen->description = text.str();
      if (!look(*seen)) return false;
    }
  }
  return true;
}

}  // namespace

void ForEachCut(const DiskRecorder& disk, std::optional<size_t> never,
                const std::function<bool(const CutState&)>& look) {
  const std::vector<DiskStep>& steps = disk.steps();
  std::set<size_t> shown;
  const size_t first = never ? *never + 1 : 0;
  for (const bool last : {true, false}) {
    Disk state(disk.start());
    CutState seen{};
    for (; seen.steps <= steps.size(); ++seen.steps) {
      const bool wanted = last ? seen.steps == steps.size() : seen.steps >= first;
      if (wanted && !ShowCut(disk, state, &seen, &shown, look)) return;
      if (seen.steps == steps.size()) break;
      const DiskStep& step = steps[seen.steps];
      if (seen.steps != never) state.Do(step);
      if (step.kind == Kind::kPromise) seen.promises.push_back(step.path);
    }
  }
}

std::vector<std::string> ProblemsAfterCuts(const DiskRecorder& disk, const std::string& scratch,
                                           const CutCheck& check) {
  constexpr size_t kEnough = 5;
  std::vector<std::string> problems;
  ForEachCut(disk, std::nullopt, [&](const CutState& state) {
    WriteTree(state.tree, scratch);
    const std::string problem = check(scratch, state.promises);
    if (!problem.empty()) problems.push_back(state.description + ": " + problem + "\n" + Names(state.tree));
    return problems.size() < kEnough;
  });
  return problems;
}

std::vector<std::string> NeedlessSyncs(const DiskRecorder& disk, const std::string& scratch,
                                       const CutCheck& check, const std::function<bool(size_t step)>& asked) {
  std::vector<std::string> needless;
  std::set<size_t> harmless;  // states, by hash
  for (size_t i = 0; i < disk.steps().size(); ++i) {
    const DiskStep& step = disk.steps()[i];
    if (step.kind != Kind::kSync || !step.by_product || (asked && !asked(i))) continue;
    bool needed = false;
    ForEachCut(disk, i, [&](const CutState& state) {
      if (harmless.count(state.hash) > 0) return true;
      WriteTree(state.tree, scratch);
      needed = !check(scratch, state.promises).empty();
      if (!needed) harmless.insert(state.hash);
      return !needed;
    });
    if (!needed) needless.push_back("step " + std::to_string(i) + ": fsync of " + step.path);
  }
  return needless;
}

}  // namespace omni::testing
