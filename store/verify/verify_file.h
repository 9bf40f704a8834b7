// One file of a model directory passing by: what all checks of VerifyModel have in common.
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "store/file/file_stream.h"
#include "store/file/files.h"
#include "store/file/hash.h"

namespace omni {

// Shared by all threads.
struct VerifyState {
  std::atomic<int64_t> bytes = 0, tiles = 0;
  std::atomic<bool> stop = false;
};

struct Defects {
  std::vector<std::string> lines;
  int64_t refused = 0;  // of the lines: what the system would not let be read
};
void AddDefect(const absl::Status& error, Defects* defects);  // nothing if it is OK

// Reads a file once from its beginning to its end, and compares size and hash with what a manifest says.
class FilePass {
 public:
  FilePass(const std::string& path, const FileDigest& want, VerifyState* state, Defects* defects)
      : path_(path), want_(want), state_(state), defects_(defects) {}

  // False if there is nothing to look at. A file of the wrong size is reported, and read nevertheless.
  bool Open(int64_t max_keep, FileStream::Cache cache = FileStream::Cache::kPass);
  // Moves on, as FileStream::Next; false at the end, or if the rest cannot be read.
  bool Next(int64_t keep);
  int64_t begin() const { return stream_->begin(); }
  int64_t end() const { return stream_->end(); }
  const uint8_t* At(int64_t offset) const { return stream_->data() + (offset - begin()); }
  // Adds the bytes up to `offset`, which is in the window, to the hash: early, where they are looked at
  // anyway and lie in the processor's caches. Next adds what is left.
  void HashTo(int64_t offset);
  // After the last Next. `explained`: the bad bytes were reported more precisely.
  void Finish(bool explained);

 private:
  std::string path_;
  FileDigest want_;
  VerifyState* state_;
  Defects* defects_;
  std::optional<FileStream> stream_;
  StreamHash hash_;
  int64_t hashed_ = 0;
  bool whole_ = true;  // right size so far, and everything was read
};

}  // namespace omni
