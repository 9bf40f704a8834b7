#include "engine/base/log_text.h"

#include <chrono>
#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace omni {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;

constexpr size_t kRoom = 4000;

LogRecord Record(std::string_view sentence, std::span<const LogField> fields) {
  return {.level = LogLevel::kWarning, .event = "tested", .sentence = sentence, .fields = fields, .time = {}};
}

nlohmann::json Json(const LogRecord& record, size_t room = kRoom) {
  std::string line = "{";
  line += LogPayload(LogFormat::kJson, record, room);
  const nlohmann::json json = nlohmann::json::parse(line, nullptr, false);
  EXPECT_TRUE(json.is_object()) << line;
  return json;
}

TEST(LogMessage, PutsFieldsIntoTheSentenceAndTheOthersBehindIt) {
  const std::string why = "the disk hangs";
  const LogField fields[] = {
      {"region", 3}, {"timeout", std::chrono::seconds(30)}, {"attempt", int64_t{2}}, {"why", why}};
  EXPECT_EQ(LogMessage(Record("region {region} was begun afresh: no answer within {timeout}", fields)),
            "region 3 was begun afresh: no answer within 30000 ms (attempt=2, why=the disk hangs)");
  EXPECT_EQ(LogMessage(Record("{why} and {why}", {&fields[3], 1})), "the disk hangs and the disk hangs");
  EXPECT_EQ(LogMessage(Record("nothing", {})), "nothing");
}

TEST(LogMessage, WritesEveryKindOfValueAsPeopleReadIt) {
  const LogField fields[] = {{"a", true},
                             {"b", -5},
                             {"c", uint64_t{7}},
                             {"d", 0.25},
                             {"e", 1.5f},
                             {"f", std::chrono::microseconds(250)},
                             {"g", std::chrono::hours(1)},
                             {"h", std::chrono::nanoseconds(1500)},
                             {"i", std::chrono::duration<double>(0.5)},
                             {"j", "text"},
                             {"k", std::numeric_limits<double>::infinity()}};
  EXPECT_EQ(
      LogMessage(Record("x", fields)),
      "x (a=true, b=-5, c=7, d=0.25, e=1.5, f=0.25 ms, g=3600000 ms, h=0.0015 ms, i=500 ms, j=text, k=inf)");
}

TEST(LogMessage, LeavesANameThatIsNoFieldAsItStands) {
  const LogField field("region", 3);
  EXPECT_EQ(LogMessage(Record("{nothing} of {region}", {&field, 1})), "{nothing} of 3");
}

TEST(LogPayload, TextIsOneLineWithoutControlCharacters) {
  const LogField field("path", std::string_view("a\nb\x1b[2Jc\x7f\0d", 11));
  EXPECT_EQ(LogPayload(LogFormat::kText, Record("{path}: gone", {&field, 1}), kRoom),
            "a\\nb\\x1b[2Jc\\x7f\\x00d: gone");
}

TEST(LogPayload, JsonHasEventMessageAndFieldsWithTheirTypes) {
  const LogField fields[] = {{"region", 3},
                             {"timeout", std::chrono::seconds(30)},
                             {"share", 0.5},
                             {"first", false},
                             {"why", "a \"b\""}};
  const nlohmann::json json = Json(Record("region {region}", fields));
  EXPECT_EQ(json["event"], "tested");
  EXPECT_EQ(json["message"], "region 3");
  EXPECT_EQ(
      json["fields"],
      (nlohmann::json{
          {"region", 3}, {"timeout_ms", 30000.0}, {"share", 0.5}, {"first", false}, {"why", "a \"b\""}}));
  EXPECT_TRUE(json["fields"]["region"].is_number_integer());
  EXPECT_EQ(Json(Record("nothing", {}))["fields"], nlohmann::json::object());
}

TEST(LogPayload, JsonReplacesBytesThatAreNotUtf8) {
  const LogField field("path", "models/\xff\xfe/\xc3\xa4");
  const nlohmann::json json = Json(Record("{path}", {&field, 1}));
  EXPECT_EQ(json["fields"]["path"], "models/\xef\xbf\xbd\xef\xbf\xbd/\xc3\xa4");
  EXPECT_EQ(json["message"], "models/\xef\xbf\xbd\xef\xbf\xbd/\xc3\xa4");
}

TEST(LogPayload, NumbersThatJsonDoesNotHaveAreNull) {
  const LogField field("share", std::numeric_limits<double>::quiet_NaN());
  EXPECT_TRUE(Json(Record("x", {&field, 1}))["fields"]["share"].is_null());
}

TEST(LogPayload, CutsLongTextsToTheRoomThereIsAtACharactersEnd) {
  std::string umlauts = "x";
  for (int i = 0; i < 5000; ++i) umlauts += "\xc3\xa4";
  const std::string controls(5000, '\x01');  // six bytes each in JSON
  const LogField fields[] = {{"a", umlauts}, {"b", umlauts}, {"c", controls}, {"layer", 3}};
  for (const size_t room : {size_t{1000}, size_t{2000}, kRoom}) {
    const std::string text = LogPayload(LogFormat::kText, Record("{a} is long", fields), room);
    EXPECT_LE(text.size(), room);
    EXPECT_THAT(text, HasSubstr("... is long"));
    EXPECT_THAT(text, EndsWith("layer=3)"));

    const LogRecord record = Record("{a} is long", fields);
    EXPECT_LE(LogPayload(LogFormat::kJson, record, room).size(), room);
    const nlohmann::json json = Json(record, room);
    EXPECT_EQ(json["fields"]["layer"], 3);
    const std::string a = json["fields"]["a"];
    EXPECT_THAT(a, EndsWith("\xc3\xa4..."));
  }
}

TEST(LogPayload, OfMoreFieldsThanThereIsRoomForTheEventIsLeft) {
  const std::string keys(300, 'k');
  std::vector<LogField> fields;
  for (size_t length = 1; length <= keys.size(); ++length)
    fields.emplace_back(std::string_view(keys).substr(0, length), "value");
  EXPECT_EQ(LogPayload(LogFormat::kText, Record("sentence", fields), 1000), "tested");
  const nlohmann::json json = Json(Record("sentence", fields), 1000);
  EXPECT_EQ(json["event"], "tested");
  EXPECT_EQ(json["fields"], nlohmann::json::object());
}

}  // namespace
}  // namespace omni
