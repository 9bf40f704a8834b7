// What a disk may hold after a power cut.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tests/testing/file_calls.h"

namespace omni::testing {

// Files by path below a root, with their bytes; folders with none.
using FileTree = std::map<std::string, std::shared_ptr<const std::string>>;
FileTree ReadTree(const std::string& root);
void WriteTree(const FileTree& tree, const std::string& root);  // into a fresh folder; an old one is removed

// One change of the disk, or a promise.
struct DiskStep {
  enum class Kind { kCreate, kMakeFolder, kWrite, kTruncate, kSync, kRename, kExchange, kUnlink, kPromise };
  Kind kind;
  std::string path;  // for people; of a promise: its text
  int file = -1;     // created, made, written, cut or synced
  int folder = -1;   // whose entry `name` is made, unlinked or renamed ...
  std::string name = {};
  int to_folder = -1;  // ... to this
  std::string to_name = {};
  int64_t offset = 0;       // kWrite; of kTruncate the new length
  std::string bytes = {};   // kWrite
  bool by_product = false;  // not RocksDB's
};

// Everything that happens below a folder from the constructor to Stop, as the system calls say. What is there
// at the beginning is taken to be safe on the disk.
class DiskRecorder : public FileWatcher {
 public:
  explicit DiskRecorder(const std::string& root);
  ~DiskRecorder() override;

  // Notes that the program has now told somebody this: it must be true of every later state.
  void Promise(const std::string& text);
  // Calls that it gives an errno for fail with that. Null: none.
  void Refuse(std::function<int(const FileCall&)> rule);
  // Ends, and fails the test if the steps do not lead to what really lies there: then a call was not seen.
  void Stop();

  const std::string& root() const { return root_; }
  const FileTree& start() const { return start_; }
  const std::vector<DiskStep>& steps() const { return steps_; }

  int Before(const FileCall& call) override;
  void After(const FileCall& call, int64_t result) override;

 private:
  int FileOf(int fd) const;                     // -1: not one of ours
  int FolderOf(const std::string& path) const;  // that holds the entry
  void Enter(const std::string& path, int* file);

  std::string root_;
  FileTree start_;
  std::vector<DiskStep> steps_;
  std::map<std::pair<uint64_t, uint64_t>, int> numbers_;  // by device and inode
  int files_ = 0;
  bool existed_ = false;
  std::function<int(const FileCall&)> refuse_;
  std::optional<WatchFiles> watch_;
};

// A state of the disk that a power cut may leave.
struct CutState {
  size_t steps;                       // the cut came after so many
  std::string description;            // of what was lost
  std::vector<std::string> promises;  // made before the cut
  FileTree tree;
  size_t hash;  // of the tree and the number of promises
};

// Shows every different state until `look` returns false; those of the last cut come first. After each step:
// what was written to a file since its last fsync is there, or gone, or all but the last write is zeros; and
// of each folder the entries since its last fsync are there or gone (a rename lost, a new file without a
// name), in all combinations. The entries of one folder reach the disk in their order. `never`, a step, is an
// fsync that does nothing; then only states after it are shown.
void ForEachCut(const DiskRecorder& disk, std::optional<size_t> never,
                const std::function<bool(const CutState&)>& look);

// What is wrong with the files in `dir`, of a program that had promised so much; empty: nothing.
using CutCheck = std::function<std::string(const std::string& dir, const std::vector<std::string>& promises)>;

// The problems that `check` finds in any state, the first few; each state is written into `scratch` to be
// looked at.
std::vector<std::string> ProblemsAfterCuts(const DiskRecorder& disk, const std::string& scratch,
                                           const CutCheck& check);
// The fsyncs of the program itself, or those of them that `asked` wants to know of, without which `check`
// finds nothing wrong either.
std::vector<std::string> NeedlessSyncs(const DiskRecorder& disk, const std::string& scratch,
                                       const CutCheck& check,
                                       const std::function<bool(size_t step)>& asked = nullptr);

}  // namespace omni::testing
