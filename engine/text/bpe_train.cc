#include "engine/text/bpe_train.h"

#include <array>
#include <queue>
#include <string>

#include <absl/container/flat_hash_map.h>
#include <absl/strings/string_view.h>

#include "engine/text/pretoken.h"

namespace omni {
namespace {

using PairKey = uint64_t;  // left << 32 | right, so that keys order as pairs do

PairKey Key(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

class Learner {
 public:
  explicit Learner(std::string_view text) {
    // Words are numbered by first appearance, never by the map's order, which changes from run to run.
    absl::flat_hash_map<absl::string_view, int32_t> index;
    for (size_t at = 0; at < text.size();) {
      const size_t end = PretokenEnd(text, at);
      const absl::string_view word(text.data() + at, end - at);
      at = end;
      if (word.size() < 2) continue;
      const auto [it, fresh] = index.try_emplace(word, static_cast<int32_t>(words_.size()));
      if (fresh) {
        words_.push_back({static_cast<int64_t>(symbols_.size()), static_cast<int32_t>(word.size()), 0});
        for (char c : word) symbols_.push_back(static_cast<uint8_t>(c));
      }
      ++words_[it->second].count;
    }
    for (int32_t w = 0; w < static_cast<int32_t>(words_.size()); ++w) {
      const int32_t* s = symbols_.data() + words_[w].begin;
      for (int32_t i = 0; i + 1 < words_[w].length; ++i) AddPair(Key(s[i], s[i + 1]), words_[w].count, w);
    }
    for (const auto& [key, info] : pairs_) {
      if (info.count > 1) heap_.push({info.count, key});
    }
  }

  // Merges the most frequent pair into `id`; false if none occurs twice.
  bool Step(int32_t id, std::pair<int32_t, int32_t>* merge) {
    while (!heap_.empty()) {
      const Candidate top = heap_.top();
      heap_.pop();
      const auto it = pairs_.find(top.key);
      if (it == pairs_.end()) continue;
      // A pair's count only falls once it is in the heap, so an outdated entry is too high and goes back
      // lower.
      if (it->second.count != top.count) {
        if (it->second.count > 1) heap_.push({it->second.count, top.key});
        continue;
      }
      *merge = {static_cast<int32_t>(top.key >> 32), static_cast<int32_t>(top.key & 0xffffffff)};
      const std::vector<int32_t> where = std::move(it->second.words);
      fresh_.clear();
      for (int32_t w : where) MergeInWord(w, *merge, id);
      pairs_.erase(top.key);
      for (PairKey key : fresh_) {
        if (const int64_t count = pairs_[key].count; count > 1) heap_.push({count, key});
      }
      return true;
    }
    return false;
  }

 private:
  struct Word {
    int64_t begin;  // in symbols_
    int32_t length;
    int64_t count;
  };
  struct PairInfo {
    int64_t count = 0;
    std::vector<int32_t> words;  // every word that holds the pair; some may do so no longer
  };
  struct Candidate {
    int64_t count;
    PairKey key;
    bool operator<(const Candidate& o) const { return count != o.count ? count < o.count : key > o.key; }
  };

  void AddPair(PairKey key, int64_t count, int32_t word) {
    const auto [it, fresh] = pairs_.try_emplace(key);
    if (fresh) fresh_.push_back(key);
    PairInfo& info = it->second;
    info.count += count;
    if (info.words.empty() || info.words.back() != word) info.words.push_back(word);
  }

  void MergeInWord(int32_t w, std::pair<int32_t, int32_t> merge, int32_t id) {
    Word& word = words_[w];
    int32_t* s = symbols_.data() + word.begin;
    std::array<bool, kMaxPretokenBytes + 1> merged{};  // old positions that become part of `id`
    int32_t found = 0;
    for (int32_t i = 0; i + 1 < word.length; ++i) {
      if (s[i] != merge.first || s[i + 1] != merge.second) continue;
      merged[i] = merged[i + 1] = true;
      ++found;
      ++i;
    }
    if (found == 0) return;
    for (int32_t i = 0; i + 1 < word.length; ++i) {
      if (!merged[i] && !merged[i + 1]) continue;
      const auto it = pairs_.find(Key(s[i], s[i + 1]));
      it->second.count -= word.count;
      if (it->second.count == 0 && it->first != Key(merge.first, merge.second)) pairs_.erase(it);
    }
    int32_t length = 0;
    for (int32_t i = 0; i < word.length; ++i) {
      s[length++] = merged[i] ? id : s[i];
      i += merged[i];
    }
    word.length = length;
    for (int32_t i = 0; i + 1 < length; ++i) {
      if (s[i] == id || s[i + 1] == id) AddPair(Key(s[i], s[i + 1]), word.count, w);
    }
  }

  std::vector<Word> words_;
  std::vector<int32_t> symbols_;
  absl::flat_hash_map<PairKey, PairInfo> pairs_;
  std::priority_queue<Candidate> heap_;
  std::vector<PairKey> fresh_;  // pairs first seen since the last step
};

}  // namespace

std::vector<std::pair<int32_t, int32_t>> LearnMerges(std::string_view text, int64_t count, int32_t first_id) {
  std::vector<std::pair<int32_t, int32_t>> merges;
  Learner learner(text);
  std::pair<int32_t, int32_t> merge;
  while (static_cast<int64_t>(merges.size()) < count &&
         learner.Step(first_id + static_cast<int32_t>(merges.size()), &merge)) {
    merges.push_back(merge);
  }
  return merges;
}

}  // namespace omni
