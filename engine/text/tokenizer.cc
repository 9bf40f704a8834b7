#include "engine/text/tokenizer.h"

#include <algorithm>
#include <bit>
#include <climits>
#include <cstring>

#include <absl/strings/str_cat.h>
#include <xxhash.h>

#include "engine/text/bpe_train.h"
#include "engine/text/pretoken.h"

namespace omni {
namespace {

constexpr int64_t kFirstMerge = 257;
constexpr int64_t kMaxVocab = int64_t{1} << 24;
constexpr uint64_t kEmptySlot = ~uint64_t{0};
constexpr std::string_view kReplacement = "\xef\xbf\xbd";

uint64_t Pair(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

// Remembers where in this text a pre-token stood and where in the output its ids are. A newer pre-token takes
// the slot of an older one, so the size is bounded by the number of slots.
class PretokenCache {
 public:
  explicit PretokenCache(size_t text_bytes)
      : entries_(std::bit_ceil(std::clamp<size_t>(text_bytes / 8, 16, 1 << 16))) {}

  struct Entry {
    uint64_t hash = 0;
    size_t text_begin = 0;
    size_t ids_begin = 0;
    uint16_t text_bytes = 0;  // 0: unused
    uint16_t id_count = 0;
  };
  Entry& For(uint64_t hash) { return entries_[hash & (entries_.size() - 1)]; }

 private:
  std::vector<Entry> entries_;
};

}  // namespace

absl::StatusOr<Tokenizer> Tokenizer::FromMerges(int64_t vocab, std::vector<Merge> merges) {
  if (vocab < kFirstMerge || vocab > kMaxVocab) {
    return absl::InvalidArgumentError(absl::StrCat("tokenizer: a vocabulary of ", vocab, " ids is outside [",
                                                   kFirstMerge, ", ", kMaxVocab, "]"));
  }
  if (static_cast<int64_t>(merges.size()) > vocab - kFirstMerge) {
    return absl::InvalidArgumentError(absl::StrCat("tokenizer: ", merges.size(),
                                                   " merges do not fit a vocabulary of ", vocab,
                                                   " ids; it has room for ", vocab - kFirstMerge));
  }
  Tokenizer t;
  t.vocab_ = vocab;
  t.merges_ = std::move(merges);
  t.bytes_.reserve(kFirstMerge + t.merges_.size());
  for (int b = 0; b < 256; ++b) t.bytes_.emplace_back(1, static_cast<char>(b));
  t.bytes_.emplace_back();
  t.slots_.assign(std::bit_ceil(2 * t.merges_.size() + 2), Slot{kEmptySlot, 0});
  for (size_t rank = 0; rank < t.merges_.size(); ++rank) {
    const auto [left, right] = t.merges_[rank];
    const int32_t id = static_cast<int32_t>(kFirstMerge + rank);
    const auto usable = [&](int32_t part) { return part >= 0 && part < id && part != kEndOfText.value; };
    if (!usable(left) || !usable(right)) {
      return absl::InvalidArgumentError(absl::StrCat("tokenizer: merge ", rank, " joins ids ", left, " and ",
                                                     right, "; both must be bytes or earlier merges, below ",
                                                     id));
    }
    std::string bytes = t.bytes_[left] + t.bytes_[right];
    if (bytes.size() > kMaxPretokenBytes) {
      return absl::InvalidArgumentError(absl::StrCat("tokenizer: merge ", rank, " makes a token of ",
                                                     bytes.size(), " bytes; ", kMaxPretokenBytes,
                                                     " is the limit"));
    }
    t.bytes_.push_back(std::move(bytes));
    Slot& slot = t.slots_[t.SlotOf(Pair(left, right))];
    if (slot.pair != kEmptySlot) {
      return absl::InvalidArgumentError(absl::StrCat("tokenizer: merge ", rank, " joins ids ", left, " and ",
                                                     right, ", as merge ", slot.id - kFirstMerge, " does"));
    }
    slot = {Pair(left, right), id};
  }
  return t;
}

absl::StatusOr<Tokenizer> Tokenizer::Train(std::string_view text, int64_t vocab) {
  if (text.size() > INT32_MAX) {
    return absl::InvalidArgumentError(absl::StrCat("tokenizer: cannot learn from ", text.size(),
                                                   " bytes of text; give a sample below 2 GiB"));
  }
  absl::StatusOr<Tokenizer> bytes_only = FromMerges(vocab, {});
  if (!bytes_only.ok()) return bytes_only;
  std::vector<Merge> merges;
  for (const auto& [left, right] : LearnMerges(text, vocab - kFirstMerge, kFirstMerge))
    merges.push_back({left, right});
  return FromMerges(vocab, std::move(merges));
}

// The slot of `pair`, or the empty one where it would go. slots_ always has an empty one.
size_t Tokenizer::SlotOf(uint64_t pair) const {
  const size_t mask = slots_.size() - 1;
  size_t slot = (pair * 0x9e3779b97f4a7c15u >> 32) & mask;
  while (slots_[slot].pair != pair && slots_[slot].pair != kEmptySlot) slot = (slot + 1) & mask;
  return slot;
}

int32_t Tokenizer::MergedId(int32_t left, int32_t right) const {
  if (slots_.empty()) return INT32_MAX;
  const Slot& slot = slots_[SlotOf(Pair(left, right))];
  return slot.pair == kEmptySlot ? INT32_MAX : slot.id;
}

// Merges the neighbours of lowest rank, the leftmost first, until none merge. out has room for one id per
// byte.
size_t Tokenizer::EncodePretoken(std::string_view pretoken, TokenId* out) const {
  int32_t symbols[kMaxPretokenBytes];
  int32_t merged[kMaxPretokenBytes];  // what symbols i and i + 1 merge to; ids are in rank order
  size_t n = pretoken.size();
  for (size_t i = 0; i < n; ++i) symbols[i] = static_cast<uint8_t>(pretoken[i]);
  for (size_t i = 0; i + 1 < n; ++i) merged[i] = MergedId(symbols[i], symbols[i + 1]);
  while (n > 1) {
    const size_t best = std::min_element(merged, merged + n - 1) - merged;
    if (merged[best] == INT32_MAX) break;
    symbols[best] = merged[best];
    std::copy(symbols + best + 2, symbols + n, symbols + best + 1);
    if (best + 2 < n) std::copy(merged + best + 2, merged + n - 1, merged + best + 1);
    --n;
    if (best > 0) merged[best - 1] = MergedId(symbols[best - 1], symbols[best]);
    if (best + 1 < n) merged[best] = MergedId(symbols[best], symbols[best + 1]);
  }
  for (size_t i = 0; i < n; ++i) out[i] = TokenId(symbols[i]);
  return n;
}

std::vector<TokenId> Tokenizer::Encode(std::string_view text) const {
  std::vector<TokenId> ids;
  ids.reserve(text.size() / 3 + kMaxPretokenBytes);
  PretokenCache cache(text.size());
  TokenId fresh[kMaxPretokenBytes];
  for (size_t at = 0; at < text.size();) {
    const std::string_view pretoken = text.substr(at, PretokenEnd(text, at) - at);
    const uint64_t hash = XXH3_64bits(pretoken.data(), pretoken.size());
    PretokenCache::Entry& entry = cache.For(hash);
    const size_t ids_begin = ids.size();
    if (entry.hash == hash && entry.text_bytes == pretoken.size() &&
        std::memcmp(text.data() + entry.text_begin, pretoken.data(), pretoken.size()) == 0) {
      ids.resize(ids_begin + entry.id_count);
      std::copy_n(ids.begin() + static_cast<ptrdiff_t>(entry.ids_begin), entry.id_count,
                  ids.begin() + static_cast<ptrdiff_t>(ids_begin));
    } else {
      const size_t n = EncodePretoken(pretoken, fresh);
      ids.insert(ids.end(), fresh, fresh + n);
      entry = {hash, at, ids_begin, static_cast<uint16_t>(pretoken.size()), static_cast<uint16_t>(n)};
    }
    at += pretoken.size();
  }
  return ids;
}

std::string Tokenizer::Decode(std::span<const TokenId> ids) const {
  std::string text;
  for (TokenId id : ids) text += id.value < 0 || id.value >= vocab_ ? kReplacement : Bytes(id);
  return text;
}

std::string_view Tokenizer::Bytes(TokenId id) const {
  if (id.value < 0 || id.index() >= bytes_.size()) return {};
  return bytes_[id.index()];
}

}  // namespace omni
