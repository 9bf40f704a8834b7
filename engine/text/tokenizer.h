// Byte-level BPE. Pre-tokens by ASCII class (letters, digits, space, other); bytes >= 0x80 count as letters;
// one leading space joins the run after it; pre-tokens are cut at 64 bytes. Every byte sequence round-trips.
// Ids 0..255 are the bytes, 256 is <|endoftext|> (never parsed from text), 257.. are merges in rank order.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <absl/status/statusor.h>

#include "engine/base/ids.h"

namespace omni {

// Immutable once made; every const function is thread-safe. A default-made tokenizer knows no merges and no
// vocabulary.
class Tokenizer {
 public:
  static constexpr TokenId kEndOfText{256};

  // Learns vocab - 257 merges from the text (most frequent pair first, ties to the pair of lower ids). A
  // corpus with fewer useful merges (pairs that occur at least twice) gives a smaller merge list; ids up to
  // vocab stay valid and simply unused. vocab in [257, 2^24]; text below 2 GiB.
  static absl::StatusOr<Tokenizer> Train(std::string_view text, int64_t vocab);
  // The file's bytes are described in docs/formats/tokenizer.md. Every cut or altered byte is an error that
  // says what is wrong; Load's names the file.
  static absl::StatusOr<Tokenizer> Load(const std::string& path);
  static absl::StatusOr<Tokenizer> Parse(std::string_view bytes);
  std::string Serialize() const;
  absl::Status Save(const std::string& path) const;  // atomic

  int64_t vocab() const { return vocab_; }
  // The ids of the text, whatever bytes it holds. Linear time: pre-tokens are bounded.
  std::vector<TokenId> Encode(std::string_view text) const;
  // The tokens' bytes one after the other; ids outside [0, vocab) become U+FFFD.
  std::string Decode(std::span<const TokenId> ids) const;
  // One token's bytes, at most 64; empty for end-of-text, unused ids and ids outside [0, vocab).
  std::string_view Bytes(TokenId id) const;

 private:
  struct Merge {
    int32_t left, right;
  };
  struct Slot {
    uint64_t pair;
    int32_t id;
  };

  static absl::StatusOr<Tokenizer> FromMerges(int64_t vocab, std::vector<Merge> merges);
  size_t SlotOf(uint64_t pair) const;
  int32_t MergedId(int32_t left, int32_t right) const;  // INT32_MAX if the pair does not merge
  size_t EncodePretoken(std::string_view pretoken, TokenId* out) const;

  int64_t vocab_ = 0;
  std::vector<Merge> merges_;
  std::vector<std::string> bytes_;  // of ids 0 .. 256 + merges
  std::vector<Slot> slots_;  // open-addressed map from pair to merged id; a power of two, at most half full
};

}  // namespace omni
