#include "engine/text/stop_matcher.h"

#include <random>

#include <gtest/gtest.h>

namespace omni {
namespace {

TEST(StopMatcher, ShowsTextAtOnceWithoutStops) {
  StopMatcher m({});
  EXPECT_EQ(m.Push("abc"), "abc");
  EXPECT_EQ(m.Push(""), "");
  EXPECT_EQ(m.Flush(), "");
  EXPECT_FALSE(m.stopped());
}

TEST(StopMatcher, HoldsBackWhatMightBecomeAStop) {
  StopMatcher m({"END"});
  EXPECT_EQ(m.Push("xE"), "x");
  EXPECT_EQ(m.Push("N"), "");
  EXPECT_EQ(m.Push("E"), "EN");
  EXPECT_EQ(m.Push("ND tail"), "");
  EXPECT_TRUE(m.stopped());
  EXPECT_EQ(m.Push("more"), "");
  EXPECT_EQ(m.Flush(), "");
}

TEST(StopMatcher, FlushGivesWhatWasHeld) {
  StopMatcher m({"END"});
  EXPECT_EQ(m.Push("aEN"), "a");
  EXPECT_EQ(m.Flush(), "EN");
}

TEST(StopMatcher, FindsAStopThatBeginsInsideAFailedOne) {
  StopMatcher m({"aab"});
  EXPECT_EQ(m.Push("aaab!"), "a");
  EXPECT_TRUE(m.stopped());
}

TEST(StopMatcher, TheStopThatCompletesFirstWinsAndOfSeveralTheLongest) {
  StopMatcher first({"abcd", "bc"});
  EXPECT_EQ(first.Push("xabcd"), "xa");
  StopMatcher longest({"c", "abc"});
  EXPECT_EQ(longest.Push("xabc"), "x");
  StopMatcher empty({"", "z"});
  EXPECT_EQ(empty.Push("xyz"), "xy");
  EXPECT_TRUE(empty.stopped());
}

TEST(StopMatcher, NeverSplitsACharacter) {
  StopMatcher m({});
  EXPECT_EQ(m.Push("a\xf0"), "a");
  EXPECT_EQ(m.Push("\x9f\x98"), "");
  EXPECT_EQ(m.Push("\x80z"), "\xf0\x9f\x98\x80z");
  EXPECT_EQ(m.Push("\xc3"), "");
  EXPECT_EQ(m.Flush(), "\xc3");
}

TEST(StopMatcher, DoesNotWaitForBytesThatCannotBecomeACharacter) {
  for (const char* bytes : {"\x80", "\xc1", "\xe0\x80", "\xed\xa0", "\xf0\x80", "\xf4\x90", "\xf5", "\xff",
                            "\xc3(", "\x80\x80\x80\x80"}) {
    StopMatcher m({});
    EXPECT_EQ(m.Push(bytes), bytes);
  }
}

TEST(StopMatcher, HoldsACharacterThatEndsInAStopsBeginning) {
  StopMatcher m({"\xa9!"});  // the last byte of U+00E9, then '!'
  EXPECT_EQ(m.Push("\xc3\xa9"), "");
  EXPECT_EQ(m.Push("?"), "\xc3\xa9?");
}

TEST(StopMatcher, ShowsTheSameHoweverTheTextIsCut) {
  std::mt19937 rng(3);
  for (int round = 0; round < 2000; ++round) {
    std::string text;
    for (int i = 0; i < 40; ++i) text += "ab\xc3\xa9"[rng() % 4];
    std::vector<std::string> stops;
    for (int i = 0; i < 2; ++i) stops.push_back(text.substr(rng() % 30, 1 + rng() % 6));
    StopMatcher whole(stops), cut(stops);
    const std::string want = whole.Push(text) + whole.Flush();
    std::string got;
    for (size_t at = 0; at < text.size();) {
      const size_t n = 1 + rng() % 5;
      got += cut.Push(text.substr(at, n));
      at += n;
    }
    got += cut.Flush();
    ASSERT_EQ(got, want);
    ASSERT_EQ(cut.stopped(), whole.stopped());
    ASSERT_TRUE(whole.stopped());  // the stops were taken from the text
    for (const std::string& stop : stops) ASSERT_EQ(got.find(stop), std::string::npos);
    ASSERT_TRUE(text.starts_with(got));
  }
}

}  // namespace
}  // namespace omni
