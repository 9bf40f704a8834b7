#include "engine/base/random.h"

#include <sys/wait.h>
#include <unistd.h>

#include <set>
#include <string>

#include <gtest/gtest.h>

namespace omni {
namespace {

TEST(Random, HexHasSoManyDigits) {
  for (size_t digits : {0, 1, 15, 16, 17, 32, 100}) {
    const std::string hex = RandomHex(digits);
    EXPECT_EQ(hex.size(), digits);
    EXPECT_EQ(hex.find_first_not_of("0123456789abcdef"), std::string::npos) << hex;
  }
}

TEST(Random, NothingComesTwiceAndEveryDigitVaries) {
  std::set<std::string> names;
  std::set<char> of_place[32];
  for (int i = 0; i < 1000; ++i) {
    const std::string hex = RandomHex(32);
    names.insert(hex);
    for (size_t place = 0; place < 32; ++place) of_place[place].insert(hex[place]);
  }
  EXPECT_EQ(names.size(), 1000u);
  for (const std::set<char>& digits : of_place) EXPECT_EQ(digits.size(), 16u);
}

TEST(Random, AForkedProcessDrawsOthers) {
  RandomHex(16);  // had there been a state, both would have it now
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    const std::string hex = RandomHex(16);
    ::_exit(::write(ends[1], hex.data(), hex.size()) == static_cast<ssize_t>(hex.size()) ? 0 : 1);
  }
  std::string theirs(16, '\0');
  EXPECT_EQ(::read(ends[0], theirs.data(), theirs.size()), 16);
  EXPECT_NE(RandomHex(16), theirs);
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  ::close(ends[0]);
  ::close(ends[1]);
}

}  // namespace
}  // namespace omni
