#include "store/verify/verify_shared.h"

#include <algorithm>
#include <cmath>
#include <string>

#include <absl/strings/str_cat.h>

#include "store/format/shared_layout.h"

namespace omni {
namespace {

class SectionCheck {
 public:
  SectionCheck(const ModelFiles& files, FilePass& pass, Defects* defects)
      : path_(files.PathOf(kSharedFile)), pass_(pass), defects_(defects), layout_(files.manifest.config) {}

  // Looks at the bytes from `from` up to the end of the window.
  void Window(int64_t from) {
    const int64_t to = pass_.end();
    if (from < layout_.table_bytes) {
      table_.append(reinterpret_cast<const char*>(pass_.At(from)),
                    static_cast<size_t>(std::min(to, layout_.table_bytes) - from));
      if (to < layout_.table_bytes) return;
      const absl::Status read = layout_.ReadTable(path_, reinterpret_cast<const uint8_t*>(table_.data()));
      AddDefect(read, defects_);
      if (!read.ok()) explained_ = broken_ = true;
    }
    if (broken_) return;
    for (; section_ < layout_.sections.size(); ++section_) {
      const SharedSection& s = layout_.sections[section_];
      const int64_t begin = std::max(from, s.offset), end = std::min(to, s.offset + s.bytes);
      if (begin < end) Piece(s, begin, end);
      if (to < s.offset + s.bytes) return;
      EndSection(s);
    }
  }
  bool explained() const { return explained_; }

 private:
  void Piece(const SharedSection& s, int64_t begin, int64_t end) {
    checksum_.Update(pass_.At(begin), static_cast<size_t>(end - begin));
    if (s.kind != SectionKind::kFloat32 || !problem_.empty()) return;
    // A scale's padding, after one value for each row of the matrix before it, is not judged.
    const bool scale = s.name.ends_with(".scale");
    const int64_t count = scale ? layout_.sections[section_ - 1].rows : s.rows * s.cols;
    const bool position = s.name.ends_with(".positions");
    const auto* values = reinterpret_cast<const float*>(pass_.At(begin));
    const int64_t first = (begin - s.offset) / 4, last = std::min(count, (end - s.offset) / 4);
    for (int64_t i = first; i < last; ++i) {
      const float v = values[i - first];
      if (std::isfinite(v) && (!position || (v >= 0.0f && v < 1.0f))) continue;
      problem_ = absl::StrCat("element ", i, " is ", v, position ? ", not in [0, 1)" : "");
      return;
    }
  }

  void EndSection(const SharedSection& s) {
    const std::string where = absl::StrCat(path_, ": section ", s.name);
    if (checksum_.Value() != s.checksum) {
      AddDefect(absl::DataLossError(absl::StrCat(where, " fails its checksum", kDamagedCure)), defects_);
      explained_ = true;
    } else if (!problem_.empty()) {
      AddDefect(absl::DataLossError(absl::StrCat(where, ": ", problem_, "; pack the model again")), defects_);
    }
    checksum_.Restart();
    problem_.clear();
  }

  std::string path_;
  FilePass& pass_;
  Defects* defects_;
  SharedLayout layout_;
  std::string table_;
  bool broken_ = false, explained_ = false;
  size_t section_ = 0;
  StreamChecksum checksum_;  // of the section that is passing by
  std::string problem_;      // of its values
};

}  // namespace

void VerifyShared(const ModelFiles& files, VerifyState* state, Defects* defects) {
  const FileDigest& want = files.manifest.files.at(kSharedFile);
  const int64_t made = SharedLayout(files.manifest.config).file_bytes;
  if (want.bytes != made) {
    AddDefect(
        absl::DataLossError(absl::StrCat(files.PathOf(kModelFile), ": ", kSharedFile, " is listed with ",
                                         want.bytes, " bytes, the config makes ", made, kDamagedCure)),
        defects);
  }
  FilePass pass(files.PathOf(kSharedFile), want, state, defects);
  if (!pass.Open(0)) return;
  SectionCheck sections(files, pass, defects);
  int64_t seen = 0;
  while (pass.Next(0)) {
    if (want.bytes == made) sections.Window(seen);
    seen = pass.end();
  }
  pass.Finish(sections.explained());
}

}  // namespace omni
