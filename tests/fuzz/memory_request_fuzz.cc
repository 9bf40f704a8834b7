// What clients of the memory say over HTTP: whatever bytes they are, something that can be remembered or
// asked, or an error that can be shown; and whatever was remembered, a text goes on with it or not at all.
#include "cluster/memory_request.h"

#include <optional>

#include "cluster/http/openai_answer.h"
#include "engine/around/recall.h"
#include "engine/around/text_memory.h"
#include "tests/fuzz/fuzz.h"

namespace omni::fuzz {

const int kRuns = 20000;

std::vector<std::string> Seeds() {
  return {R"({"scope":"s","key":"the captain's name","value":"Ahab"})",
          R"({"associations":[{"key":"a b","value":"c d"},{"key":"e","value":""}]})",
          R"({"key":"x","associations":[7]})",
          R"({"scope":"","key":"the captain's name","all":false})",
          R"({"scope":"s","all":true})",
          R"({"scope":7,"key":null})",
          R"({"key":"\u00e9t\u00e9 1 2 3 4 5 6 7 8 9 10 11 12 13","value":" x"})"};
}

namespace {

TextMemory Facts() {
  TextMemory memory;
  memory.Add(TextVector("the captain's name"), "Ahab");
  memory.Add(TextVector("a b"), " c d");
  memory.Add(TextVector("e"), "");
  return memory;
}

// Made before any input comes: it has megabytes of tables.
const TextMemory kFacts = Facts();

void RequireRefused(const absl::Status& status) {
  RequireReadable(status);
  Require(ErrorAnswer(status).status == 400, "what is wrong is the client's error");
}

}  // namespace
}  // namespace omni::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace omni;
  using namespace omni::fuzz;
  const std::string_view body = View(data, size);
  for (const auto& question : {ReadMemoryQuestion(body), ReadMemoryForgetting(body)}) {
    if (!question.ok()) RequireRefused(question.status());
  }
  if (const auto question = ReadMemoryQuestion(body); question.ok())
    Require(question->key.has_value() && !question->scope.empty(), "a question has a key and a scope");
  const absl::StatusOr<MemoryAddition> addition = ReadMemoryAddition(body);
  if (!addition.ok()) {
    RequireRefused(addition.status());
    return 0;
  }
  Require(!addition->associations.empty() && addition->associations.size() <= kMostAssociations,
          "some are added, and not too many");
  const Association& first = addition->associations.front();
  std::string text = first.key + first.value;
  // As often as a text may go on: it comes to its value's end.
  for (int i = 0; i < 3; ++i) {
    const std::optional<Recollection> more = Recall(kFacts, text);
    if (!more.has_value()) break;
    Require(!more->rest.empty() && more->rest.size() <= kMostRestBytes + 1, "a text goes on by something");
    text += more->rest;
  }
  return 0;
}
