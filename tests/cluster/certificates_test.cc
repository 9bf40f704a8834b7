#include "cluster/certificates.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <string>

#include <absl/strings/str_cat.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <omni/cluster/v1/admin.grpc.pb.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include "cluster/channel_credentials.h"
#include "cluster/explain_link.h"
#include "tests/testing/file_bytes.h"
#include "tests/testing/recording_log.h"
#include "tests/testing/temp_dir.h"

namespace omni {
namespace {

namespace fs = std::filesystem;
namespace v1 = cluster::v1;
using std::chrono::hours;
using std::chrono::system_clock;
using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::TempDir;

constexpr auto kTimeout = std::chrono::seconds(20);
constexpr auto kYear = hours(24 * 365);

std::string Text(const absl::Status& status) { return status.ToString(); }
absl::Status Code(absl::StatusCode code, const absl::Status& status) {
  EXPECT_EQ(status.code(), code) << status;
  return status;
}

class CertificatesTest : public ::testing::Test {
 protected:
  void MustAuthority(const std::string& dir, const CertificateOptions& options = {}) {
    const absl::Status made = MakeAuthority(temp_ / dir, options);
    ASSERT_TRUE(made.ok()) << made;
  }
  void MustNode(const std::string& authority, const std::string& node,
                const CertificateOptions& options = {}) {
    const absl::Status made = MakeNodeCertificate(
        temp_ / authority, node, {"127.0.0.1", "::1", "localhost", "node.example"}, temp_ / node, options);
    ASSERT_TRUE(made.ok()) << made;
  }
  // What loading the folder fails with.
  std::string LoadError(const std::string& dir, absl::StatusCode code,
                        system_clock::time_point now = system_clock::now()) {
    const auto loaded = LoadCredentials(temp_ / dir, now);
    EXPECT_EQ(loaded.status().code(), code) << loaded.status();
    return std::string(loaded.status().message());
  }
  static int ModeOf(const std::string& path) {
    struct stat info {};
    EXPECT_EQ(::stat(path.c_str(), &info), 0) << path;
    return static_cast<int>(info.st_mode & 0777);
  }
  TempDir temp_ = TempDir::InMemory();
};

TEST_F(CertificatesTest, AnAuthoritySignsANodesCertificate) {
  MustAuthority("ca");
  MustNode("ca", "box-1");
  EXPECT_EQ(ModeOf(temp_ / "ca/authority.key"), 0600);
  EXPECT_EQ(ModeOf(temp_ / "box-1/node.key"), 0600);
  EXPECT_FALSE(fs::exists(temp_ / "box-1/authority.key"));
  const auto loaded = LoadCredentials(temp_ / "box-1");
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(loaded->node, "box-1");
  const auto lasts = loaded->expires - system_clock::now();
  EXPECT_GT(lasts, 2 * kYear - hours(1));
  EXPECT_LE(lasts, 2 * kYear);
  EXPECT_THAT(loaded->key, HasSubstr("BEGIN PRIVATE KEY"));
  // No two have the same serial number or key.
  MustNode("ca", "box-2");
  const auto other = LoadCredentials(temp_ / "box-2");
  ASSERT_TRUE(other.ok());
  EXPECT_NE(other->key, loaded->key);
  EXPECT_EQ(other->authority, loaded->authority);
}

TEST_F(CertificatesTest, MayNameAnyNodeOfADomain) {
  MustAuthority("ca");
  EXPECT_TRUE(MakeNodeCertificate(temp_ / "ca", "all", {"*.nodes.omni.svc", "omni"}, temp_ / "all").ok());
  const auto loaded = LoadCredentials(temp_ / "all");
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const std::unique_ptr<BIO, decltype(&BIO_free)> pem(
      BIO_new_mem_buf(loaded->certificate.data(), static_cast<int>(loaded->certificate.size())), BIO_free);
  const std::unique_ptr<X509, decltype(&X509_free)> certificate(
      PEM_read_bio_X509(pem.get(), nullptr, nullptr, nullptr), X509_free);
  ASSERT_NE(certificate, nullptr);
  const auto fits = [&](const std::string& host) {
    return X509_check_host(certificate.get(), host.data(), host.size(), 0, nullptr) == 1;
  };
  EXPECT_TRUE(fits("worker-0.nodes.omni.svc"));
  EXPECT_TRUE(fits("omni"));
  EXPECT_FALSE(fits("nodes.omni.svc"));
  EXPECT_FALSE(fits("a.worker-0.nodes.omni.svc"));
  EXPECT_FALSE(fits("worker-0.others.omni.svc"));
}

TEST_F(CertificatesTest, NothingIsOverwritten) {
  MustAuthority("ca");
  MustNode("ca", "box");
  const auto key = testing::FileBytes(temp_ / "ca/authority.key"),
             node = testing::FileBytes(temp_ / "box/node.key");
  EXPECT_THAT(Text(MakeAuthority(temp_ / "ca")), HasSubstr(temp_ / "ca"));
  EXPECT_THAT(Text(MakeNodeCertificate(temp_ / "ca", "box", {"a"}, temp_ / "box")), HasSubstr(temp_ / "box"));
  EXPECT_EQ(testing::FileBytes(temp_ / "ca/authority.key"), key);
  EXPECT_EQ(testing::FileBytes(temp_ / "box/node.key"), node);
}

TEST_F(CertificatesTest, RefusesNamesThatAreNone) {
  MustAuthority("ca");
  const auto error = [&](const std::string& node, const std::vector<std::string>& hosts) {
    return Text(Code(absl::StatusCode::kInvalidArgument,
                     MakeNodeCertificate(temp_ / "ca", node, hosts, temp_ / "out")));
  };
  for (const std::string& node :
       {std::string(), std::string("a b"), std::string("a/b"), std::string(65, 'a')})
    EXPECT_THAT(error(node, {"host"}), HasSubstr("is no node's name"));
  for (const char* host : {"", "host:80", "a,DNS:b", "256.1.1.1", "1.2.3", "-x", "bücher", "http://x",
                           "[::1]", "*", "*.local", "a.*.example", "*.*.example", "*x.example", "*."})
    EXPECT_THAT(error("box", {"good", host}), HasSubstr("is neither a DNS name nor an IP address")) << host;
  EXPECT_THAT(error("box", {}), HasSubstr("hosts at which the node is reached"));
  EXPECT_FALSE(fs::exists(temp_ / "out"));
  EXPECT_THAT(Text(MakeAuthority(temp_ / "x", {.valid = hours(-1)})), HasSubstr("may be valid for"));
  EXPECT_THAT(Text(MakeNodeCertificate(temp_ / "none", "box", {"a"}, temp_ / "out")),
              AllOf(HasSubstr("none/authority.pem: is missing"), HasSubstr("make one")));
}

TEST_F(CertificatesTest, SaysWhatIsWrongWithAFolder) {
  MustAuthority("ca");
  MustAuthority("other-ca");
  MustNode("ca", "good");
  MustNode("ca", "second");
  MustNode("other-ca", "stranger");
  const auto with = [&](const std::string& name, const std::string& from) {
    fs::remove_all(temp_ / "x");
    fs::copy(temp_ / "good", temp_ / "x");
    fs::remove(temp_ / ("x/" + name));
    if (!from.empty()) fs::copy_file(temp_ / from, temp_ / ("x/" + name));
  };
  for (const char* name : {"authority.pem", "node.pem", "node.key"}) {
    with(name, "");
    EXPECT_THAT(LoadError("x", absl::StatusCode::kNotFound),
                AllOf(HasSubstr(absl::StrCat("x/", name, ": is missing")),
                      HasSubstr("with the cluster's authority")));
    std::ofstream(temp_ / absl::StrCat("x/", name)) << "-----BEGIN nothing-----\n";
    EXPECT_THAT(LoadError("x", absl::StatusCode::kInvalidArgument),
                HasSubstr(absl::StrCat("x/", name, ": is not a ")));
  }
  with("node.key", "second/node.key");
  EXPECT_THAT(LoadError("x", absl::StatusCode::kInvalidArgument),
              AllOf(HasSubstr("x/node.key: is not the key of"), HasSubstr("x/node.pem")));
  with("authority.pem", "stranger/authority.pem");
  EXPECT_THAT(LoadError("x", absl::StatusCode::kInvalidArgument),
              AllOf(HasSubstr("x/node.pem: was not signed by"), HasSubstr("from one authority")));
  with("authority.pem", "good/node.pem");
  EXPECT_THAT(LoadError("x", absl::StatusCode::kInvalidArgument), HasSubstr("was not signed by"));
}

TEST_F(CertificatesTest, SaysTheDatesOfWhatIsOverOrNotYetValid) {
  MustAuthority("ca", {.from = system_clock::from_time_t(1'700'000'000)});  // 2023-11-14 22:13:20
  MustNode("ca", "old", {.valid = hours(24), .from = system_clock::from_time_t(1'700'000'000)});
  EXPECT_THAT(
      LoadError("old", absl::StatusCode::kFailedPrecondition, system_clock::from_time_t(1'700'100'000)),
      AllOf(HasSubstr("old/node.pem: the certificate is over"),
            HasSubstr("from 2023-11-14 22:08:20 UTC until 2023-11-15 22:13:20 UTC"),
            HasSubstr("here it is 2023-11-16 02:00:00 UTC"), HasSubstr("make a new certificate")));
  EXPECT_THAT(
      LoadError("old", absl::StatusCode::kFailedPrecondition, system_clock::from_time_t(1'600'000'000)),
      AllOf(HasSubstr("authority.pem: the certificate is not valid yet"), HasSubstr("set the clocks")));
  EXPECT_TRUE(LoadCredentials(temp_ / "old", system_clock::from_time_t(1'700'010'000)).ok());
  EXPECT_THAT(
      LoadError("old", absl::StatusCode::kFailedPrecondition, system_clock::from_time_t(2'100'000'000)),
      AllOf(HasSubstr("authority.pem: the certificate is over"), HasSubstr("make a new authority")));
  EXPECT_THAT(Text(MakeNodeCertificate(temp_ / "ca", "late", {"a"}, temp_ / "late",
                                       {.from = system_clock::from_time_t(2'100'000'000)})),
              HasSubstr("the certificate is over"));
}

TEST(PlainLinks, AreForLoopbackUnlessTheyAreAllowed) {
  EXPECT_TRUE(CheckPlain("127.0.0.1:80", false).ok());
  const absl::Status refused = CheckPlain("10.0.0.1:80", false);
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Text(refused), HasSubstr("give this node a certificate"));
  EXPECT_TRUE(CheckPlain("10.0.0.1:80", true).ok());
}

TEST(PlainLinks, AreWarnedOfOffLoopback) {
  testing::RecordingLog log;
  EXPECT_TRUE(MakeServerCredentials(nullptr, "127.0.0.1:0", false).ok());
  EXPECT_TRUE(MakeChannelCredentials(nullptr, "localhost:1", true).ok());
  EXPECT_FALSE(MakeServerCredentials(nullptr, "0.0.0.0:0", false).ok());
  EXPECT_FALSE(MakeChannelCredentials(nullptr, "10.0.0.1:1", false).ok());
  EXPECT_TRUE(log.lines().empty());
  EXPECT_TRUE(MakeServerCredentials(nullptr, "0.0.0.0:0", true).ok());
  EXPECT_TRUE(MakeChannelCredentials(nullptr, "10.0.0.1:1", true).ok());
  EXPECT_EQ(log.Messages("links_not_secured").size(), 2u);
}

// Answers with the name of who asks.
class WhoAsks : public v1::Admin::Service {
  grpc::Status Status(grpc::ServerContext* context, const v1::StatusRequest*,
                      v1::ClusterStatus* status) override {
    status->set_coordinator(PeerNode(*context));
    return grpc::Status::OK;
  }
};

class LinkTest : public CertificatesTest {
 protected:
  void SetUp() override {
    MustAuthority("ca");
    MustNode("ca", "server");
    MustNode("ca", "client");
  }
  NodeCertificate Loaded(const std::string& dir, system_clock::time_point now = system_clock::now()) {
    const auto loaded = LoadCredentials(temp_ / dir, now);
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    return loaded.ok() ? *loaded : NodeCertificate();
  }
  // Serves on a free port of loopback; null: without TLS.
  void Serve(const NodeCertificate* credentials) {
    const auto security = MakeServerCredentials(credentials, "127.0.0.1:0", false);
    ASSERT_TRUE(security.ok()) << security.status();
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", *security, &port_);
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
    ASSERT_NE(server_, nullptr);
  }
  std::string target(const std::string& host = "127.0.0.1") const { return absl::StrCat(host, ":", port_); }
  // Who the server says is asking; an error if it cannot be asked.
  absl::StatusOr<std::string> Ask(const NodeCertificate* credentials, const std::string& target) {
    const auto security = MakeChannelCredentials(credentials, target, false);
    if (!security.ok()) return security.status();
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    const auto stub = v1::Admin::NewStub(grpc::CreateCustomChannel(target, *security, arguments));
    grpc::ClientContext context;
    context.set_deadline(system_clock::now() + kTimeout);
    v1::ClusterStatus status;
    const grpc::Status asked = stub->Status(&context, {}, &status);
    if (asked.ok()) return status.coordinator();
    return absl::Status(static_cast<absl::StatusCode>(asked.error_code()), asked.error_message());
  }
  // The link is refused, and what keeps it from being made is said so.
  template <typename Matcher>
  void ExpectRefused(const NodeCertificate& client, const std::string& target, Matcher says) {
    const auto asked = Ask(&client, target);
    EXPECT_EQ(asked.status().code(), absl::StatusCode::kUnavailable) << asked.status();
    const absl::Status explained = ExplainLink(client, target, kTimeout);
    EXPECT_EQ(explained.code(), absl::StatusCode::kFailedPrecondition) << explained;
    EXPECT_THAT(std::string(explained.message()), AllOf(HasSubstr(target), says));
  }

  WhoAsks service_;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

TEST_F(LinkTest, NodesOfOneAuthorityTalkAndKnowEachOther) {
  const NodeCertificate server = Loaded("server"), client = Loaded("client");
  Serve(&server);
  for (const char* host : {"127.0.0.1", "localhost"}) {
    const auto asked = Ask(&client, target(host));
    ASSERT_TRUE(asked.ok()) << asked.status();
    EXPECT_EQ(*asked, "client");
    const absl::Status explained = ExplainLink(client, target(host), kTimeout);
    EXPECT_TRUE(explained.ok()) << explained;
  }
}

TEST_F(LinkTest, WithoutCertificatesNobodyIsKnown) {
  Serve(nullptr);
  const auto asked = Ask(nullptr, target());
  ASSERT_TRUE(asked.ok()) << asked.status();
  EXPECT_EQ(*asked, "");
}

TEST_F(LinkTest, AClientWithoutACertificateIsRefused) {
  const NodeCertificate server = Loaded("server");
  Serve(&server);
  NodeCertificate none = Loaded("client");
  none.certificate = none.key = none.node = "";
  ExpectRefused(none, target(), HasSubstr("wants a certificate, and this node has none"));
  EXPECT_FALSE(Ask(nullptr, target()).ok());
}

TEST_F(LinkTest, AClientOfAnotherAuthorityIsRefused) {
  MustAuthority("other");
  MustNode("other", "stranger");
  const NodeCertificate server = Loaded("server");
  Serve(&server);
  // It does not trust the server either; that is what it sees first.
  ExpectRefused(Loaded("stranger"), target(), HasSubstr("not one of this cluster's authority"));
  // One that trusts it is refused by it.
  NodeCertificate trusting = Loaded("stranger");
  trusting.authority = server.authority;
  ExpectRefused(trusting, target(), HasSubstr("refuses the certificate of 'stranger': it is not one of its"));
}

TEST_F(LinkTest, AnExpiredCertificateIsRefused) {
  const auto then = system_clock::now() - hours(48);
  MustAuthority("old-ca", {.from = then});
  MustNode("old-ca", "new", {});
  MustNode("old-ca", "old", {.valid = hours(24), .from = then});
  const NodeCertificate old = Loaded("old", then), fresh = Loaded("new");
  Serve(&fresh);
  ExpectRefused(old, target(), AllOf(HasSubstr("refuses the certificate of 'old'"), HasSubstr("it is over")));
  server_->Shutdown();
  Serve(&old);
  ExpectRefused(fresh, target(), AllOf(HasSubstr("the node's certificate is over"), HasSubstr("UTC until")));
}

TEST_F(LinkTest, AServerThatIsNotNamedAsItIsCalledIsRefused) {
  const absl::Status made = MakeNodeCertificate(temp_ / "ca", "elsewhere", {"10.1.2.3"}, temp_ / "elsewhere");
  ASSERT_TRUE(made.ok()) << made;
  const NodeCertificate server = Loaded("elsewhere");
  Serve(&server);
  ExpectRefused(Loaded("client"), target(), HasSubstr("does not name '127.0.0.1'"));
  ExpectRefused(Loaded("client"), target("localhost"), HasSubstr("does not name 'localhost'"));
}

TEST_F(LinkTest, AServerWithoutTlsIsRefused) {
  Serve(nullptr);
  ExpectRefused(Loaded("client"), target(), HasSubstr("does not speak TLS"));
}

TEST_F(LinkTest, SaysThatNobodyAnswers) {
  const int socket = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  ASSERT_EQ(::bind(socket, reinterpret_cast<sockaddr*>(&address), size), 0);
  ASSERT_EQ(::getsockname(socket, reinterpret_cast<sockaddr*>(&address), &size), 0);
  port_ = ntohs(address.sin_port);
  const NodeCertificate client = Loaded("client");
  EXPECT_THAT(Text(Code(absl::StatusCode::kUnavailable, ExplainLink(client, target(), kTimeout))),
              HasSubstr("Connection refused"));
  ASSERT_EQ(::listen(socket, 1), 0);
  EXPECT_THAT(Text(Code(absl::StatusCode::kUnavailable,
                        ExplainLink(client, target(), std::chrono::milliseconds(100)))),
              HasSubstr("does not answer in time"));
  EXPECT_THAT(Text(Code(absl::StatusCode::kInvalidArgument, ExplainLink(client, "127.0.0.1", kTimeout))),
              HasSubstr("is not HOST:PORT"));
  ::close(socket);
}

TEST_F(LinkTest, WhatAServerShowsMayChangeAndWhatIsNoPairLeavesThePairBefore) {
  MustAuthority("other");
  MustNode("other", "stranger");
  const NodeCertificate server = Loaded("server"), client = Loaded("client"), stranger = Loaded("stranger");
  std::atomic<uint64_t> version{1};
  const auto source = [&] {
    switch (version.load()) {
      case 1:
        return ServerPems{server.authority, server.certificate, server.key, 1};
      case 2:
        return ServerPems{server.authority, server.certificate, client.key, 2};
      default:
        return ServerPems{stranger.authority, stranger.certificate, stranger.key, 3};
    }
  };
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:0", MakeReloadedCredentials(source, true, nullptr), &port_);
  builder.RegisterService(&service_);
  server_ = builder.BuildAndStart();
  ASSERT_NE(server_, nullptr);
  EXPECT_EQ(Ask(&client, target()).value_or(""), "client");
  version = 2;
  EXPECT_EQ(Ask(&client, target()).value_or(""), "client");
  EXPECT_TRUE(absl::IsUnavailable(Ask(&stranger, target()).status()));
  version = 3;
  EXPECT_EQ(Ask(&stranger, target()).value_or(""), "stranger");
  EXPECT_TRUE(absl::IsUnavailable(Ask(&client, target()).status()));
}

}  // namespace
}  // namespace omni
