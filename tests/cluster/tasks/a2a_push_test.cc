// Push notifications over HTTP+JSON and JSON-RPC, 1.0 and 0.3: who is told, and what he is told.
#include <gmock/gmock.h>

#include "tests/cluster/tasks/a2a_door_fixture.h"
#include "tests/cluster/tasks/push_config.h"
#include "tests/cluster/tasks/push_receiver.h"

namespace omni::testing {
namespace {

using ::testing::ElementsAre;

class A2aPushTest : public A2aDoorTest {
 protected:
  void SetUp() override { Begin(nullptr, {}, PushesTo({receiver_.url("")})); }
  json Config(const std::string& id = "") const {
    json config = {{"url", receiver_.url("/hook")},
                   {"token", "mine"},
                   {"authentication", {{"scheme", "Bearer"}, {"credentials", "secret"}}}};
    if (!id.empty()) config["id"] = id;
    return config;
  }
  // What was told, as state and number.
  std::vector<std::string> Told(size_t count) {
    std::vector<std::string> told;
    for (const std::string& body : receiver_.Bodies(count)) {
      const json update = json::parse(body, nullptr, false)["statusUpdate"];
      told.push_back(absl::StrCat(update["status"].value("state", ""), " ",
                                  update["metadata"]["urn:omni:a2a:events:1"].value("sequence", 0)));
    }
    return told;
  }
  PushReceiver receiver_;
};

TEST_F(A2aPushTest, TheCardSaysThatTheyAreSent) {
  EXPECT_EQ(Ask("GET", "/.well-known/agent-card.json")["capabilities"]["pushNotifications"], true);
}

TEST_F(A2aPushTest, WhoIsNamedWithAMessageIsToldOfAllThatBecomesOfIt) {
  json message = Message("m", "sea");
  message["configuration"]["taskPushNotificationConfig"] = Config();
  const json task = Ask("POST", "/a2a/message:send", message)["task"];
  ASSERT_TRUE(task.contains("id")) << task;
  Do();
  EXPECT_THAT(Told(2), ElementsAre("TASK_STATE_WORKING 2", "TASK_STATE_COMPLETED 5"));
  const json update = json::parse(receiver_.Bodies(2)[1])["statusUpdate"];
  EXPECT_EQ(update["taskId"], task["id"]);
  EXPECT_EQ(update["metadata"]["urn:omni:a2a:events:1"]["attempt"], 1);
  const json begun = json::parse(receiver_.Bodies(2)[0])["statusUpdate"];
  EXPECT_EQ(begun["metadata"]["urn:omni:a2a:events:1"]["node"], "n1");
  EXPECT_EQ(HeaderOf(receiver_.Await(2)[0], "X-A2A-Notification-Token"), "mine");
  // The same message again is the same task, and nothing is told twice for it.
  EXPECT_EQ(Ask("POST", "/a2a/message:send", message)["task"]["id"], task["id"]);
  const json configs = Ask("GET", absl::StrCat("/a2a/tasks/", task["id"].get<std::string>(),
                                               "/pushNotificationConfigs"))["configs"];
  ASSERT_EQ(configs.size(), 1u);
  EXPECT_EQ(configs[0]["id"], task["id"]) << "without an id it is the task's";
}

TEST_F(A2aPushTest, TheyAreSetAskedForListedAndDeleted) {
  const std::string id = Submit("m"), path = absl::StrCat("/a2a/tasks/", id, "/pushNotificationConfigs");
  const json made = Ask("POST", path, Config("one"));
  EXPECT_EQ(made["taskId"], id) << made;
  EXPECT_EQ(made["id"], "one");
  EXPECT_EQ(made["authentication"]["credentials"], "secret");
  json two = Config("two");
  two["taskId"] = id;
  EXPECT_EQ(Rpc("CreateTaskPushNotificationConfig", two)["result"]["id"], "two");
  EXPECT_EQ(Ask("GET", path + "/two")["url"], receiver_.url("/hook"));
  EXPECT_EQ(Rpc("GetTaskPushNotificationConfig", {{"taskId", id}, {"id", "one"}})["result"]["token"], "mine");
  EXPECT_EQ(Ask("GET", path)["configs"].size(), 2u);
  EXPECT_EQ(Ask("DELETE", path + "/one"), json::object());
  EXPECT_EQ(status_, 200);
  EXPECT_EQ(Rpc("ListTaskPushNotificationConfigs", {{"taskId", id}})["result"]["configs"].size(), 1u);
  EXPECT_TRUE(Rpc("DeleteTaskPushNotificationConfig", {{"taskId", id}, {"id", "two"}}).contains("result"));
  EXPECT_EQ(Ask("GET", path)["configs"], json::array());
  ExpectError(Ask("GET", path + "/one"), 404, "TASK_NOT_FOUND");
  ExpectError(Ask("DELETE", path + "/one"), 404, "TASK_NOT_FOUND");
  ExpectError(Ask("POST", "/a2a/tasks/none/pushNotificationConfigs", Config()), 404, "TASK_NOT_FOUND");
  ExpectError(Ask("DELETE", path), 404, "METHOD_NOT_FOUND");
}

TEST_F(A2aPushTest, WhoMayNotBeToldIsRefusedBeforeThereIsATask) {
  json message = Message("m", "sea");
  json& config = message["configuration"]["taskPushNotificationConfig"] = Config();
  for (const char* url : {"http://127.0.0.1:1/hook", "https://hooks.example.com/", "nowhere", ""}) {
    config["url"] = url;
    ExpectError(Ask("POST", "/a2a/message:send", message), 400, "INVALID_PARAMS");
  }
  config = Config();
  config["token"] = "a\r\nX-Evil: b";
  ExpectError(Ask("POST", "/a2a/message:send", message), 400, "INVALID_PARAMS");
  config = Config();
  config["authentication"]["scheme"] = "Bearer secret\r\nX";
  ExpectError(Ask("POST", "/a2a/message:send", message), 400, "INVALID_PARAMS");
  for (const auto& [field, bytes] : {std::pair<const char*, int>{"id", 300}, {"token", 5000}}) {
    config = Config();
    config[field] = std::string(static_cast<size_t>(bytes), 'a');
    ExpectError(Ask("POST", "/a2a/message:send", message), 400, "INVALID_PARAMS");
  }
  EXPECT_EQ(Ask("GET", "/a2a/tasks")["totalSize"], 0);
}

TEST_F(A2aPushTest, OlderAgentsSetThemAsVersion03HasThem) {
  const json params = {{"message",
                        {{"kind", "message"},
                         {"messageId", "m"},
                         {"role", "user"},
                         {"parts", {{{"kind", "text"}, {"text", "sea"}}}}}},
                       {"configuration",
                        {{"blocking", false},
                         {"pushNotificationConfig",
                          {{"url", receiver_.url("/old")},
                           {"token", "mine"},
                           {"authentication", {{"schemes", {"Basic"}}, {"credentials", "YTpi"}}}}}}}};
  const json task = Rpc("message/send", params)["result"];
  ASSERT_TRUE(task.contains("id")) << task;
  const std::string id = task["id"];
  const json set =
      Rpc("tasks/pushNotificationConfig/set",
          {{"taskId", id}, {"pushNotificationConfig", {{"id", "two"}, {"url", receiver_.url()}}}});
  EXPECT_EQ(set["result"]["pushNotificationConfig"]["id"], "two") << set;
  const json first = Rpc("tasks/pushNotificationConfig/get", {{"id", id}})["result"];
  EXPECT_EQ(first["pushNotificationConfig"]["authentication"]["schemes"], json::array({"Basic"}));
  EXPECT_EQ(Rpc("tasks/pushNotificationConfig/list", {{"id", id}})["result"].size(), 2u);
  const json deleted =
      Rpc("tasks/pushNotificationConfig/delete", {{"id", id}, {"pushNotificationConfigId", "two"}});
  ASSERT_TRUE(deleted.contains("result")) << deleted;
  EXPECT_TRUE(deleted["result"].is_null());
  Do();
  EXPECT_THAT(Told(2), ElementsAre("TASK_STATE_WORKING 2", "TASK_STATE_COMPLETED 5"));
  EXPECT_EQ(HeaderOf(receiver_.Await(2)[0], "Authorization"), "Basic YTpi");
  EXPECT_TRUE(receiver_.Await(2)[0].starts_with("POST /old "));
}

}  // namespace
}  // namespace omni::testing
