#include "cluster/tasks/a2a_door.h"

#include <chrono>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <absl/strings/str_cat.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "cluster/tasks/a2a_card.h"
#include "tests/cluster/http/raw_client.h"
#include "tests/cluster/tasks/a2a_door_fixture.h"

namespace omni::testing {
namespace {

TEST_F(A2aDoorTest, TheCardSaysWhatIsOffered) {
  Begin();
  const json card = Ask("GET", "/.well-known/agent-card.json");
  EXPECT_EQ(card["supportedInterfaces"][0], (json{{"url", "http://" + server_->address() + "/a2a"},
                                                  {"protocolBinding", "JSONRPC"},
                                                  {"protocolVersion", "1.0"}}));
  EXPECT_EQ(card["supportedInterfaces"][1]["protocolBinding"], "HTTP+JSON");
  EXPECT_EQ(card["capabilities"]["streaming"], true);
  EXPECT_EQ(card["capabilities"]["pushNotifications"], false);
  EXPECT_EQ(card["skills"][0]["id"], "command/list");
  EXPECT_EQ(card["skills"][1]["id"], "model");
  EXPECT_FALSE(card.contains("securityRequirements"));
}

TEST_F(A2aDoorTest, TheCardNamesGrpcOnlyWhereItCanBeReached) {
  std::string address;
  A2aOptions options;
  options.grpc = [&address] { return address; };
  Begin(nullptr, std::move(options));
  const auto shown = [&](const std::string& listens) {
    address = listens;
    const json card = Ask("GET", "/.well-known/agent-card.json");
    const json& all = card["supportedInterfaces"];
    return all.size() == 3 ? all[2].value("url", "") : "";
  };
  const std::string host = server_->address().substr(0, server_->address().rfind(':'));
  EXPECT_EQ(shown("0.0.0.0:8081"), host + ":8081") << "every address is no address";
  EXPECT_EQ(shown("[::]:8081"), host + ":8081");
  EXPECT_EQ(shown("omni.example:8081"), "omni.example:8081");
  EXPECT_EQ(shown("127.0.0.1:8081"), "127.0.0.1:8081") << "asked from this machine";
  A2aOptions far;
  far.grpc = [] { return "127.0.0.1:8081"; };
  EXPECT_EQ(MakeA2aCard(far, "https://omni.example:8443").supported_interfaces_size(), 2);
  EXPECT_EQ(MakeA2aCard(far, "http://[::1]:80").supported_interfaces_size(), 3);
}

TEST_F(A2aDoorTest, AMessageWaitsForTheEndUnlessItNeedNot) {
  Begin();
  RawClient client(server_->address());
  client.Send(Request("POST", "/a2a/message:send", Message("m1", "sea", false).dump()));
  Do();
  const json done = json::parse(client.Read().value_or(RawAnswer()).body, nullptr, false)["task"];
  EXPECT_EQ(done["status"]["state"], "TASK_STATE_COMPLETED") << done;
  EXPECT_EQ(done["artifacts"][0]["parts"][0]["text"], "ab");
  EXPECT_EQ(done["history"][0]["messageId"], "m1");
  EXPECT_EQ(done["history"][0]["parts"][0]["text"], "sea");
  EXPECT_FALSE(done.contains("metadata"));
  const json at_once = Ask("POST", "/a2a/message:send", Message("m2", "sea"))["task"];
  EXPECT_EQ(at_once["status"]["state"], "TASK_STATE_SUBMITTED") << at_once;
  EXPECT_TRUE(at_once["status"].contains("timestamp"));
}

TEST_F(A2aDoorTest, TheSameMessageIsTheSameTaskAndItsIdNoOthers) {
  Begin();
  const std::string id = Submit("m");
  EXPECT_EQ(Submit("m"), id);
  ExpectError(Ask("POST", "/a2a/message:send", Message("m", "other")), 400, "INVALID_PARAMS");
}

TEST_F(A2aDoorTest, AStreamBeginsWithTheTaskAndClosesWithItsEnd) {
  Begin();
  headers_ = "A2A-Extensions: urn:omni:a2a:events:1\r\n";
  RawClient client(server_->address());
  client.Send(Request("POST", "/a2a/message:stream", Message("m", "sea").dump()));
  ASSERT_TRUE(client.ReadUntil("TASK_STATE_SUBMITTED"));
  Do("a\xC3\xA4");
  const RawAnswer answer = client.Read().value_or(RawAnswer());
  EXPECT_EQ(answer.headers.at("A2A-Extensions"), "urn:omni:a2a:events:1");
  const std::vector<json> all = Events(answer);
  ASSERT_GE(all.size(), 4u);
  EXPECT_TRUE(all[0].contains("task"));
  std::string text;
  int64_t last = 0;
  for (size_t i = 1; i < all.size(); ++i) {
    const json update = all[i].begin().value();
    const int64_t number = update["metadata"]["urn:omni:a2a:events:1"]["sequence"];
    EXPECT_GT(number, last);
    last = number;
    if (all[i].contains("artifactUpdate")) {
      EXPECT_EQ(update.value("append", false), !text.empty());
      text += update["artifact"]["parts"][0]["text"].get<std::string>();
    }
  }
  EXPECT_EQ(text, "a\xC3\xA4");
  EXPECT_EQ(all.back()["statusUpdate"]["status"]["state"], "TASK_STATE_COMPLETED");
}

TEST_F(A2aDoorTest, ASubscriptionGoesOnFromTheTaskAsItIs) {
  Begin();
  const std::string id = Submit("m");
  const auto task = server_->Take();
  ASSERT_TRUE(server_->Output(task->token, "a\xC3").ok());
  for (const char* method : {"GET", "POST"}) {  // the second is what some clients use
    SCOPED_TRACE(method);
    RawClient client(server_->address());
    client.Send(Request(method, absl::StrCat("/a2a/tasks/", id, ":subscribe")));
    ASSERT_TRUE(client.ReadUntil("\"text\":\"a\""));
  }
  RawClient client(server_->address());
  client.Send(Request("GET", absl::StrCat("/a2a/tasks/", id, ":subscribe")));
  ASSERT_TRUE(client.ReadUntil("\"text\":\"a\""));
  ASSERT_TRUE(server_->Output(task->token, "\xA4").ok());
  ASSERT_TRUE(server_->Succeed(task->token, "").ok());
  const std::vector<json> all = Events(client.Read().value_or(RawAnswer()));
  ASSERT_EQ(all.size(), 3u);
  EXPECT_EQ(all[0]["task"]["status"]["state"], "TASK_STATE_WORKING");
  EXPECT_EQ(all[1]["artifactUpdate"]["append"], true);
  EXPECT_EQ(all[1]["artifactUpdate"]["artifact"]["parts"][0]["text"], "\xC3\xA4");
  // Of one that is over there is nothing to come.
  ExpectError(Ask("GET", absl::StrCat("/a2a/tasks/", id, ":subscribe")), 400, "UNSUPPORTED_OPERATION");
}

TEST_F(A2aDoorTest, ATaskIsCancelledOnceAndTakesNoMessagesThen) {
  Begin();
  const std::string id = Submit("m");
  EXPECT_EQ(Ask("POST", absl::StrCat("/a2a/tasks/", id, ":cancel"))["status"]["state"],
            "TASK_STATE_CANCELED");
  ExpectError(Ask("POST", absl::StrCat("/a2a/tasks/", id, ":cancel")), 400, "TASK_NOT_CANCELABLE");
  json message = Message("m2", "more");
  message["message"]["taskId"] = id;
  ExpectError(Ask("POST", "/a2a/message:send", message), 400, "UNSUPPORTED_OPERATION");
  message["message"]["contextId"] = "other";
  ExpectError(Ask("POST", "/a2a/message:send", message), 400, "INVALID_PARAMS");
}

TEST_F(A2aDoorTest, AFailureSaysWhyAndWhatWasInvalidIsRejected) {
  Begin();
  const std::string id = Submit("m");
  ASSERT_TRUE(server_->Fail(server_->Take()->token, kErrorInvalid, "no such model").ok());
  const json task = Ask("GET", absl::StrCat("/a2a/tasks/", id));
  EXPECT_EQ(task["status"]["state"], "TASK_STATE_REJECTED");
  EXPECT_EQ(task["status"]["message"]["parts"][0]["text"], "invalid: no such model");
}

TEST_F(A2aDoorTest, TasksAreListedTheLatestFirstInPages) {
  Begin();
  std::set<std::string> made, seen;
  for (int i = 0; i < 5; ++i) made.insert(Submit(absl::StrCat("m", i)));
  Do();
  std::string token, before = "9";
  int pages = 0;
  do {
    const json page = Ask("GET", absl::StrCat("/a2a/tasks?pageSize=2&pageToken=", token));
    ASSERT_EQ(status_, 200) << page;
    EXPECT_EQ(page["totalSize"], 5);
    EXPECT_EQ(page["pageSize"], 2);
    for (const json& task : page["tasks"]) {
      EXPECT_FALSE(task.contains("artifacts"));
      EXPECT_LE(task["status"]["timestamp"].get<std::string>(), before);
      before = task["status"]["timestamp"];
      seen.insert(task["id"].get<std::string>());
    }
    ASSERT_TRUE(page.contains("nextPageToken"));
    token = page["nextPageToken"];
  } while (!token.empty() && ++pages < 10);
  EXPECT_EQ(seen, made);
  const json done = Ask("GET", "/a2a/tasks?status=TASK_STATE_COMPLETED&includeArtifacts=true");
  ASSERT_EQ(done["tasks"].size(), 1u) << done;
  EXPECT_EQ(done["tasks"][0]["artifacts"][0]["parts"][0]["text"], "ab");
  EXPECT_EQ(done["nextPageToken"], "");
  EXPECT_EQ(Ask("GET", "/a2a/tasks?contextId=context-m3")["totalSize"], 1);
  for (const char* query : {"pageSize=0", "pageSize=101", "pageSize=x", "pageToken=x", "historyLength=-1",
                            "status=TASK_STATE_AUTH_REQUIRED", "pageSize=1&pageSize=2"}) {
    ExpectError(Ask("GET", absl::StrCat("/a2a/tasks?", query)), 400, "INVALID_PARAMS");
  }
}

TEST_F(A2aDoorTest, AnothersTaskIsNone) {
  const TempDir temp = TempDir::InMemory();
  std::map<std::string, std::string> keys;
  const auto now = std::chrono::floor<std::chrono::seconds>(std::chrono::system_clock::now());
  for (const char* name : {"one", "two"}) {
    keys[name] = CreateKey(temp / "keys.json", name, Scopes({Scope::kTasks}), std::nullopt, now).value().key;
  }
  keys["other"] =
      CreateKey(temp / "keys.json", "other", Scopes({Scope::kInfer}), std::nullopt, now).value().key;
  Begin(std::shared_ptr<Access>(Access::Open(temp / "keys.json").value()));
  const auto be = [&](const std::string& name) {
    headers_ = absl::StrCat("Authorization: Bearer ", keys[name], "\r\n");
  };
  EXPECT_EQ(Ask("GET", "/.well-known/agent-card.json")["securitySchemes"]["key"]["httpAuthSecurityScheme"],
            (json{{"scheme", "Bearer"}}));
  EXPECT_EQ(Raw("GET", "/a2a/tasks").status, 401);
  be("other");
  EXPECT_EQ(Raw("GET", "/a2a/tasks").status, 403);
  be("one");
  const std::string id = Submit("m");
  EXPECT_EQ(Ask("GET", absl::StrCat("/a2a/tasks/", id))["id"], id);
  be("two");
  EXPECT_NE(Submit("m"), id);
  ExpectError(Ask("GET", absl::StrCat("/a2a/tasks/", id)), 404, "TASK_NOT_FOUND");
  ExpectError(Ask("POST", absl::StrCat("/a2a/tasks/", id, ":cancel")), 404, "TASK_NOT_FOUND");
  ExpectError(Ask("GET", absl::StrCat("/a2a/tasks/", id, ":subscribe")), 404, "TASK_NOT_FOUND");
  json message = Message("m2", "more");
  message["message"]["taskId"] = id;
  ExpectError(Ask("POST", "/a2a/message:send", message), 404, "TASK_NOT_FOUND");
  EXPECT_EQ(Ask("GET", "/a2a/tasks")["totalSize"], 1);
}

TEST_F(A2aDoorTest, WhatIsNotHereIsSaid) {
  Begin();
  ExpectError(Ask("GET", "/a2a/tasks/t/pushNotificationConfigs"), 400, "PUSH_NOTIFICATION_NOT_SUPPORTED");
  ExpectError(Ask("DELETE", "/a2a/tasks/t/pushNotificationConfigs/c"), 400,
              "PUSH_NOTIFICATION_NOT_SUPPORTED");
  ExpectError(Ask("GET", "/a2a/extendedAgentCard"), 400, "EXTENDED_AGENT_CARD_NOT_CONFIGURED");
  ExpectError(Ask("DELETE", "/a2a/tasks/t"), 404, "METHOD_NOT_FOUND");
  ExpectError(Ask("POST", "/a2a/message:send", "text"), 400, "INVALID_PARAMS");
  headers_ = "A2A-Version: 2.0\r\n";
  ExpectError(Ask("GET", "/a2a/tasks"), 400, "VERSION_NOT_SUPPORTED");
  headers_ = "";
  RawClient client(server_->address());
  client.Send(absl::StrCat(Head("POST", "/a2a/message:send"), "Content-Type: text/plain\r\n",
                           "Content-Length: 2\r\n\r\n{}"));
  EXPECT_EQ(client.Read().value_or(RawAnswer()).status, 400);
}

TEST_F(A2aDoorTest, JsonRpcSaysTheSame) {
  Begin();
  const json sent = Rpc("SendMessage", Message("m", "sea"));
  const std::string id = sent["result"]["task"]["id"];
  EXPECT_EQ(Rpc("GetTask", {{"id", id}})["result"]["id"], id);
  EXPECT_EQ(Rpc("ListTasks", json::object())["result"]["totalSize"], 1);
  RawClient client(server_->address());
  client.Send(Request(
      "POST", "/a2a",
      json{{"jsonrpc", "2.0"}, {"id", "s"}, {"method", "SubscribeToTask"}, {"params", {{"id", id}}}}.dump()));
  ASSERT_TRUE(client.ReadUntil("TASK_STATE_SUBMITTED"));
  EXPECT_EQ(Rpc("CancelTask", {{"id", id}})["result"]["status"]["state"], "TASK_STATE_CANCELED");
  const std::vector<json> all = Events(client.Read().value_or(RawAnswer()));
  ASSERT_GE(all.size(), 2u);
  EXPECT_EQ(all.back()["id"], "s");
  EXPECT_EQ(all.back()["result"]["statusUpdate"]["status"]["state"], "TASK_STATE_CANCELED");

  const auto code = [&](const std::string& method, const json& params) {
    return Rpc(method, params)["error"]["code"];
  };
  EXPECT_EQ(code("GetTask", {{"id", "none"}}), -32001);
  EXPECT_EQ(code("CancelTask", {{"id", id}}), -32002);
  EXPECT_EQ(code("GetTaskPushNotificationConfig", json::object()), -32003);
  EXPECT_EQ(code("SubscribeToTask", {{"id", id}}), -32004);
  EXPECT_EQ(code("GetExtendedAgentCard", json::object()), -32007);
  EXPECT_EQ(code("Fly", json::object()), -32601);
  EXPECT_EQ(code("GetTask", 1), -32602);
  EXPECT_EQ(Rpc("GetTask", {{"id", "none"}})["error"]["data"][0]["reason"], "TASK_NOT_FOUND");
  EXPECT_EQ(json::parse(Raw("POST", "/a2a", "{").body)["error"]["code"], -32700);
  EXPECT_EQ(Ask("POST", "/a2a", json::array())["error"]["code"], -32600);
  EXPECT_EQ(Ask("POST", "/a2a", {{"jsonrpc", "2.0"}, {"method", "GetTask"}})["error"]["code"], -32600);
}

TEST_F(A2aDoorTest, OlderAgentsSendMessagesAsVersion03HasThem) {
  Begin();
  const json params = {{"message",
                        {{"kind", "message"},
                         {"messageId", "m"},
                         {"role", "user"},
                         {"parts", {{{"kind", "text"}, {"text", "sea"}}}}}}};
  RawClient client(server_->address());
  client.Send(
      Request("POST", "/a2a",
              json{{"jsonrpc", "2.0"}, {"id", 1}, {"method", "message/send"}, {"params", params}}.dump()));
  Do();
  const json task = json::parse(client.Read().value_or(RawAnswer()).body, nullptr, false)["result"];
  EXPECT_EQ(task["kind"], "task") << task;
  EXPECT_EQ(task["status"]["state"], "completed");
  EXPECT_EQ(task["artifacts"][0]["parts"][0], (json{{"kind", "text"}, {"text", "ab"}}));
  EXPECT_EQ(task["history"][0]["role"], "user");
  EXPECT_EQ(Rpc("tasks/get", {{"id", task["id"]}})["result"]["kind"], "task");
  EXPECT_EQ(Rpc("tasks/cancel", {{"id", task["id"]}})["error"]["code"], -32002);
  headers_ = "A2A-Version: 1.0\r\n";
  EXPECT_EQ(Rpc("message/send", params)["error"]["code"], -32009);
}

TEST_F(A2aDoorTest, WhoeverWaitsIsToldWhenTheServerStops) {
  Begin();
  RawClient stream(server_->address()), send(server_->address());
  stream.Send(Request("POST", "/a2a/message:stream", Message("m1", "sea").dump()));
  ASSERT_TRUE(stream.ReadUntil("TASK_STATE_SUBMITTED"));
  send.Send(Request("POST", "/a2a/message:send", Message("m2", "sea", false).dump()));
  server_->door().EndAll(absl::UnavailableError("the server is shutting down"));
  const RawAnswer ended = stream.Read().value_or(RawAnswer());
  EXPECT_THAT(ended.body, ::testing::HasSubstr("event: error\ndata: "));
  EXPECT_THAT(ended.body, ::testing::HasSubstr("\"reason\":\"UNAVAILABLE\""));
  EXPECT_EQ(send.Read().value_or(RawAnswer()).status, 503);
  EXPECT_EQ(Raw("GET", "/a2a/tasks").status, 503);
}

TEST_F(A2aDoorTest, MoreCallsThanMayWaitAreRefused) {
  A2aOptions options;
  options.most_calls = 1;
  Begin(nullptr, options);
  RawClient stream(server_->address());
  stream.Send(Request("POST", "/a2a/message:stream", Message("m1", "sea").dump()));
  ASSERT_TRUE(stream.ReadUntil("TASK_STATE_SUBMITTED"));
  EXPECT_EQ(server_->door().waiting(), 1);
  EXPECT_EQ(Raw("GET", "/a2a/tasks").status, 429);
  EXPECT_EQ(Raw("POST", "/a2a/message:stream", Message("m2", "sea").dump()).status, 429);
  stream.Close();
  const auto until = std::chrono::steady_clock::now() + std::chrono::minutes(1);
  while (server_->door().waiting() > 0 && std::chrono::steady_clock::now() < until) std::this_thread::yield();
  EXPECT_EQ(Raw("GET", "/a2a/tasks").status, 200);
}

}  // namespace
}  // namespace omni::testing
