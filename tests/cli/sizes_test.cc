#include "cli/sizes.h"

#include <algorithm>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace omni::cli {
namespace {

using ::testing::HasSubstr;

TEST(SizesTest, ReadsNumbersUnitsAndFractions) {
  EXPECT_EQ(*ParseSize("1"), 1);
  EXPECT_EQ(*ParseSize("4096"), 4096);
  EXPECT_EQ(*ParseSize("1K"), 1024);
  EXPECT_EQ(*ParseSize("2684M"), int64_t{2684} << 20);
  EXPECT_EQ(*ParseSize("26G"), int64_t{26} << 30);
  EXPECT_EQ(*ParseSize("26g"), int64_t{26} << 30);
  EXPECT_EQ(*ParseSize("26GiB"), int64_t{26} << 30);
  EXPECT_EQ(*ParseSize("1.5G"), int64_t{1536} << 20);
  EXPECT_EQ(*ParseSize(".5k"), 512);
  EXPECT_EQ(*ParseSize("2T"), int64_t{2} << 40);
  EXPECT_EQ(*ParseSize("1.9"), 1);
}

TEST(SizesTest, BadInputIsOneClearLine) {
  for (const std::string_view text :
       {"",     " ",    "G",     "-1",  "-1G",  "+1G",      "0",
        "0G",   "0.4",  "1.2.3", "1 G", "1GB",  "1GiBs",    "26X",
        "1e9",  "0x10", "inf",   "nan", "infG", "9999999T", "99999999999999999999999999999999999999",
        "1G\n", "1,5G"}) {
    const absl::Status status = ParseSize(text).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << text;
    EXPECT_THAT(status.message(), HasSubstr("is not a size; give a number"));
  }
  EXPECT_THAT(ParseSize("1GB").status().message(), HasSubstr("'1GB'"));
  EXPECT_LT(ParseSize(std::string(100'000, '9')).status().message().size(), 200u);
}

TEST(SizesTest, WritesAFewFigures) {
  EXPECT_EQ(SizeText(0), "0 B");
  EXPECT_EQ(SizeText(1023), "1023 B");
  EXPECT_EQ(SizeText(1024), "1 KiB");
  EXPECT_EQ(SizeText((1 << 20) - 1), "1 MiB");
  EXPECT_EQ(SizeText(41 << 20), "41 MiB");
  EXPECT_EQ(SizeText(279 << 20), "279 MiB");
  EXPECT_EQ(SizeText(int64_t{20} << 30), "20.0 GiB");
  EXPECT_EQ(SizeText(int64_t{2684} << 20), "2.62 GiB");
  EXPECT_EQ(SizeText(INT64_MAX), "8388608 TiB");
}

}  // namespace
}  // namespace omni::cli
