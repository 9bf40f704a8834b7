// `omni serve` within a budget of memory.
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "engine/around/context_stage.h"
#include "store/plan/memory_plan.h"
#include "tests/cli/omni_fixture.h"
#include "tests/cluster/http/raw_client.h"
#include "tests/testing/node_process.h"

namespace omni::testing {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

class ServeBudget : public OmniServerTest {};

// What acts around the token is admitted by what it takes, and planned for where the budget is larger than it
// must be.
TEST_F(ServeBudget, WithinABudgetThereIsMemoryForWhatActsAroundTheToken) {
  const std::string model = OMNI_SOURCE_DIR "/models/mini";
  const absl::StatusOr<SizedModel> sized = ReadSizes(model);
  ASSERT_TRUE(sized.ok()) << sized.status();
  const int64_t least = LeastBudget(sized->sizes, 1), state = sized->sizes.session_bytes;
  const int64_t contexts = SessionContexts::MostBytes(std::string("The sea").size() + 1 + 9);
  json look = {{"prompt", "The sea"}, {"max_tokens", 9}, {"temperature", 0}, {"model", "mini"}}, both;
  const json plain = look;
  look["perspectives"] = "near,every=1,use=average";
  both = look;
  both["context_memory"] = true;
  const auto run = [&](std::vector<std::string> flags) {
    flags.insert(flags.begin(), {"run", "The sea", "-m", model, "-n", "9", "--temp", "0", "--json"});
    return Json(Omni(flags))["text"].get<std::string>();
  };
  const std::string plain_text = run({}), look_text = run({"--perspectives", look["perspectives"]}),
                    both_text = run({"--perspectives", look["perspectives"], "--context-memory"});
  // Of each budget: what is answered, and what there is no room for, ever.
  const auto expect = [&](int64_t budget, const std::vector<std::pair<json, std::string>>& answered,
                          const std::vector<json>& refused) {
    NodeProcess serve(OMNI_PROGRAM,
                      {"-m", model, "--listen", "127.0.0.1:0", "-t", "1", "--ram", std::to_string(budget),
                       "--parallel", "8"},
                      *dir_ / ("budget" + std::to_string(budget)), -1, "serve");
    const std::string address = serve.WaitForAddress();
    ASSERT_NE(address, "") << serve.Log();
    RawClient client(address);
    const auto ask = [&](const json& request) {
      client.Send(Post("/v1/completions", request.dump()));
      return client.Read();
    };
    for (const auto& [request, text] : answered) {
      const auto answer = ask(request);
      ASSERT_TRUE(answer.has_value());
      ASSERT_EQ(answer->status, 200) << budget - least << " bytes more than the least: " << answer->body;
      EXPECT_EQ(json::parse(answer->body)["choices"][0]["text"], text);
    }
    for (const json& request : refused) {
      const auto answer = ask(request);
      ASSERT_TRUE(answer.has_value());
      EXPECT_NE(answer->status, 200) << budget - least << " bytes more than the least: " << request;
      EXPECT_THAT(answer->body, HasSubstr("a session's state takes"));
    }
    EXPECT_EQ(serve.Interrupt(), 0) << serve.Log();
  };
  // One state, then two, then two and the contexts.
  expect(least, {{plain, plain_text}}, {look, both});
  expect(least + 4 * state, {{plain, plain_text}, {look, look_text}}, {both});
  expect(least + 4 * (2 * state + contexts), {{look, look_text}, {both, both_text}}, {});
}

}  // namespace
}  // namespace omni::testing
