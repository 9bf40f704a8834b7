// What only the store on etcd does: go on when members are gone, and say so when all are.
#include "cluster/etcd_store.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <absl/strings/str_cat.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <third_party/etcd.grpc.pb.h>

#include "cluster/certificates.h"
#include "tests/testing/etcd.h"
#include "tests/testing/store_calls.h"
#include "tests/testing/temp_dir.h"

namespace omni {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::EtcdCluster;
using testing::EtcdClusterOptions;
using ::testing::HasSubstr;
using testing::StoreCalls;
using testing::Text;
using testing::WatchLog;

std::unique_ptr<EtcdStore> Opened(const EtcdOptions& options) {
  auto store = EtcdStore::Open(options);
  EXPECT_TRUE(store.ok()) << store.status();
  return store.ok() ? *std::move(store) : nullptr;
}

class EtcdStoreTest : public ::testing::Test {
 protected:
  // Starts etcd and a store on it. False: the test ends here.
  bool Start(int members) {
    auto started = EtcdCluster::Start({.members = members});
    EXPECT_TRUE(started.ok()) << started.status();
    if (!started.ok()) return false;
    etcd_ = *std::move(started);
    options_.endpoints = etcd_->endpoints();
    store_ = Opened(options_);
    return store_ != nullptr;
  }
  void SetUp() override {
    if (const std::string why = EtcdCluster::WhyNot(); !why.empty()) GTEST_SKIP() << "SKIPPED: " << why;
  }
  StoreCalls calls() { return StoreCalls(*store_); }

  // Commits a value that was not there before. True: it was applied, and is in acknowledged_.
  bool CommitNext() {
    const std::string value = absl::StrCat("value ", ++values_);
    const auto committed = calls().Commit({.changes = {{.key = "k", .value = value}}});
    if (committed.ok()) {
      EXPECT_TRUE(committed->applied);
      acknowledged_[committed->revision] = value;
      return true;
    }
    EXPECT_EQ(committed.status().code(), absl::StatusCode::kUnavailable) << committed.status();
    return false;
  }
  // The watcher `log`, from revision `from` on, has been told every revision once, with what was acknowledged
  // of it, and no value twice.
  void ExpectNothingLost(WatchLog& log, Revision from) {
    const Revision last = calls().MustPut("end", "");
    std::map<std::string, Revision> seen;
    for (Revision revision = from; revision <= last; ++revision) {
      const auto told = log.Next();
      ASSERT_TRUE(told.ok()) << told.status();
      ASSERT_EQ(told->revision, revision);
      ASSERT_EQ(told->put.size(), 1u);
      const std::string& value = told->put[0].value;
      EXPECT_TRUE(seen.emplace(value, revision).second) << value << " was committed twice";
      if (acknowledged_.contains(revision)) {
        EXPECT_EQ(value, acknowledged_[revision]);
      }
    }
  }

  EtcdOptions options_;
  std::unique_ptr<EtcdCluster> etcd_;
  std::unique_ptr<EtcdStore> store_;
  int values_ = 0;
  std::map<Revision, std::string> acknowledged_;
};

TEST_F(EtcdStoreTest, WhicheverMemberIsKilledCallsGoOnAndWatchersLoseNothing) {
  if (!Start(3)) return;
  const Revision from = calls().MustPut("k", "value 0");
  WatchLog log;
  const auto watcher = store_->Watch("", from, log.callback());
  for (int member = 0; member < 3; ++member) {
    const LeaseId lease = calls().MustGrant(seconds(60));
    etcd_->Kill(member);
    int failed = 0;
    for (int i = 0; i < 20; ++i) failed += CommitNext() ? 0 : 1;
    EXPECT_LE(failed, 4) << "of twenty, while another leader is elected";
    // What may be asked twice is asked again behind the scenes.
    const auto read = calls().Read("k");
    EXPECT_TRUE(read.ok()) << read.status();
    EXPECT_TRUE(calls().KeepAlive(lease).ok());
    EXPECT_TRUE(calls().Revoke(lease).ok());
    const absl::Status restarted = etcd_->Restart(member);
    ASSERT_TRUE(restarted.ok()) << restarted;
  }
  ExpectNothingLost(log, from);
}

TEST_F(EtcdStoreTest, WhicheverMemberIsStoppedCallsGoOnAndWatchersLoseNothing) {
  options_.call_timeout = milliseconds(4000);
  if (!Start(3)) return;
  const Revision from = calls().MustPut("k", "value 0");
  WatchLog log;
  const auto watcher = store_->Watch("", from, log.callback());
  for (int member = 0; member < 3; ++member) {
    etcd_->Stop(member);
    const auto read = calls().Read("k");
    EXPECT_TRUE(read.ok()) << read.status();
    int failed = 0;
    for (int i = 0; i < 20; ++i) failed += CommitNext() ? 0 : 1;
    EXPECT_LE(failed, 4);
    etcd_->Continue(member);
    const absl::Status ready = etcd_->WaitReady(member);
    ASSERT_TRUE(ready.ok()) << ready;
  }
  ExpectNothingLost(log, from);
}

TEST_F(EtcdStoreTest, AWatcherOfAStoppedMemberIsToldByAnother) {
  options_.attempt_timeout = milliseconds(500);
  options_.probe_interval = milliseconds(100);
  if (!Start(3)) return;
  // Another store writes, so that the watcher's own must find out by itself. One of the members is the
  // watcher's, and the next that it goes to another.
  const auto writer = Opened(options_);
  const Revision from = StoreCalls(*writer).MustPut("k", "");
  WatchLog log;
  const auto watcher = store_->Watch("k", from, log.callback());
  EXPECT_EQ(Text(log.Next()), absl::StrCat(from, ": k="));
  for (int member = 0; member < 3; ++member) {
    etcd_->Stop(member);
    // What is not acknowledged may yet be applied, and is then told first.
    const std::string value = absl::StrCat("without ", member);
    while (!StoreCalls(*writer).Commit({.changes = {{.key = "k", .value = value}}}).ok()) {
    }
    const auto committed = std::chrono::steady_clock::now();
    absl::StatusOr<Changes> told = log.Next();
    while (told.ok() && told->put.at(0).value != value) told = log.Next();
    EXPECT_TRUE(told.ok()) << told.status();
    EXPECT_LT(std::chrono::steady_clock::now() - committed, seconds(5))
        << "so long takes only the connection's own keep-alive";
    etcd_->Continue(member);
    const absl::Status ready = etcd_->WaitReady(member);
    ASSERT_TRUE(ready.ok()) << ready;
  }
}

TEST_F(EtcdStoreTest, WhenAllMembersAreDownCallsEndInTimeAndWhenTheyAreBackTheyGoOn) {
  options_.call_timeout = milliseconds(1500);
  options_.attempt_timeout = milliseconds(500);
  if (!Start(3)) return;
  const Revision from = calls().MustPut("k", "value 0");
  const LeaseId lease = calls().MustGrant(seconds(600));
  WatchLog log;
  const auto watcher = store_->Watch("", from, log.callback());
  for (int member = 0; member < 3; ++member) etcd_->Kill(member);
  const auto begun = std::chrono::steady_clock::now();
  EXPECT_FALSE(CommitNext());
  const absl::Status read = calls().Read("").status();
  EXPECT_EQ(read.code(), absl::StatusCode::kUnavailable) << read;
  EXPECT_THAT(std::string(read.message()), HasSubstr(etcd_->endpoints()[0]));
  EXPECT_THAT(std::string(read.message()), HasSubstr("within 1500 ms"));
  EXPECT_EQ(calls().KeepAlive(lease).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(calls().Revoke(lease).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(calls().Grant(seconds(60)).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_LT(std::chrono::steady_clock::now() - begun, 5 * options_.call_timeout + seconds(5));
  for (int member = 0; member < 3; ++member) {
    const absl::Status begin = etcd_->Begin(member);
    ASSERT_TRUE(begin.ok()) << begin;
  }
  for (int member = 0; member < 3; ++member) {
    const absl::Status ready = etcd_->WaitReady(member);
    ASSERT_TRUE(ready.ok()) << ready;
  }
  // A connection may rest for a moment before it is tried again.
  int tries = 0;
  while (!CommitNext()) ASSERT_LT(++tries, 5);
  EXPECT_TRUE(calls().KeepAlive(lease).ok());
  ExpectNothingLost(log, from);
}

TEST_F(EtcdStoreTest, WhatWasCompactedIsOutOfRange) {
  if (!Start(1)) return;
  const Revision first = calls().MustPut("k", "1");
  calls().MustPut("k", "2");
  const Revision last = calls().MustPut("k", "3");
  const absl::Status compacted = etcd_->Compact(last);
  ASSERT_TRUE(compacted.ok()) << compacted;
  WatchLog late, current;
  const auto late_watcher = store_->Watch("k", first, late.callback());
  const auto watcher = store_->Watch("k", last, current.callback());
  const auto told = late.Next();
  EXPECT_EQ(told.status().code(), absl::StatusCode::kOutOfRange) << told.status();
  EXPECT_THAT(std::string(told.status().message()), HasSubstr("read afresh"));
  EXPECT_EQ(Text(current.Next()), absl::StrCat(last, ": k=3"));
  calls().MustPut("k", "4");
  EXPECT_EQ(Text(current.Next()), absl::StrCat(last + 1, ": k=4"));
  EXPECT_EQ(late.told(), 1);
}

TEST_F(EtcdStoreTest, MoreThanOneAnswerHoldsIsReadAndWatchedInParts) {
  options_.max_answer_bytes = 4 << 20;
  if (!Start(1)) return;
  constexpr int kRecords = 12;
  const std::string large(1'000'000, 'x');
  Revision first = 0;
  for (int i = 0; i < kRecords; ++i) {
    const Revision put = calls().MustPut(absl::StrCat("k", 100 + i), large);
    if (i == 0) first = put;
  }
  const auto read = calls().Read("k");
  ASSERT_TRUE(read.ok()) << read.status();
  ASSERT_EQ(read->records.size(), size_t{kRecords});
  WatchLog log;
  const auto watcher = store_->Watch("k", first, log.callback());
  for (int i = 0; i < kRecords; ++i) {
    const auto told = log.Next();
    ASSERT_TRUE(told.ok()) << told.status();
    ASSERT_EQ(told->revision, first + i);
    ASSERT_EQ(told->put.at(0).key, absl::StrCat("k", 100 + i));
    ASSERT_EQ(told->put.at(0).value.size(), large.size());
  }
}

TEST_F(EtcdStoreTest, StoresWithDifferentPrefixesDoNotSeeEachOther) {
  if (!Start(1)) return;
  EtcdOptions a = options_, b = options_;
  a.prefix = "a/";
  b.prefix = "b/";
  const auto store_a = Opened(a), store_b = Opened(b);
  const Revision put = StoreCalls(*store_a).MustPut("k", "1");
  WatchLog log;
  const auto watcher = store_b->Watch("", put, log.callback());
  EXPECT_TRUE(StoreCalls(*store_b).MustRead("").records.empty());
  StoreCalls(*store_b).MustPut("k", "2");
  EXPECT_EQ(Text(log.Next()), absl::StrCat(put + 1, ": k=2"));
  const Records all = calls().MustRead("");
  ASSERT_EQ(all.records.size(), 2u);
  EXPECT_EQ(all.records[0].key, "a/k");
  EXPECT_EQ(all.records[1].key, "b/k");
}

TEST_F(EtcdStoreTest, SpeaksMutualTlsWhereEtcdWantsIt) {
  const testing::TempDir dir = testing::TempDir::InMemory();
  for (const char* authority : {"ca", "other-ca"}) {
    const absl::Status made = MakeAuthority(dir / authority);
    ASSERT_TRUE(made.ok()) << made;
  }
  for (const auto& [node, authority] : {std::pair("etcd", "ca"), {"node", "ca"}, {"stranger", "other-ca"}}) {
    const absl::Status made = MakeNodeCertificate(dir / authority, node, {"127.0.0.1"}, dir / node);
    ASSERT_TRUE(made.ok()) << made;
  }
  EtcdClusterOptions secured;
  secured.tls = std::make_unique<testing::EtcdServerTls>(
      testing::EtcdServerTls{dir / "etcd/authority.pem", dir / "etcd/node.pem", dir / "etcd/node.key"});
  auto started = EtcdCluster::Start(std::move(secured));
  ASSERT_TRUE(started.ok()) << started.status();
  etcd_ = *std::move(started);
  options_.endpoints = etcd_->endpoints();
  options_.tls = EtcdTls{dir / "node/authority.pem", dir / "node/node.pem", dir / "node/node.key"};
  store_ = Opened(options_);
  const Revision put = calls().MustPut("k", "1");
  WatchLog log;
  const auto watcher = store_->Watch("", put, log.callback());
  EXPECT_EQ(Text(log.Next()), absl::StrCat(put, ": k=1"));
  EtcdOptions without = options_, foreign = options_, plain = options_;
  without.tls->certificate = without.tls->key = "";
  foreign.tls = EtcdTls{dir / "node/authority.pem", dir / "stranger/node.pem", dir / "stranger/node.key"};
  plain.tls.reset();
  for (EtcdOptions* refused : {&without, &foreign, &plain}) {
    refused->call_timeout = milliseconds(500);
    const auto store = Opened(*refused);
    EXPECT_EQ(StoreCalls(*store).Read("").status().code(), absl::StatusCode::kUnavailable);
  }
}

TEST(EtcdStoreWithoutEtcd, SaysWhatIsWrongWithItsOptions) {
  const std::vector<std::pair<EtcdOptions, std::string>> wrong = {
      {{.endpoints = {}}, "at least one member"},
      {{.endpoints = {"localhost"}}, "is not HOST:PORT"},
      {{.endpoints = {"http://localhost:2379"}}, "is not HOST:PORT"},
      {{.endpoints = {"a:1"}, .call_timeout = milliseconds(0)}, "at least 1 ms"},
      {{.endpoints = {"a:1"}, .max_answer_bytes = 1000}, "4194304 bytes at least"},
      {{.endpoints = {"a:1"}, .tls = EtcdTls{.authority = "/none/ca.pem", .certificate = "", .key = ""}},
       "/none/ca.pem"},
      {{.endpoints = {"a:1"}, .tls = EtcdTls{.authority = "x", .certificate = "y", .key = ""}},
       "and its key, or neither"}};
  for (const auto& [options, says] : wrong) {
    const absl::Status refused = EtcdStore::Open(options).status();
    EXPECT_THAT(std::string(refused.message()), HasSubstr(says));
  }
}

// A port of this machine that accepts connections and never answers.
class SilentServer {
 public:
  SilentServer() : socket_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    EXPECT_EQ(::bind(socket_, reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_EQ(::listen(socket_, 8), 0);
    EXPECT_EQ(::getsockname(socket_, reinterpret_cast<sockaddr*>(&address), &size), 0);
    port_ = ntohs(address.sin_port);
  }
  ~SilentServer() { ::close(socket_); }
  std::string address() const { return absl::StrCat("127.0.0.1:", port_); }

 private:
  const int socket_;
  int port_ = 0;
};

TEST(EtcdStoreWithoutEtcd, WhereNobodyAnswersCallsAreUnavailableInTime) {
  const SilentServer silent;
  const auto store =
      Opened({.endpoints = {silent.address(), "127.0.0.1:1"}, .call_timeout = milliseconds(300)});
  WatchLog log;
  auto watcher = store->Watch("", 1, log.callback());
  const auto begun = std::chrono::steady_clock::now();
  const absl::Status refused = StoreCalls(*store).Commit({}).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kUnavailable) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr("no member is connected"));
  EXPECT_GE(std::chrono::steady_clock::now() - begun, milliseconds(300));
  EXPECT_EQ(log.told(), 0);
  watcher.reset();
}

// Refuses the first calls of each kind as a member of etcd might, and counts them.
class RefusingEtcd : public etcdserverpb::KV::Service {
 public:
  explicit RefusingEtcd(grpc::Status refusal) : refusal_(std::move(refusal)) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
    EXPECT_NE(server_, nullptr);
  }
  std::string address() const { return absl::StrCat("127.0.0.1:", port_); }
  int txns() const { return txns_; }
  int ranges() const { return ranges_; }

 private:
  static constexpr int kRefused = 2;

  grpc::Status Txn(grpc::ServerContext*, const etcdserverpb::TxnRequest*,
                   etcdserverpb::TxnResponse* response) override {
    if (++txns_ <= kRefused) return refusal_;
    response->set_succeeded(true);
    response->mutable_header()->set_revision(7);
    return grpc::Status::OK;
  }
  grpc::Status Range(grpc::ServerContext*, const etcdserverpb::RangeRequest*,
                     etcdserverpb::RangeResponse* response) override {
    if (++ranges_ <= kRefused) return refusal_;
    response->mutable_header()->set_revision(7);
    return grpc::Status::OK;
  }

  const grpc::Status refusal_;
  std::atomic<int> txns_ = 0, ranges_ = 0;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

TEST(EtcdStoreWithoutEtcd, ACommitThatMayHaveBeenDoneIsNotAskedAgainAndAReadIs) {
  for (const auto code :
       {grpc::StatusCode::UNAVAILABLE, grpc::StatusCode::DEADLINE_EXCEEDED, grpc::StatusCode::UNKNOWN,
        grpc::StatusCode::INTERNAL, grpc::StatusCode::CANCELLED}) {
    RefusingEtcd etcd(grpc::Status(code, "etcdserver: request timed out"));
    const auto store = Opened({.endpoints = {etcd.address()}, .call_timeout = seconds(20)});
    const absl::Status unknown = StoreCalls(*store).Commit({}).status();
    EXPECT_EQ(unknown.code(), absl::StatusCode::kUnavailable) << unknown;
    EXPECT_THAT(std::string(unknown.message()), HasSubstr("whether it was done is unknown"));
    EXPECT_EQ(etcd.txns(), 1);
    const auto read = StoreCalls(*store).Read("");
    EXPECT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(etcd.ranges(), 3);
  }
}

TEST(EtcdStoreWithoutEtcd, WhatWasRefusedBeforeAnythingWasDoneIsAskedAgain) {
  for (const grpc::Status& refusal :
       {grpc::Status(grpc::StatusCode::UNAVAILABLE, "etcdserver: no leader"),
        grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "etcdserver: too many requests")}) {
    RefusingEtcd etcd(refusal);
    const auto store = Opened({.endpoints = {etcd.address()}, .call_timeout = seconds(20)});
    const auto committed = StoreCalls(*store).Commit({});
    ASSERT_TRUE(committed.ok()) << committed.status();
    EXPECT_EQ(committed->revision, 7);
    EXPECT_EQ(etcd.txns(), 3);
  }
}

TEST(EtcdStoreWithoutEtcd, WhatEtcdDecidedIsTold) {
  RefusingEtcd full(
      grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded"));
  const auto store = Opened({.endpoints = {full.address()}});
  const absl::Status refused = StoreCalls(*store).Commit({}).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("--quota-backend-bytes"));
  RefusingEtcd over(grpc::Status(grpc::StatusCode::NOT_FOUND, "etcdserver: requested lease not found"));
  EXPECT_EQ(StoreCalls(*Opened({.endpoints = {over.address()}})).Commit({}).status().code(),
            absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace omni
