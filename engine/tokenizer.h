// Byte-level BPE. Pre-tokens by ASCII class (letters, digits, space, other); bytes >= 0x80 count as letters; one leading
// space joins the run after it; pre-tokens are cut at 64 bytes. Every byte sequence round-trips. Ids 0..255 are the
// bytes, 256 is <|endoftext|> (never parsed from text), 257.. are merges in rank order.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <absl/status/statusor.h>

#include "engine/base/ids.h"

namespace omni {

class Tokenizer {
 public:
  static constexpr TokenId kEndOfText{256};

  // Learns vocab - 257 merges from the text (most frequent pair first, ties to the pair of lower ids). A corpus with fewer
  // useful merges gives a smaller merge list; ids up to vocab stay valid and simply unused. vocab >= 257.
  static absl::StatusOr<Tokenizer> Train(std::string_view text, int64_t vocab);
  static absl::StatusOr<Tokenizer> Load(const std::string& path);
  static absl::StatusOr<Tokenizer> Parse(std::string_view bytes);  // the file's bytes
  std::string Serialize() const;
  absl::Status Save(const std::string& path) const;  // atomic

  int64_t vocab() const;
  // Linear time in text for bounded pre-tokens. Thread-safe (const).
  std::vector<TokenId> Encode(std::string_view text) const;
  std::string Decode(std::span<const TokenId> ids) const;  // end-of-text decodes to nothing; unknown ids to U+FFFD
  std::string_view Bytes(TokenId id) const;

 private:
  struct Merge { int32_t left, right; };
  int64_t vocab_ = 0;
  std::vector<Merge> merges_;
  std::vector<std::string> bytes_;  // per id
  std::vector<std::pair<uint64_t, int32_t>> ranks_;  // open-addressed: pair -> rank, built from merges_
};

}  // namespace omni
