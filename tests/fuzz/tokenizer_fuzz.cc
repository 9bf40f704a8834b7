// The tokenizer's file, and encoding: any bytes come back, and are cut as the definition says.
#include <cstring>

#include "engine/text/pretoken.h"
#include "engine/text/tokenizer.h"
#include "tests/fuzz/fuzz.h"

namespace omni::fuzz {

const int kRuns = 30000;

namespace {

constexpr size_t kHeaderBytes = 20, kMergeBytes = 8, kChecksumBytes = 8;
constexpr int32_t kFirstMerge = 257;
constexpr size_t kMaxPlainWork = size_t{1} << 17;
constexpr size_t kMaxTrainBytes = 2000;

constexpr std::string_view kText =
    "the quick brown fox jumps over the lazy dog; the dog sleeps, and the fox runs over the hill. 1234 1234 "
    "aaaa aaaa";

struct Merge {
  int32_t left, right;
};

std::vector<Merge> MergesOf(std::string_view file) {
  std::vector<Merge> merges((file.size() - kHeaderBytes - kChecksumBytes) / kMergeBytes);
  if (!merges.empty()) std::memcpy(merges.data(), file.data() + kHeaderBytes, merges.size() * kMergeBytes);
  return merges;
}

std::string FileOf(uint32_t vocab, const std::vector<Merge>& merges) {
  const uint32_t numbers[] = {1, vocab, static_cast<uint32_t>(merges.size())};
  std::string file = "OMNI-TOK";
  file.append(reinterpret_cast<const char*>(numbers), sizeof numbers);
  if (!merges.empty()) file.append(reinterpret_cast<const char*>(merges.data()), merges.size() * kMergeBytes);
  return WithChecksum(file + std::string(kChecksumBytes, '\0'));
}

// The definition: every merge over the whole pre-token, in rank order.
std::vector<TokenId> EncodePlainly(std::string_view text, const std::vector<Merge>& merges) {
  std::vector<TokenId> ids;
  for (size_t begin = 0, end; begin < text.size(); begin = end) {
    end = PretokenEnd(text, begin);
    std::vector<int32_t> word;
    for (char c : text.substr(begin, end - begin)) word.push_back(static_cast<uint8_t>(c));
    for (size_t rank = 0; rank < merges.size(); ++rank) {
      size_t kept = 0;
      for (size_t i = 0; i < word.size(); ++i) {
        const bool match =
            i + 1 < word.size() && word[i] == merges[rank].left && word[i + 1] == merges[rank].right;
        word[kept++] = match ? kFirstMerge + static_cast<int32_t>(rank) : word[i];
        i += match;
      }
      word.resize(kept);
    }
    for (int32_t id : word) ids.emplace_back(id);
  }
  return ids;
}

void CheckText(const Tokenizer& tokenizer, const std::vector<Merge>& merges, std::string_view text) {
  const std::vector<TokenId> ids = tokenizer.Encode(text);
  Require(ids.size() <= text.size(), "there are no more tokens than bytes");
  std::string bytes;
  for (TokenId id : ids) {
    Require(id != Tokenizer::kEndOfText && !tokenizer.Bytes(id).empty(),
            "text encodes to tokens that have bytes");
    bytes += tokenizer.Bytes(id);
  }
  Require(bytes == text, "the tokens' bytes are the text");
  Require(tokenizer.Decode(ids) == text, "decoding gives the text back");
  if (text.size() * (merges.size() + 1) <= kMaxPlainWork) {
    Require(ids == EncodePlainly(text, merges), "text is encoded as the definition says");
  }
}

// `choice` picks the tokens of a text that the merges apply to.
void CheckFile(const std::string& file, std::string_view choice) {
  const absl::StatusOr<Tokenizer> tokenizer = Tokenizer::Parse(file);
  if (!tokenizer.ok()) return RequireReadable(tokenizer.status());
  Require(tokenizer->Serialize() == file, "a tokenizer writes the file it was read from");
  const std::vector<Merge> merges = MergesOf(file);
  std::string text;
  for (size_t i = 0; i + 1 < choice.size() && i < 400; i += 2) {
    const uint32_t number = static_cast<uint8_t>(choice[i]) * 256u + static_cast<uint8_t>(choice[i + 1]);
    text += tokenizer->Bytes(TokenId(static_cast<int32_t>(number % (kFirstMerge + merges.size()))));
  }
  CheckText(*tokenizer, merges, text);
  CheckText(*tokenizer, merges, choice.substr(0, 1000));
}

// What the input says, made to pass the checks that stand before the merges; `fold` makes the merges' ids
// valid too.
std::string Repaired(std::string_view input, bool fold) {
  if (input.size() < kHeaderBytes + kChecksumBytes) return FileOf(300, {});
  std::vector<Merge> merges = MergesOf(input);
  uint32_t vocab = 0;
  std::memcpy(&vocab, input.data() + 12, sizeof vocab);
  if (!fold) return FileOf(vocab, merges);
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const uint32_t below = static_cast<uint32_t>(kFirstMerge + rank);
    for (int32_t* id : {&merges[rank].left, &merges[rank].right})
      *id = static_cast<int32_t>(static_cast<uint32_t>(*id) % below);
  }
  return FileOf(static_cast<uint32_t>(kFirstMerge + merges.size()), merges);
}

}  // namespace

std::vector<std::string> Seeds() {
  std::vector<std::string> seeds = {FileOf(257, {}), std::string(kText), "\xff\xfe\x80\xc3 \xc3\xa9\n\n  x"};
  seeds.push_back(Tokenizer::Train(kText, 300)->Serialize());
  seeds.push_back(FileOf(400, {{'a', 'a'}, {257, 257}, {257, 'a'}, {'a', 257}, {258, 'b'}}));
  std::vector<Merge> doubling = {{' ', ' '}};
  for (int32_t id = 257; id < 262; ++id) doubling.push_back({id, id});
  seeds.push_back(FileOf(1u << 24, doubling));
  return seeds;
}

}  // namespace omni::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace omni::fuzz;
  const std::string_view input = View(data, size);
  CheckFile(std::string(input), input);
  CheckFile(Repaired(input, false), input);
  CheckFile(Repaired(input, true), input);
  static const std::string* const trained = new std::string(omni::Tokenizer::Train(kText, 330)->Serialize());
  static const auto* const tokenizer = new omni::Tokenizer(*omni::Tokenizer::Parse(*trained));
  CheckText(*tokenizer, MergesOf(*trained), input);
  if (size <= kMaxTrainBytes) {
    const std::string learned = omni::Tokenizer::Train(input, 257 + 20)->Serialize();
    CheckFile(learned, input);
  }
  return 0;
}
