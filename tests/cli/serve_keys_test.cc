// `omni serve` with keys and TLS, as its operator meets them: made, asked for, revoked and renewed while it
// runs.
#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "cluster/certificates.h"
#include "tests/cli/omni_fixture.h"
#include "tests/cluster/http/raw_client.h"
#include "tests/cluster/http/tls_client.h"
#include "tests/testing/node_process.h"

namespace omni::testing {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kAsk[] = R"({"prompt": "the sea", "max_tokens": 4, "temperature": 0})";

class ServeKeys : public OmniServerTest {
 protected:
  void Start(std::vector<std::string> more) {
    std::vector<std::string> arguments = {"-m", Model(), "--listen", "127.0.0.1:0", "-t", "1"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    static int number = 0;
    serve_ = std::make_unique<NodeProcess>(OMNI_PROGRAM, arguments,
                                           *dir_ / ("keys" + std::to_string(number++)), -1, "serve");
    address_ = serve_->WaitForAddress();
    ASSERT_NE(address_, "") << serve_->Log();
  }
  // {"key", "id", ...}; its parts may not be in any log.
  json MakeKey(const std::string& name, const std::string& scope, std::vector<std::string> more = {}) {
    more.insert(more.begin(), {"key", "create", "--name", name, "--scope", scope, "--json"});
    const json made = Json(Omni(more));
    std::ifstream file(made["file"].get<std::string>());
    for (const json& key : json::parse(file)["keys"]) secrets_.push_back(key["sha256"]);
    secrets_.push_back(made["key"].get<std::string>().substr(18));
    return made;
  }
  static std::string Bearer(const json& key) {
    return "Authorization: Bearer " + key["key"].get<std::string>() + "\r\n";
  }
  int Status(const std::string& request) {
    RawClient client(address_);
    client.Send(request);
    const auto answer = client.Read();
    return answer.has_value() ? answer->status : 0;
  }
  // What is heeded within a second may take longer on a busy machine.
  static bool Comes(const std::function<bool()>& true_soon) {
    const auto until = std::chrono::steady_clock::now() + std::chrono::minutes(1);
    while (std::chrono::steady_clock::now() < until) {
      if (true_soon()) return true;
    }
    return false;
  }
  void ExpectNoSecretIn(const std::string& text) {
    for (const std::string& secret : secrets_) EXPECT_THAT(text, Not(HasSubstr(secret)));
  }

  std::unique_ptr<NodeProcess> serve_;
  std::string address_;
  std::vector<std::string> secrets_;
};

TEST_F(ServeKeys, AreAskedForByBothDoorsAndHeededAsTheyChange) {
  const std::string file = *dir_ / "keys.json";
  const json infer = MakeKey("notebook", "infer", {"--keys", file, "--expires", "90d"});
  const json admin = MakeKey("operator", "admin", {"--keys", file});
  EXPECT_EQ(infer["file"], file);
  EXPECT_TRUE(infer["expires"].is_string());
  EXPECT_TRUE(admin["expires"].is_null());
  Start({"--keys", file, "--log-level", "debug"});
  EXPECT_EQ(Status(Get("/health")), 200);
  EXPECT_EQ(Status(Post("/v1/completions", kAsk)), 401);
  EXPECT_EQ(Status(Post("/v1/completions", kAsk, Bearer(infer))), 200);
  EXPECT_EQ(Status(Post("/v1/completions", kAsk, Bearer(admin))), 403);
  EXPECT_EQ(Status(Get("/metrics", Bearer(infer))), 403);
  EXPECT_EQ(Status(Get("/metrics", Bearer(admin))), 200);

  const std::string grpc = serve_->WaitForGrpcAddress();
  const std::vector<std::string> run = {"run", "the sea", "-n",        "4", "--temp",
                                        "0",   "--json",  "--cluster", grpc};
  const Output without = Omni(run);
  EXPECT_EQ(without.exit_code, 1);
  EXPECT_THAT(without.err, HasSubstr("this server wants a key"));
  ProcessOptions with;
  with.env = {{"OMNI_CLUSTER_KEY", infer["key"].get<std::string>()}};
  EXPECT_EQ(Json(Omni(run, with))["tokens"],
            Json(Run({"the sea", "-n", "4", "--temp", "0", "--json"}))["tokens"]);
  const std::vector<std::string> status = {"cluster", "status", "--json", "--cluster", grpc};
  EXPECT_THAT(Omni(status, with).err, HasSubstr("admin is needed"));
  with.env = {{"OMNI_CLUSTER_KEY", admin["key"].get<std::string>()}};
  EXPECT_EQ(Json(Omni(status, with))["nodes"].size(), 1u);

  const json later = MakeKey("later", "infer", {"--keys", file});
  EXPECT_TRUE(Comes([&] { return Status(Get("/props", Bearer(later))) == 200; }));
  EXPECT_EQ(Json(Omni({"key", "list", "--keys", file, "--json"}))["keys"].size(), 3u);
  EXPECT_EQ(Omni({"key", "revoke", infer["id"], "--keys", file}).exit_code, 0);
  EXPECT_TRUE(Comes([&] { return Status(Get("/props", Bearer(infer))) == 401; }));
  EXPECT_EQ(Status(Get("/props", Bearer(later))), 200);
  EXPECT_EQ(serve_->Interrupt(), 0);
  const std::string log = serve_->Log();
  EXPECT_THAT(log, HasSubstr("callers need a key of " + file));
  EXPECT_THAT(log, HasSubstr("was read again: 3 keys"));
  ExpectNoSecretIn(log);
}

TEST_F(ServeKeys, ANodeWantsThemToo) {
  const std::string file = *dir_ / "node-keys.json";
  const json infer = MakeKey("notebook", "infer", {"--keys", file});
  NodeProcess node(
      OMNI_PROGRAM,
      {"-m", Model(), "--listen", "127.0.0.1:0", "--state", *dir_ / "node-state", "-t", "1", "--keys", file},
      *dir_ / "node.log");
  const std::string address = node.WaitForAddress();
  ASSERT_NE(address, "") << node.Log();
  const std::vector<std::string> run = {"run", "the sea", "-n", "4", "--json", "--cluster", address};
  EXPECT_THAT(Omni(run).err, HasSubstr("this server wants a key"));
  ProcessOptions with;
  with.env = {{"OMNI_CLUSTER_KEY", infer["key"].get<std::string>()}};
  EXPECT_EQ(Json(Omni(run, with))["generated_tokens"], 4);
  const Output plain =
      Omni({"node", "-m", Model(), "--listen", "0.0.0.0:0", "--allow-plain", "--keys", file});
  EXPECT_NE(plain.exit_code, 0);
  EXPECT_THAT(plain.err, HasSubstr("keys would go over it in the clear"));
}

TEST_F(ServeKeys, AreThoseOfTheUsualFileWhereNothingElseIsSaid) {
  const json made = MakeKey("notebook", "infer");
  EXPECT_EQ(made["file"], State() + "/omni/keys.json");
  Start({});
  EXPECT_EQ(Status(Get("/props")), 401);
  EXPECT_EQ(Status(Get("/props", Bearer(made))), 200);
  Start({"--keys", "none"});
  EXPECT_EQ(Status(Get("/props")), 200);
  fs::remove(made["file"].get<std::string>());
  Start({});
  EXPECT_EQ(Status(Get("/props")), 200);
}

// Nobody finds the door open since its keys could not be found.
TEST_F(ServeKeys, WhereTheUsualFileCannotBeReadItDoesNotStart) {
  const auto serve = [&](const std::string& state) {
    ProcessOptions options;
    options.env = {{"XDG_STATE_HOME", state}};
    return Omni({"serve", "-m", Model(), "--listen", "127.0.0.1:0", "--state", *dir_ / "kept"}, options);
  };
  const std::string circle = *dir_ / "circle", nowhere = *dir_ / "nowhere";
  fs::create_directories(circle);
  fs::create_symlink("omni", circle + "/omni");  // no permission keeps root out, a circle does
  ExpectOneLine(serve(circle), 1, circle + "/omni/keys.json: cannot be looked for");
  fs::create_directories(nowhere + "/omni");
  fs::create_symlink("gone", nowhere + "/omni/keys.json");
  ExpectOneLine(serve(nowhere), 1, nowhere + "/omni/keys.json");
}

TEST_F(ServeKeys, BothDoorsSpeakTlsAndARenewedCertificateIsTaken) {
  const std::string folder = *dir_ / "tls", file = *dir_ / "tls-keys.json";
  ASSERT_TRUE(MakeAuthority(folder + "-ca").ok());
  for (const char* name : {"first", "second"})
    ASSERT_TRUE(MakeNodeCertificate(folder + "-ca", name, {"127.0.0.1"}, folder + "-" + name).ok());
  const auto use = [&](const std::string& name) {
    for (const char* pem : {"node.pem", "node.key"}) {
      fs::copy_file(folder + "-" + name + "/" + pem, *dir_ / "new", fs::copy_options::overwrite_existing);
      fs::rename(*dir_ / "new", *dir_ / pem);
    }
  };
  use("first");
  const json key = MakeKey("notebook", "infer", {"--keys", file});
  Start({"--keys", file, "--tls-cert", *dir_ / "node.pem", "--tls-key", *dir_ / "node.key"});
  {
    TlsClient client(address_);
    ASSERT_TRUE(client.connected());
    EXPECT_EQ(client.server(), "first");
    client.Send(Post("/v1/completions", kAsk, Bearer(key)) + Get("/props"));
    EXPECT_EQ(client.Read()->status, 200);
    EXPECT_EQ(client.Read()->status, 401);
    const TlsClient grpc(serve_->WaitForGrpcAddress(), {.authority = "", .version = 0, .protocols = {"h2"}});
    EXPECT_TRUE(grpc.connected());
    EXPECT_EQ(grpc.server(), "first");
  }
  use("second");
  EXPECT_TRUE(Comes([&] { return TlsClient(address_).server() == "second"; }));
  EXPECT_TRUE(Comes([&] {
    const TlsClientOptions h2{.authority = "", .version = 0, .protocols = {"h2"}};
    return TlsClient(serve_->WaitForGrpcAddress(), h2).server() == "second";
  }));
  EXPECT_EQ(serve_->Interrupt(), 0) << serve_->Log();
  ExpectNoSecretIn(serve_->Log());
}

TEST_F(ServeKeys, WhatIsMissingIsSaid) {
  const auto serve = [&](std::vector<std::string> more) {
    more.insert(more.begin(), {"serve", "-m", Model()});
    return Omni(more);
  };
  const std::string file = *dir_ / "some-keys.json";
  MakeKey("n", "infer", {"--keys", file});
  ExpectOneLine(serve({"--listen", "0.0.0.0:0"}), 2, "both are missing");
  ExpectOneLine(serve({"--listen", "0.0.0.0:0", "--keys", file}), 2, "TLS is missing");
  ExpectOneLine(serve({"--listen", "0.0.0.0:0", "--tls-cert", "a", "--tls-key", "b"}), 2, "keys are missing");
  ExpectOneLine(serve({"--tls-cert", "a"}), 2, "--tls-cert and --tls-key go together");
  ExpectOneLine(serve({"--tls-cert", *dir_ / "none.pem", "--tls-key", "b"}), 1, "none.pem");
  ExpectOneLine(serve({"--cors-origin", "chat.example"}), 2, "is no origin");
  ExpectOneLine(serve({"--keys", *dir_ / "none.json"}), 1, "omni key create makes one");
}

TEST_F(ServeKeys, AreMadeListedAndRevoked) {
  const std::string file = *dir_ / "folder/mine.json";
  const Output made = Omni({"key", "create", "--name", "a", "--scope", "infer,admin", "--keys", file});
  EXPECT_EQ(made.exit_code, 0) << made.err;
  EXPECT_THAT(made.out, ::testing::MatchesRegex("omni_[0-9a-f]{12}_[0-9a-f]{64}\n"));
  EXPECT_THAT(made.err, HasSubstr("it is shown this once"));
  const std::string id = made.out.substr(5, 12);
  const Output list = Omni({"key", "list", "--keys", file});
  EXPECT_THAT(list.out, HasSubstr(id));
  EXPECT_THAT(list.out, HasSubstr("infer,admin"));
  EXPECT_THAT(list.out, HasSubstr("never"));
  const json listed = Json(Omni({"key", "list", "--keys", file, "--json"}))["keys"][0];
  EXPECT_FALSE(listed.contains("sha256"));
  EXPECT_EQ(listed["expired"], false);
  EXPECT_EQ(Omni({"key", "revoke", id, "--keys", file}).out, "revoked " + id + " of a\n");
  ExpectOneLine(Omni({"key", "revoke", id, "--keys", file}), 1, "has no key with the id");
  ExpectOneLine(Omni({"key", "create", "--name", "a", "--keys", file}), 2, "wants --name");
  ExpectOneLine(Omni({"key", "create", "--name", "a", "--scope", "all", "--keys", file}), 2, "is no scope");
  ExpectOneLine(Omni({"key", "create", "--name", "a b", "--scope", "infer", "--keys", file}), 2,
                "is no name");
  ExpectOneLine(Omni({"key", "list", "--name", "a", "--keys", file}), 2, "--name does nothing");
  ExpectOneLine(Omni({"key", "list", id, "--keys", file}), 2, "takes no further word");
  ExpectOneLine(Omni({"key", "revoke", "--keys", file}), 2, "wants the key's ID");
  ExpectOneLine(Omni({"key", "forget"}), 2, "knows create, list and revoke");
  for (const auto& words : std::vector<std::vector<std::string>>{
           {"create", "--name", "a", "--scope", "infer"}, {"list"}, {"revoke", id}}) {
    std::vector<std::string> key = {"key"};
    key.insert(key.end(), words.begin(), words.end());
    key.insert(key.end(), {"--keys", "none"});
    ExpectOneLine(Omni(key), 2, "--keys none is omni serve's word for no keys");
  }
  ExpectOneLine(Omni({"key", "list", "--keys", file + "x"}), 1, "omni key create makes one");
}

}  // namespace
}  // namespace omni::testing
