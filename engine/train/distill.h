// A teacher's most likely tokens, stored for the segments of some steps, and what a student learns from them.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "engine/model/checkpoint.h"
#include "engine/train/data.h"
#include "engine/train/layers.h"
#include "engine/train/model.h"
#include "engine/train/settings.h"

namespace omni::train {

// What both runs must have in common: they read the same segments then.
struct SegmentsRead {
  std::string data_hash, tokenizer_hash;
  int64_t vocab = 0, batch = 0, tokens = 0;
  Stride stride = Stride::kPlain;
};

// The model's most likely next tokens in `count` segments from `first`, counted from the text's beginning,
// where its state begins as zero. streams: at the beginning. stop is asked between segments, and ends it with
// Cancelled.
absl::Status WriteTeacher(const std::string& path, TrainModel& model, Streams& streams, int64_t memory,
                          const SegmentsRead& read, int64_t first, int64_t count,
                          const std::function<bool()>& stop);

class Teacher {
 public:
  // InvalidArgument where the file is of another text, tokenizer, batch, segment length or stride; DataLoss
  // where it is damaged.
  static absl::StatusOr<Teacher> Open(const std::string& path, const SegmentsRead& read);

  // Of a segment, counted from the text's beginning; none where the file has nothing of it.
  SoftTargets Of(int64_t segment, float share) const;

 private:
  explicit Teacher(SafetensorsFile file) : file_(std::move(file)) {}

  SafetensorsFile file_;
  int64_t first_ = 0, count_ = 0, rows_ = 0;
};

}  // namespace omni::train
