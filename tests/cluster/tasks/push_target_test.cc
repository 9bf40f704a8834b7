// Where notifications may go: only where the file says, and by no name to where no stranger may.
#include "cluster/tasks/push_target.h"

#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/cluster/tasks/push_config.h"
#include "tests/testing/temp_dir.h"

namespace omni {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(PushTarget, OnlyWhatIsAllowedIsTold) {
  const PushConfig config = testing::PushesTo({"https://hooks.example.com/omni", "http://127.0.0.1:9000"});
  const auto told = [&](const std::string& url) { return CheckPushUrl(config, url).status().code(); };
  using absl::StatusCode;
  const absl::StatusOr<PushTarget> target = CheckPushUrl(config, "https://HOOKS.example.com/omni/a?b");
  EXPECT_FALSE(target.ok()) << "with a query";
  EXPECT_EQ(CheckPushUrl(config, "https://Hooks.example.com:443/omni/a/")->path, "/omni/a/");
  EXPECT_EQ(CheckPushUrl(config, "https://hooks.example.com/omni")->server, "https://hooks.example.com");
  EXPECT_EQ(told("http://127.0.0.1:9000/any/thing"), StatusCode::kOk);
  for (const char* url :
       {"http://hooks.example.com/omni", "https://hooks.example.com:8443/omni",
        "https://hooks.example.com/omni2", "https://hooks.example.com/",
        "https://hooks.example.com.evil.example/omni", "https://example.com/omni", "http://127.0.0.1/",
        "http://127.0.0.2:9000/", "http://localhost:9000/", "http://2130706433:9000/",
        "http://[::ffff:127.0.0.1]:9000/", "https://x.hooks.example.com/omni"}) {
    EXPECT_EQ(told(url), StatusCode::kPermissionDenied) << url;
  }
  for (const char* url :
       {"https://hooks.example.com/omni/../admin", "https://hooks.example.com/omni/%2E%2e/admin",
        "https://hooks.example.com/omni/.%2e%2fadmin", "https://hooks.example.com/omni\\..\\admin",
        "https://user@hooks.example.com/omni", "https://hooks.example.com@127.0.0.1:9000/omni",
        "https://hooks.example.com/omni#a", "ftp://hooks.example.com/omni", "hooks.example.com/omni", "",
        "https://hooks.example.com/omni\r\nX: y"}) {
    EXPECT_EQ(told(url), StatusCode::kInvalidArgument) << url;
  }
  EXPECT_EQ(CheckPushUrl({}, "https://a.example/").status().code(), StatusCode::kPermissionDenied);
}

TEST(PushTarget, AddressesOfNoStrangerAreNotPublic) {
  for (const char* address : {"127.0.0.1",
                              "127.255.255.255",
                              "0.0.0.0",
                              "10.1.2.3",
                              "100.64.0.1",
                              "100.127.255.255",
                              "169.254.169.254",
                              "172.16.0.1",
                              "172.31.255.255",
                              "192.168.1.1",
                              "192.0.0.8",
                              "192.0.2.1",
                              "198.18.0.1",
                              "198.19.255.255",
                              "198.51.100.1",
                              "203.0.113.9",
                              "224.0.0.1",
                              "239.1.1.1",
                              "240.0.0.1",
                              "255.255.255.255",
                              "::1",
                              "::",
                              "::ffff:127.0.0.1",
                              "::ffff:10.0.0.1",
                              "fc00::1",
                              "fd12::1",
                              "fe80::1",
                              "ff02::1",
                              "64:ff9b::7f00:1",
                              "2002:7f00:1::",
                              "2001::1",
                              "2001:db8::1",
                              "100::1",
                              "",
                              "nonsense"})
    EXPECT_FALSE(IsPublicAddress(address)) << address;
  for (const char* address : {"1.1.1.1", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0",
                              "172.15.0.1", "172.32.0.1", "192.167.1.1", "198.17.0.1", "198.20.0.1",
                              "223.255.255.255", "2606:4700::1111", "2a00::1", "::ffff:1.1.1.1"})
    EXPECT_TRUE(IsPublicAddress(address)) << address;
}

TEST(PushTarget, OfANamesAddressesThoseOfNoStrangerAreLeftOut) {
  std::vector<std::string> found = {"127.0.0.1", "1.1.1.1", "10.0.0.1", "2606:4700::1111"};
  const FindHost find = FindPublicHost([&](const std::string&) { return found; });
  EXPECT_THAT(*find("name"), ElementsAre("1.1.1.1", "2606:4700::1111"));
  found = {"169.254.169.254", "::1"};
  EXPECT_TRUE(absl::IsPermissionDenied(find("name").status()));
  EXPECT_TRUE(absl::IsPermissionDenied(FindPublicHost(nullptr)("localhost").status()));
}

TEST(PushTarget, ASignatureIsHmacOfTimeAndBody) {
  // printf '7.{}' | openssl dgst -sha256 -hmac key
  EXPECT_EQ(SignPush("key", "7", "{}"), "77bc83bd1f40422311e47918b203449aecf84b02c1568bb1b570ac2a474cc2d8");
  EXPECT_NE(SignPush("key", "8", "{}"), SignPush("key", "7", "{}"));
  EXPECT_NE(SignPush("Key", "7", "{}"), SignPush("key", "7", "{}"));
}

class PushConfigTest : public ::testing::Test {
 protected:
  std::string Error(const std::string& text) {
    std::ofstream(temp_ / "push.json") << text;
    const absl::StatusOr<PushConfig> config = LoadPushConfig(temp_ / "push.json");
    return config.ok() ? "" : std::string(config.status().message());
  }
  std::string With(const std::string& more) {
    return R"({"allow": ["https://a.example/x"], "key_file": ")" + (temp_ / "key") + "\"" + more + "}";
  }
  const testing::TempDir temp_ = testing::TempDir::InMemory();
};

TEST_F(PushConfigTest, IsReadWithItsKey) {
  std::ofstream(temp_ / "key") << "0123456789abcdef\n";
  std::ofstream(temp_ / "push.json") << With("");
  const absl::StatusOr<PushConfig> config = LoadPushConfig(temp_ / "push.json");
  ASSERT_TRUE(config.ok()) << config.status();
  ASSERT_EQ(config->allow.size(), 1u);
  EXPECT_EQ(config->allow[0].server.host, "a.example");
  EXPECT_EQ(config->allow[0].path, "/x");
  EXPECT_EQ(config->key, "0123456789abcdef");
}

TEST_F(PushConfigTest, ErrorsSayWhatIsWrong) {
  EXPECT_THAT(Error(With("")), HasSubstr("key"));
  std::ofstream(temp_ / "key") << "short";
  EXPECT_THAT(Error(With("")), HasSubstr("5 bytes, and needs 16"));
  std::ofstream(temp_ / "key") << "0123456789abcdef";
  EXPECT_EQ(Error(With("")), "");
  EXPECT_THAT(Error(With(R"(, "keys": 1)")), HasSubstr("'keys' is not known"));
  EXPECT_THAT(Error(With(R"(, "ca_file": "/nowhere.pem")")), HasSubstr("/nowhere.pem"));
  EXPECT_THAT(Error("{"), HasSubstr("push.json: the text is not JSON"));
  EXPECT_THAT(Error("[]"), HasSubstr("no JSON object"));
  EXPECT_THAT(Error(R"({"allow": []})"), HasSubstr("names nobody"));
  EXPECT_THAT(Error(R"({"allow": ["https://a.example"]})"), HasSubstr("'key_file' is missing"));
  EXPECT_THAT(Error(R"({"allow": ["a.example"]})"), HasSubstr("'allow': 'a.example' is no URL"));
  EXPECT_THAT(Error(R"({"allow": [7]})"), HasSubstr("'allow' is no list of URLs"));
  EXPECT_THAT(Error(R"({"allow": ["https://a.example/../x"]})"), HasSubstr("goes up"));
}

}  // namespace
}  // namespace omni
