#include "engine/text/tokenizer.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <xxhash.h>

#include "engine/text/bpe_train.h"
#include "engine/text/pretoken.h"

namespace omni {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

using Merges = std::vector<std::pair<int32_t, int32_t>>;

std::vector<std::string> Pretokens(std::string_view text) {
  std::vector<std::string> parts;
  for (size_t at = 0; at < text.size();) {
    const size_t end = PretokenEnd(text, at);
    parts.emplace_back(text.substr(at, end - at));
    at = end;
  }
  return parts;
}

std::vector<int32_t> Values(const std::vector<TokenId>& ids) {
  std::vector<int32_t> values;
  for (TokenId id : ids) values.push_back(id.value);
  return values;
}

// Text of few words and few letters, so that many pairs repeat, often equally often.
std::string SmallText(uint64_t seed, size_t bytes) {
  std::mt19937_64 rng(seed);
  std::string text;
  while (text.size() < bytes) text += "aaabbc  1.\n"[rng() % 11];
  return text;
}

std::string RandomBytes(uint64_t seed, size_t bytes) {
  std::mt19937_64 rng(seed);
  std::string text(bytes, '\0');
  for (char& c : text) c = static_cast<char>(rng());
  return text;
}

// The definition of learning, as plainly as it can be written.
Merges LearnPlainly(std::string_view text, int64_t count) {
  std::vector<std::vector<int32_t>> words;
  for (const std::string& part : Pretokens(text)) {
    words.emplace_back();
    for (char c : part) words.back().push_back(static_cast<uint8_t>(c));
  }
  Merges merges;
  while (static_cast<int64_t>(merges.size()) < count) {
    std::map<std::pair<int32_t, int32_t>, int64_t> pairs;
    for (const auto& w : words) {
      for (size_t i = 0; i + 1 < w.size(); ++i) ++pairs[{w[i], w[i + 1]}];
    }
    auto best = pairs.end();
    for (auto it = pairs.begin(); it != pairs.end(); ++it) {
      if (best == pairs.end() || it->second > best->second) best = it;
    }
    if (best == pairs.end() || best->second < 2) break;
    const int32_t id = 257 + static_cast<int32_t>(merges.size());
    merges.push_back(best->first);
    for (auto& w : words) {
      std::vector<int32_t> out;
      for (size_t i = 0; i < w.size(); ++i) {
        const bool match =
            i + 1 < w.size() && w[i] == merges.back().first && w[i + 1] == merges.back().second;
        out.push_back(match ? id : w[i]);
        i += match;
      }
      w = out;
    }
  }
  return merges;
}

// The definition of encoding: every merge over the whole pre-token, in rank order.
std::vector<int32_t> EncodePlainly(std::string_view text, const Merges& merges) {
  std::vector<int32_t> ids;
  for (const std::string& part : Pretokens(text)) {
    std::vector<int32_t> w;
    for (char c : part) w.push_back(static_cast<uint8_t>(c));
    for (size_t rank = 0; rank < merges.size(); ++rank) {
      std::vector<int32_t> out;
      for (size_t i = 0; i < w.size(); ++i) {
        const bool match = i + 1 < w.size() && w[i] == merges[rank].first && w[i + 1] == merges[rank].second;
        out.push_back(match ? 257 + static_cast<int32_t>(rank) : w[i]);
        i += match;
      }
      w = out;
    }
    ids.insert(ids.end(), w.begin(), w.end());
  }
  return ids;
}

TEST(Pretoken, CutsByClassAndGivesOneSpaceToTheRunAfterIt) {
  EXPECT_THAT(Pretokens("ab12, cd  ef\n\n  g!"),
              ElementsAre("ab", "12", ",", " cd", " ", " ef", "\n\n ", " g", "!"));
  EXPECT_THAT(Pretokens(" a 1 .  "), ElementsAre(" a", " 1", " .", "  "));
  EXPECT_THAT(Pretokens("\ta\n"), ElementsAre("\t", "a", "\n"));
  EXPECT_THAT(Pretokens(" "), ElementsAre(" "));
  EXPECT_THAT(Pretokens("na\xc3\xafve"), ElementsAre("na\xc3\xafve"));
  EXPECT_THAT(Pretokens(""), ElementsAre());
}

TEST(Pretoken, CutsAt64BytesTheLeadingSpaceCounted) {
  EXPECT_THAT(Pretokens(std::string(130, 'a')),
              ElementsAre(std::string(64, 'a'), std::string(64, 'a'), std::string(2, 'a')));
  EXPECT_THAT(Pretokens(std::string(1, ' ') + std::string(64, '7')),
              ElementsAre(std::string(1, ' ') + std::string(63, '7'), "7"));
  EXPECT_THAT(Pretokens(std::string(64, ' ') + "x"), ElementsAre(std::string(63, ' '), " x"));
  EXPECT_THAT(Pretokens(std::string(65, ' ') + "x"), ElementsAre(std::string(64, ' '), " x"));
  EXPECT_THAT(Pretokens(std::string(66, ' ') + "x"), ElementsAre(std::string(64, ' '), " ", " x"));
}

TEST(Tokenizer, LearnsTheMergesOfAHandComputedExample) {
  // Pre-tokens: "ab" " ab" " abc" " abc" " b". Pairs: (a,b) 4, (' ',a) 3, (b,c) 2, (' ',b) 1. 257 = ab. Then
  // (' ',ab) 3: 258 = " ab". Then (" ab",c) 2: 259. Nothing left occurs twice.
  EXPECT_EQ(LearnMerges("ab ab abc abc b", 10, 257), (Merges{{'a', 'b'}, {' ', 257}, {258, 'c'}}));
  const Tokenizer t = Tokenizer::Train("ab ab abc abc b", 300).value();
  EXPECT_EQ(t.vocab(), 300);
  EXPECT_THAT(Values(t.Encode("ab abc abd")), ElementsAre(257, 259, 258, 'd'));
  EXPECT_EQ(t.Bytes(TokenId(259)), " abc");
}

TEST(Tokenizer, EqualCountsGoToTheLowerLeftThenTheLowerRightId) {
  EXPECT_EQ(LearnMerges("cd,cd,ba,ba,bb,bb", 3, 257), (Merges{{'b', 'a'}, {'b', 'b'}, {'c', 'd'}}));
}

TEST(Tokenizer, LearnsAsThePlainDefinitionDoes) {
  for (uint64_t seed = 0; seed < 40; ++seed) {
    const std::string text = SmallText(seed, 50 + 40 * seed);
    ASSERT_EQ(LearnMerges(text, 60, 257), LearnPlainly(text, 60)) << "seed " << seed;
  }
  const std::string runs =
      std::string(500, 'a') + std::string(1, ' ') + std::string(77, 'b') + std::string(200, '\n');
  EXPECT_EQ(LearnMerges(runs, 60, 257), LearnPlainly(runs, 60));
}

TEST(Tokenizer, EncodesAsThePlainDefinitionDoes) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const std::string corpus = SmallText(seed, 800);
    const Tokenizer t = Tokenizer::Train(corpus, 330).value();
    const Merges merges = LearnMerges(corpus, 330 - 257, 257);
    const std::string text = SmallText(seed + 1000, 3000);
    ASSERT_EQ(Values(t.Encode(text)), EncodePlainly(text, merges)) << "seed " << seed;
  }
}

TEST(Tokenizer, RoundTripsAnyBytes) {
  const Tokenizer t = Tokenizer::Train(SmallText(1, 5000) + RandomBytes(2, 5000), 600).value();
  for (size_t size : {0, 1, 2, 63, 64, 65, 1000, 100000}) {
    const std::string text = RandomBytes(size, size);
    const std::vector<TokenId> ids = t.Encode(text);
    EXPECT_EQ(t.Decode(ids), text) << size;
    for (TokenId id : ids) EXPECT_NE(id, Tokenizer::kEndOfText);
  }
  for (const std::string& text :
       {std::string("\xc3"), std::string("\xff\xfe\x80"), std::string(3, '\0'), std::string("\xed\xa0\x80"),
        std::string(1 << 20, ' '), std::string(100001, 'a'),
        std::string(64, 'b') + std::string(1, ' ') + std::string(64, '1')}) {
    EXPECT_EQ(t.Decode(t.Encode(text)), text);
  }
  EXPECT_TRUE(t.Encode("").empty());
}

TEST(Tokenizer, CutsInsideAWordMakeNoTokenAcrossThem) {
  std::string corpus;
  for (int i = 0; i < 50; ++i) corpus += std::string(200, 'a') + ".";
  const Tokenizer t = Tokenizer::Train(corpus, 300).value();
  // 64 = the whole cut: 2, 4, 8, … 64 'a's are merges.
  EXPECT_EQ(t.Encode(std::string(128, 'a')).size(), 2u);
  for (int32_t id = 257; id < 300; ++id) EXPECT_LE(t.Bytes(TokenId(id)).size(), 64u);
}

TEST(Tokenizer, NeverParsesSpecialTokensFromText) {
  const std::string text = "a<|endoftext|>b";
  std::string corpus;
  for (int i = 0; i < 100; ++i) corpus += text;
  const Tokenizer t = Tokenizer::Train(corpus, 400).value();
  const std::vector<TokenId> ids = t.Encode(text);
  EXPECT_EQ(std::count(ids.begin(), ids.end(), Tokenizer::kEndOfText), 0);
  EXPECT_EQ(t.Decode(ids), text);
}

TEST(Tokenizer, DecodesSpecialUnusedAndUnknownIds) {
  const Tokenizer t = Tokenizer::Train("ab ab", 300).value();
  const TokenId ids[] = {TokenId('x'), Tokenizer::kEndOfText, TokenId(299),
                         TokenId(300), TokenId(-1),           TokenId('y')};
  EXPECT_EQ(t.Decode(ids), "x\xef\xbf\xbd\xef\xbf\xbdy");
  EXPECT_EQ(t.Bytes(TokenId(299)), "");
  EXPECT_EQ(t.Bytes(Tokenizer::kEndOfText), "");
  EXPECT_EQ(t.Bytes(TokenId(-1)), "");
  EXPECT_EQ(t.Bytes(TokenId(1 << 30)), "");
}

TEST(Tokenizer, SmallestVocabularyIsTheBytes) {
  const Tokenizer t = Tokenizer::Train("aaaa aaaa", 257).value();
  EXPECT_THAT(Values(t.Encode("aa")), ElementsAre('a', 'a'));
  EXPECT_THAT(Tokenizer::Train("a", 256).status().message(), HasSubstr("256 ids is outside [257, 16777216]"));
  EXPECT_FALSE(Tokenizer::Train("a", (int64_t{1} << 24) + 1).ok());
  EXPECT_TRUE(Tokenizer::Train("", 300).ok());
  EXPECT_THAT(Values(Tokenizer().Encode("hi")), ElementsAre('h', 'i'));
}

TEST(Tokenizer, TrainsTheSameEachTimeAndSerializesStably) {
  const std::string text = SmallText(5, 20000) + RandomBytes(6, 20000);
  const std::string bytes = Tokenizer::Train(text, 900).value().Serialize();
  EXPECT_EQ(Tokenizer::Train(text, 900).value().Serialize(), bytes);
  const Tokenizer back = Tokenizer::Parse(bytes).value();
  EXPECT_EQ(back.Serialize(), bytes);
  EXPECT_EQ(back.vocab(), 900);
  EXPECT_EQ(back.Encode(text), Tokenizer::Train(text, 900).value().Encode(text));
}

// A file by the letter of docs/formats/tokenizer.md.
std::string File(uint32_t version, uint32_t vocab, const std::vector<uint32_t>& merge_ids) {
  std::string out = "OMNI-TOK";
  const auto put = [&](auto value) { out.append(reinterpret_cast<const char*>(&value), sizeof value); };
  put(version);
  put(vocab);
  put(static_cast<uint32_t>(merge_ids.size() / 2));
  for (uint32_t id : merge_ids) put(id);
  put(static_cast<uint64_t>(XXH3_64bits(out.data(), out.size())));
  return out;
}

TEST(Tokenizer, ReadsTheDocumentedFormat) {
  const absl::StatusOr<Tokenizer> t = Tokenizer::Parse(File(1, 260, {'a', 'b', 257, 'c'}));
  ASSERT_TRUE(t.ok()) << t.status();
  EXPECT_THAT(Values(t->Encode("abcab")), ElementsAre(258, 257));
  EXPECT_EQ(t->Serialize(), File(1, 260, {'a', 'b', 257, 'c'}));
}

TEST(Tokenizer, RejectsFilesThatBreakTheRules) {
  const auto message = [](const std::string& bytes) {
    return std::string(Tokenizer::Parse(bytes).status().message());
  };
  EXPECT_THAT(message(File(2, 260, {})), HasSubstr("version 2"));
  EXPECT_THAT(message(File(1, 256, {})), HasSubstr("256 ids is outside"));
  EXPECT_THAT(message(File(1, 257, {'a', 'b'})), HasSubstr("1 merges do not fit"));
  EXPECT_THAT(message(File(1, 300, {'a', 257})), HasSubstr("merge 0 joins ids 97 and 257"));
  EXPECT_THAT(message(File(1, 300, {'a', 256})), HasSubstr("merge 0"));
  EXPECT_THAT(message(File(1, 300, {0x80000000u, 'a'})), HasSubstr("merge 0"));
  EXPECT_THAT(message(File(1, 300, {'a', 'b', 'a', 'b'})),
              HasSubstr("merge 1 joins ids 97 and 98, as merge 0 does"));
  std::vector<uint32_t> doubling = {'a', 'a'};
  for (uint32_t id = 257; id < 270; ++id) doubling.insert(doubling.end(), {id, id});
  EXPECT_THAT(message(File(1, 300, doubling)), HasSubstr("merge 6 makes a token of 128 bytes"));
  EXPECT_THAT(message("NOT-" + File(1, 300, {}).substr(4)), HasSubstr("not the bytes of a tokenizer file"));
  EXPECT_THAT(message(File(1, 300, {}) + "x"), HasSubstr("cut or damaged"));
}

TEST(Tokenizer, RejectsEveryCut) {
  const std::string bytes = Tokenizer::Train(SmallText(3, 2000), 280).value().Serialize();
  for (size_t keep = 0; keep < bytes.size(); ++keep)
    ASSERT_FALSE(Tokenizer::Parse(bytes.substr(0, keep)).ok()) << keep;
}

TEST(Tokenizer, RejectsEveryFlippedBit) {
  const std::string bytes = Tokenizer::Train(SmallText(3, 2000), 300).value().Serialize();
  ASSERT_GE(bytes.size() * 8, 300u);
  for (size_t bit = 0; bit < bytes.size() * 8; ++bit) {
    std::string flipped = bytes;
    flipped[bit / 8] ^= static_cast<char>(1u << bit % 8);
    ASSERT_FALSE(Tokenizer::Parse(flipped).ok()) << "bit " << bit;
  }
}

TEST(Tokenizer, SavesAndLoadsAndNamesTheFileInErrors) {
  std::string directory = ::testing::TempDir() + "tokenizer_XXXXXX";
  ASSERT_NE(mkdtemp(directory.data()), nullptr);
  const std::string path = directory + "/tokenizer.omni";
  const Tokenizer t = Tokenizer::Train(SmallText(4, 2000), 300).value();
  ASSERT_TRUE(t.Save(path).ok());
  ASSERT_TRUE(t.Save(path).ok());
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(directory), {}), 1);  // no temporary file stays
  const absl::StatusOr<Tokenizer> back = Tokenizer::Load(path);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->Serialize(), t.Serialize());
  std::filesystem::resize_file(path, 40);
  EXPECT_THAT(Tokenizer::Load(path).status().message(), HasSubstr(path));
  EXPECT_EQ(Tokenizer::Load(path + ".absent").status().code(), absl::StatusCode::kNotFound);
  EXPECT_FALSE(Tokenizer::Load(directory).ok());
  ASSERT_EQ(mkfifo((directory + "/pipe").c_str(), 0600), 0);  // without a writer
  EXPECT_THAT(Tokenizer::Load(directory + "/pipe").status().message(), HasSubstr("not a regular file"));
  EXPECT_FALSE(t.Save(directory + "/no/such/file").ok());
  std::filesystem::remove_all(directory);
}

}  // namespace
}  // namespace omni
