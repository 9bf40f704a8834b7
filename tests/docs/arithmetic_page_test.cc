// docs/arithmetic.md and the product: the page's examples are read from the page, computed with code that was
// written from the page, and compared with every variant of the kernels.
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "kernels/op.h"
#include "tests/docs/operations.h"
#include "tests/docs/vectors.h"

namespace omni::page {
namespace {

std::string Page() {
  std::ifstream file(OMNI_ARITHMETIC_PAGE, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  EXPECT_TRUE(file) << OMNI_ARITHMETIC_PAGE << " cannot be read";
  return text.str();
}

std::string Differences(const Record& record, const Outputs& outputs) {
  std::string names;
  for (const auto& [name, words] : outputs) {
    const auto it = record.fields.find(name);
    if (it == record.fields.end() || it->second != words) names += " " + name;
  }
  return names;
}

Record With(Record record, const Outputs& outputs) {
  for (const auto& [name, words] : outputs) {
    if (!record.Has(name)) record.order.push_back(name);
    record.fields[name] = words;
  }
  return record;
}

void ExpectSame(const Record& record, const Outputs& outputs, const std::string& whose) {
  const std::string names = Differences(record, outputs);
  EXPECT_EQ(names, "") << "line " << record.line << " of the page: by " << whose << " it is\n"
                       << With(record, outputs).Text();
}

TEST(ArithmeticPageTest, GivesAnExampleOfEveryOperation) {
  std::set<std::string> shown;
  for (const Record& record : ParseVectors(Page())) shown.insert(record.operation);
  const std::vector<std::string> names = OperationNames();
  EXPECT_EQ(shown, std::set<std::string>(names.begin(), names.end()));
}

TEST(ArithmeticPageTest, ItsExamplesFollowFromItsText) {
  for (const Record& record : ParseVectors(Page())) ExpectSame(record, ByPage(record), "the page's text");
}

class ArithmeticPageIsaTest : public testing::TestWithParam<kernels::Isa> {};

TEST_P(ArithmeticPageIsaTest, ItsExamplesAreTheProducts) {
  const kernels::Ops* ops = kernels::OpsFor(GetParam());
  if (ops == nullptr) GTEST_SKIP() << "this CPU or build lacks " << kernels::IsaName(GetParam());
  for (const Record& record : ParseVectors(Page())) {
    ExpectSame(record, ByProduct(record, *ops), kernels::IsaName(GetParam()));
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, ArithmeticPageIsaTest, testing::ValuesIn(kernels::kAllIsas),
                         [](const auto& info) { return kernels::IsaName(info.param); });

// Any one output altered on the page must be noticed, or the tests above prove nothing.
TEST(ArithmeticPageTest, AnAlteredOutputIsNoticed) {
  for (const Record& record : ParseVectors(Page())) {
    const Outputs outputs = ByPage(record);
    ASSERT_FALSE(outputs.empty());
    for (const auto& [name, words] : outputs) {
      for (size_t i = 0; i < words.size(); ++i) {
        Record altered = record;
        char& last = altered.fields.at(name).at(i).back();
        last = last == '0' ? '1' : '0';
        EXPECT_EQ(Differences(altered, outputs), " " + name) << "line " << record.line << ", word " << i;
      }
    }
  }
}

TEST(VectorsTest, RefusesWhatIsMalformed) {
  const auto parse = [](const std::string& block) { return ParseVectors("```vectors\n" + block + "```\n"); };
  EXPECT_EQ(parse("dot\n  a: 0x3f800000\n    0x40000000\n").at(0).Floats("a"), (std::vector<float>{1, 2}));
  EXPECT_EQ(parse("a\n  t: +0 -\n").at(0).Trits("t"), (std::vector<int8_t>{1, 0, -1}));
  EXPECT_THROW(parse("  a: 1\n"), std::runtime_error);
  EXPECT_THROW(parse("dot\n  0x3f800000\n"), std::runtime_error);
  EXPECT_THROW(parse("dot\n  a: 1\n  a: 2\n"), std::runtime_error);
  EXPECT_THROW(parse("dot\n  a: 0x3f80\n").at(0).Floats("a"), std::runtime_error);
  EXPECT_THROW(parse("dot\n  a: 0x3f80000g\n").at(0).Floats("a"), std::runtime_error);
  EXPECT_THROW(parse("dot\n  a: 1x\n").at(0).Integers("a"), std::runtime_error);
  EXPECT_THROW(parse("dot\n  a: +1\n").at(0).Trits("a"), std::runtime_error);
  EXPECT_THROW(parse("dot\n  a: 1\n").at(0).Floats("b"), std::runtime_error);
  EXPECT_THROW(ParseVectors("```vectors\ndot\n"), std::runtime_error);
}

}  // namespace
}  // namespace omni::page
