// The Agent2Agent protocol's routes, for a test that asks them over HTTP.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <absl/strings/str_cat.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/cluster/http/raw_client.h"
#include "tests/cluster/tasks/a2a_server.h"

namespace omni::testing {

using nlohmann::json;

class A2aDoorTest : public ::testing::Test {
 protected:
  void Begin(const std::shared_ptr<Access>& access = nullptr, A2aOptions options = {}, PushConfig push = {}) {
    server_ = std::make_unique<A2aServer>(access, std::move(options), std::move(push));
  }
  std::string Head(const std::string& method, const std::string& path) const {
    return absl::StrCat(method, " ", path, " HTTP/1.1\r\nHost: ", server_->address(), "\r\n", headers_);
  }
  std::string Request(const std::string& method, const std::string& path,
                      const std::string& body = "") const {
    return absl::StrCat(Head(method, path), "Content-Type: application/json\r\nContent-Length: ", body.size(),
                        "\r\n\r\n", body);
  }
  RawAnswer Raw(const std::string& method, const std::string& path, const std::string& body = "") {
    RawClient client(server_->address());
    client.Send(Request(method, path, body));
    return client.Read().value_or(RawAnswer());
  }
  json Ask(const std::string& method, const std::string& path, const json& body = nullptr) {
    const RawAnswer answer = Raw(method, path, body.is_null() ? "" : body.dump());
    status_ = answer.status;
    return json::parse(answer.body, nullptr, false);
  }
  json Rpc(const std::string& method, const json& params) {
    const json answer =
        Ask("POST", "/a2a", {{"jsonrpc", "2.0"}, {"id", 7}, {"method", method}, {"params", params}});
    EXPECT_EQ(answer["id"], 7);
    return answer;
  }
  static json Message(const std::string& id, const std::string& text, bool at_once = true) {
    return {{"message", {{"messageId", id}, {"role", "ROLE_USER"}, {"parts", {{{"text", text}}}}}},
            {"configuration", {{"returnImmediately", at_once}}}};
  }
  std::string Submit(const std::string& id, const std::string& text = "sea") {
    return Ask("POST", "/a2a/message:send", Message(id, text))["task"].value("id", "");
  }
  void ExpectError(const json& answer, int status, const std::string& reason) {
    EXPECT_EQ(status_, status) << answer;
    const json detail = answer.value("/error/details/0"_json_pointer, json::object());
    EXPECT_EQ(detail.value("reason", ""), reason) << answer;
    EXPECT_EQ(detail.value("domain", ""), "a2a-protocol.org");
  }
  // The data of a stream of events, as it ends.
  static std::vector<json> Events(const RawAnswer& answer) {
    EXPECT_EQ(answer.headers.count("Content-Type") ? answer.headers.at("Content-Type") : "",
              "text/event-stream")
        << answer.body;
    std::vector<json> all;
    for (size_t at = 0; (at = answer.body.find("data: ", at)) != std::string::npos;) {
      const size_t end = answer.body.find("\n", at);
      all.push_back(json::parse(answer.body.substr(at + 6, end - at - 6), nullptr, false));
      at = end;
    }
    return all;
  }
  // Does what a text asks for, with its output in two pieces.
  void Do(const std::string& result = "ab") {
    const auto task = server_->Take();
    ASSERT_TRUE(task.has_value());
    ASSERT_TRUE(server_->Output(task->token, result.substr(0, 1)).ok());
    ASSERT_TRUE(server_->Output(task->token, result.substr(1)).ok());
    ASSERT_TRUE(server_->Succeed(task->token, result).ok());
  }

  std::unique_ptr<A2aServer> server_;
  std::string headers_;  // further ones
  int status_ = 0;       // of the last answer
};

}  // namespace omni::testing
