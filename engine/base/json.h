// JSON from outside, and its text for the outside.
#pragma once

#include <cstddef>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <absl/strings/str_cat.h>
#include <nlohmann/json.hpp>

#include "engine/base/quoted.h"

namespace omni {

// No file of this project nests deeper; what clients send may. Copying, comparing and writing a value recurse
// with its depth.
inline constexpr size_t kMaxJsonDepth = 8;

// Looks at a text before a value is made of it: its nesting, and that no object has a key twice. (The
// parser's own callback could do it too, but then takes time that grows with the square of an object's size.)
class JsonInspector : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit JsonInspector(size_t max_depth = kMaxJsonDepth) : max_depth_(max_depth) {}

  // What is wrong, to be read after "the text"; empty if nothing was found.
  const std::string& problem() const { return problem_; }

  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_object(size_t) override { return Enter(); }
  bool start_array(size_t) override { return Enter(); }
  bool end_object() override { return Leave(); }
  bool end_array() override { return Leave(); }
  bool key(string_t& name) override {
    const auto [at, fresh] = keys_.back().insert(std::move(name));
    return fresh || Fail(absl::StrCat("has the key ", Quoted(*at), " twice"));
  }
  bool parse_error(size_t, const std::string&, const nlohmann::detail::exception&) override {
    return Fail("is not JSON");
  }

 private:
  bool Enter() {
    keys_.emplace_back();
    return keys_.size() <= max_depth_ || Fail(absl::StrCat("nests deeper than ", max_depth_, " levels"));
  }
  bool Leave() {
    keys_.pop_back();
    return true;
  }
  bool Fail(std::string problem) {
    problem_ = std::move(problem);
    return false;
  }

  const size_t max_depth_;
  std::vector<std::set<std::string>> keys_;  // of every open object; empty for a list
  std::string problem_;
};

// The value of a text of at most `max_depth` levels without a key twice in one object, in time and memory
// proportional to its length. Else InvalidArgument, whose message is to be read after "the text". Json:
// nlohmann::json or ordered_json.
template <typename Json>
absl::StatusOr<Json> ParseJson(std::string_view text, size_t max_depth = kMaxJsonDepth) {
  JsonInspector inspector(max_depth);
  if (!nlohmann::json::sax_parse(text, &inspector)) return absl::InvalidArgumentError(inspector.problem());
  return Json::parse(text, nullptr, /*allow_exceptions=*/false);
}

// The text of a value, on one line unless `indent` is 0 or more. Never throws: bytes that are not UTF-8, as
// file names may have, become U+FFFD, and numbers that are none become null. ascii: other characters are
// escaped.
template <typename Json>
std::string JsonText(const Json& json, int indent = -1, bool ascii = false) {
  return json.dump(indent, ' ', ascii, Json::error_handler_t::replace);
}

}  // namespace omni
