// Directories that fill themselves from other nodes.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <filesystem>
#include <optional>
#include <stop_token>
#include <thread>

#include <gmock/gmock.h>
#include <grpcpp/server_posix.h>
#include <gtest/gtest.h>

#include "cluster/rate_limit.h"
#include "engine/decode/expert.h"
#include "tests/cluster/tile_fixture.h"
#include "tests/testing/file_calls.h"
#include "tests/testing/recording_log.h"

extern char** environ;

namespace omni {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::Each;
using testing::FileBytes;
using testing::FileCall;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using testing::OddNode;
using testing::Regions;
using ::testing::SizeIs;
using testing::TileNode;
using testing::TileTransferTest;
using testing::v1::TileChunk;

TEST_F(TileTransferTest, AnEmptyDirectoryFetchesItsRegionsAndNotAByteMore) {
  const TileNode node(whole());
  const FillOptions options = From({node.address()});
  const auto part = Begin(options);
  int64_t moved = 0;
  for (const std::vector<int32_t>& regions : {std::vector<int32_t>{0, 2}, {0}, {1, 0}, {2, 1, 0}}) {
    const int64_t missing = Missing(*part, regions);
    last_ = {};
    ASSERT_EQ(FillRegions(*part, Regions(regions), options), absl::OkStatus());
    EXPECT_EQ(node.stats().tiles - moved, missing);
    EXPECT_EQ(last_.bytes, missing * part->tile_bytes());
    moved = node.stats().tiles;
    EXPECT_EQ(node.stats().tile_bytes, moved * part->tile_bytes());
    EXPECT_EQ(Missing(*part, regions), 0);
    ExpectServes(dir(), regions);
  }
  EXPECT_EQ(moved, whole_->stored_tiles());
  ASSERT_EQ(FillFiles(*part, options), absl::OkStatus());
  for (const auto& [name, digest] : part->files().manifest.files)
    EXPECT_EQ(FileBytes(dir() + "/" + name), FileBytes(whole_dir() + "/" + name)) << name;
  EXPECT_TRUE(OpenModel(dir()).ok());
}

TEST_F(TileTransferTest, WhatItsExpertsAnswerIsWhatTheWholeModelsDo) {
  const TileNode node(whole());
  const FillOptions options = From({node.address()});
  const auto part = Begin(options);
  ASSERT_EQ(FillRegions(*part, Regions({1}), options), absl::OkStatus());
  const auto here = OpenModel(dir(), Opening({1})), there = OpenModel(whole_dir());
  ASSERT_TRUE(here.ok() && there.ok());
  WorkerPool pool(1);
  testing::Random random(3);
  const int64_t padded = PadTo(config_.d, 64);
  std::vector<int8_t> rows(static_cast<size_t>(2 * padded));
  for (int64_t i = 0; i < 2 * padded; ++i)
    rows[static_cast<size_t>(i)] = static_cast<int8_t>(i % padded < config_.d ? random.Below(255) - 127 : 0);
  const float scales[] = {0.01f, 0.02f};
  for (int64_t i = 0; i < config_.experts_per_region(); ++i) {
    const ExpertJob job = {LayerId(0), config_.ExpertOf(RegionId(1), i), {0, 1}, rows.data(), padded, scales};
    std::vector<float> a(static_cast<size_t>(2 * config_.d)), b = a;
    ASSERT_TRUE(
        RunExpert(config_, *here->experts().Acquire(job.layer, job.expert), job, pool, a.data()).ok());
    ASSERT_TRUE(
        RunExpert(config_, *there->experts().Acquire(job.layer, job.expert), job, pool, b.data()).ok());
    EXPECT_EQ(a, b);
    EXPECT_THAT(a, Not(Each(0.0f)));
  }
}

TEST_F(TileTransferTest, PeersThatHoldPartsMakeAWholeTogether) {
  const TileNode node(whole());
  for (const int32_t region : {0, 1, 2}) {
    const std::string at = temp_ / absl::StrCat("peer", region);
    const FillOptions options = From({node.address()});
    const auto peer = OpenOrBeginPartial(at, whole_->hash(), options);
    ASSERT_TRUE(peer.ok()) << peer.status();
    ASSERT_EQ(FillRegions(**peer, Regions({region}), options), absl::OkStatus());
  }
  const TileNode a(temp_ / "peer0"), b(temp_ / "peer1"), c(temp_ / "peer2");
  const FillOptions options = From({a.address(), b.address(), c.address()});
  const auto part = Begin(options);
  ASSERT_EQ(FillRegions(*part, Regions({0, 1, 2}), options), absl::OkStatus());
  EXPECT_EQ(a.stats().tiles + b.stats().tiles + c.stats().tiles, whole_->stored_tiles());
  ExpectServes(dir(), {0, 1, 2});
  // None of them has the shared weights.
  const absl::Status none = FillFiles(*part, options);
  EXPECT_TRUE(absl::IsUnavailable(none)) << none;
  EXPECT_THAT(none.message(), AllOf(HasSubstr("shared.bin"), HasSubstr(a.address())));
}

// What a peer does not have is asked of the others, however much that is, and is not held against it.
TEST_F(TileTransferTest, APeerThatHasLittleGivesThat) {
  const TileNode node(whole());
  const std::string at = temp_ / "peer";
  FillOptions options = From({node.address()});
  ASSERT_EQ(FillRegions(**OpenOrBeginPartial(at, whole_->hash(), options), Regions({2}), options),
            absl::OkStatus());
  const TileNode little(at);
  options = From({little.address()});
  options.batch_bytes = 1;  // a tile a call
  options.attempts = 1;
  const testing::RecordingLog log;
  const auto part = Begin(options);
  const int64_t missing = Missing(*part, {2});
  EXPECT_TRUE(absl::IsUnavailable(FillRegions(*part, Regions({0, 1, 2}), options)));
  EXPECT_EQ(little.stats().tiles, missing);
  EXPECT_TRUE(part->Holds(RegionId(2)));
  EXPECT_THAT(log.Messages("peer_given_up"), IsEmpty());
}

TEST_F(TileTransferTest, AServerThatGoesAwayHalfWayIsReplacedByAnother) {
  TileNode dying(whole());
  const TileNode other(whole());
  FillOptions options = From({dying.address(), other.address()});
  options.fetches = 1;
  const auto part = Begin(options);
  const int64_t missing = Missing(*part, {0, 1});
  options.progress = [&](const FillProgress& progress) {
    if (progress.tiles > missing / 2) dying.Stop();
  };
  ASSERT_EQ(FillRegions(*part, Regions({0, 1}), options), absl::OkStatus());
  EXPECT_GT(dying.stats().tiles, missing / 2);
  EXPECT_GT(other.stats().tiles, 0);
  ExpectServes(dir(), {0, 1});
}

TEST_F(TileTransferTest, WithoutAPeerThatGivesTheRestAllThatCameIsKept) {
  TileNode dying(whole());
  FillOptions options = From({dying.address()});
  const auto part = Begin(options);
  options.progress = [&](const FillProgress& progress) {
    if (progress.tiles > 5) dying.Stop();
  };
  const absl::Status failed = FillRegions(*part, Regions({0, 1}), options);
  EXPECT_TRUE(absl::IsUnavailable(failed)) << failed;
  EXPECT_THAT(failed.message(),
              AllOf(HasSubstr(dir()), HasSubstr("tiles could not be fetched"), HasSubstr(dying.address())));
  EXPECT_GT(part->present_tiles(), 5);
  const int64_t missing = Missing(*part, {0, 1});
  const TileNode other(whole());
  ASSERT_EQ(FillRegions(*part, Regions({0, 1}), From({other.address()})), absl::OkStatus());
  EXPECT_EQ(other.stats().tiles, missing);
}

// Takes every connection, and says the first word a third of a second later, as far or busy nodes do.
class SlowToGreet {
 public:
  explicit SlowToGreet(grpc::Service& service) {
    grpc::ServerBuilder builder;
    builder.RegisterService(&service);
    server_ = builder.BuildAndStart();
    listener_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    at_.sin_family = AF_INET;
    at_.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(at_);
    auto* const name = reinterpret_cast<sockaddr*>(&at_);
    const bool listens = ::bind(listener_, name, size) == 0 && ::listen(listener_, 8) == 0 &&
                         ::getsockname(listener_, name, &size) == 0;
    if (!listens) ADD_FAILURE() << "no listener on 127.0.0.1";
    greeting_ = std::thread([this] {
      for (int fd = 0; (fd = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0;) {
        std::this_thread::sleep_for(std::chrono::milliseconds(333));
        grpc::AddInsecureChannelFromFd(server_.get(), fd);
      }
    });
  }
  ~SlowToGreet() {
    ::shutdown(listener_, SHUT_RDWR);
    greeting_.join();
    ::close(listener_);
    server_->Shutdown(std::chrono::system_clock::now());
  }
  std::string address() const { return absl::StrCat("127.0.0.1:", ntohs(at_.sin_port)); }

 private:
  sockaddr_in at_{};
  int listener_ = -1;
  std::unique_ptr<grpc::Server> server_;
  std::thread greeting_;
};

TEST_F(TileTransferTest, APeerThatIsSlowToGreetIsWaitedFor) {
  const auto service = TileService::Make(whole(), {});
  ASSERT_TRUE(service.ok()) << service.status();
  const SlowToGreet peer((*service)->service());
  const FillOptions options = From({peer.address()});
  const auto part = Begin(options);
  ASSERT_NE(part, nullptr);
  EXPECT_EQ(FillRegions(*part, Regions({0}), options), absl::OkStatus());
  ExpectServes(dir(), {0});
}

TEST_F(TileTransferTest, NoPeersOrNoneThereIsSaid) {
  const absl::Status none = OpenOrBeginPartial(dir(), whole_->hash(), From({})).status();
  EXPECT_TRUE(absl::IsUnavailable(none)) << none;
  EXPECT_THAT(none.message(), HasSubstr("none was named"));
  std::string address;
  { address = TileNode(whole()).address(); }
  const absl::Status gone = OpenOrBeginPartial(dir(), whole_->hash(), From({address})).status();
  EXPECT_TRUE(absl::IsUnavailable(gone)) << gone;
  EXPECT_THAT(gone.message(), AllOf(HasSubstr(dir()), HasSubstr(address)));
}

TEST_F(TileTransferTest, AStoppedFillIsGoneOnWith) {
  // Who serves a fetch that is cancelled may learn of that, and count, later.
  const TileNode first(whole()), node(whole());
  FillOptions options = From({first.address()});
  const auto part = Begin(options);
  std::stop_source stop;
  options.stop = stop.get_token();
  options.progress = [&](const FillProgress&) { stop.request_stop(); };
  const absl::Status stopped = FillRegions(*part, Regions({0, 1}), options);
  EXPECT_TRUE(absl::IsCancelled(stopped)) << stopped;
  EXPECT_GT(part->present_tiles(), 0);
  EXPECT_TRUE(absl::IsCancelled(FillRegions(*part, Regions({0, 1}), options)));
  const int64_t missing = Missing(*part, {0, 1});
  EXPECT_GT(missing, 0);
  ASSERT_EQ(FillRegions(*part, Regions({0, 1}), From({node.address()})), absl::OkStatus());
  EXPECT_EQ(node.stats().tiles, missing);
}

TEST_F(TileTransferTest, ReleasedRegionsAreFetchedAgain) {
  const TileNode node(whole());
  const FillOptions options = From({node.address()});
  const auto part = Begin(options);
  ASSERT_EQ(FillRegions(*part, Regions({0, 1}), options), absl::OkStatus());
  ASSERT_EQ(part->ReleaseAllBut(Regions({1})), absl::OkStatus());
  const int64_t missing = Missing(*part, {0}), before = node.stats().tiles;
  last_ = {};
  ASSERT_EQ(FillRegions(*part, Regions({0}), options), absl::OkStatus());
  EXPECT_EQ(node.stats().tiles - before, missing);
  ExpectServes(dir(), {0, 1});
}

TEST_F(TileTransferTest, APeerOfAnotherModelIsNotUsed) {
  const TileNode good(whole());
  const std::string other_dir = temp_ / "other";
  ASSERT_TRUE(testing::WriteRandomCheckpoint(temp_ / "c2", testing::SharingConfig(), 8).ok());
  ASSERT_TRUE(PackModel(temp_ / "c2", other_dir, testing::SmallPacks()).ok());
  const TileNode other(other_dir);
  const std::string other_hash = OpenModel(other_dir)->hash();

  const absl::Status refused = OpenOrBeginPartial(dir(), whole_->hash(), From({other.address()})).status();
  EXPECT_TRUE(absl::IsUnavailable(refused)) << refused;
  EXPECT_THAT(refused.message(), AllOf(HasSubstr(other.address()), HasSubstr(other_hash)));

  const testing::RecordingLog log;
  const FillOptions options = From({other.address(), good.address()});
  const auto part = Begin(options);
  ASSERT_EQ(FillRegions(*part, Regions({0}), options), absl::OkStatus());
  EXPECT_THAT(log.Messages("peer_given_up"), Each(HasSubstr(other.address())));
  EXPECT_EQ(other.stats().tiles, 0);
  ExpectServes(dir(), {0});
  const absl::Status mine = OpenOrBeginPartial(dir(), other_hash, options).status();
  EXPECT_FALSE(mine.ok());
  const absl::Status whole_is = OpenOrBeginPartial(whole_dir(), other_hash, options).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(whole_is)) << whole_is;
  EXPECT_THAT(whole_is.message(), AllOf(HasSubstr(whole_dir()), HasSubstr(other_hash)));
}

TEST_F(TileTransferTest, WrongBytesAreNamedAndNeverWritten) {
  const TileNode good(whole());
  int spoilt = 0;
  const auto spoil = [&](std::vector<TileChunk>* chunks) {
    for (TileChunk& chunk : *chunks) {
      std::string& data = *chunk.mutable_data();
      data[static_cast<size_t>(++spoilt) % data.size()] ^= 1;
    }
    return grpc::Status::OK;
  };
  OddNode bad(whole(), spoil);
  {
    const testing::RecordingLog log;
    const FillOptions options = From({bad.address()});
    const auto part = Begin(options);
    const absl::Status failed = FillRegions(*part, Regions({1}), options);
    EXPECT_TRUE(absl::IsUnavailable(failed)) << failed;
    EXPECT_THAT(failed.message(), HasSubstr(bad.address()));
    EXPECT_EQ(part->present_tiles(), 0);
    EXPECT_THAT(log.Messages("peer_sent_bad_tile"), AllOf(Not(IsEmpty()), Each(HasSubstr(bad.address()))));
    const std::string pack = FileBytes(dir() + "/packs/tiles-000.bin");
    EXPECT_EQ(pack.find_first_not_of('\0', PackHeader::kBytes), std::string::npos);
  }
  const FillOptions options = From({bad.address(), good.address()});
  const auto part = Begin(options);
  ASSERT_EQ(FillRegions(*part, Regions({1}), options), absl::OkStatus());
  ExpectServes(dir(), {1});
}

TEST_F(TileTransferTest, PeersThatBreakTheProtocolAreNamed) {
  const TileNode good(whole());
  const std::vector<OddNode::Tiles> ways = {
      [](std::vector<TileChunk>* chunks) {  // what nobody asked for
        chunks->front().set_tile(1u << 31);
        return grpc::Status::OK;
      },
      [](std::vector<TileChunk>* chunks) {  // one twice
        chunks->push_back(chunks->front());
        return grpc::Status::OK;
      },
      [](std::vector<TileChunk>* chunks) {  // too few
        chunks->clear();
        return grpc::Status::OK;
      },
      [](std::vector<TileChunk>* chunks) {  // more than a message may hold
        chunks->front().mutable_data()->resize(5 << 20);
        return grpc::Status::OK;
      },
      [](std::vector<TileChunk>* chunks) {
        chunks->pop_back();
        return grpc::Status(grpc::UNAVAILABLE, "closing");
      },
      [](std::vector<TileChunk>* chunks) {  // a tile in another's place
        for (TileChunk& chunk : *chunks) chunk.set_data(std::string(chunk.data().size() + 1, 'x'));
        return grpc::Status::OK;
      }};
  for (size_t way = 0; way < ways.size(); ++way) {
    SCOPED_TRACE(way);
    fs::remove_all(dir());
    OddNode odd(whole(), ways[way]);
    FillOptions options = From({odd.address()});
    const auto part = Begin(options);
    options.progress = nullptr;
    options.attempts = 2;
    const absl::Status failed = FillRegions(*part, Regions({0}), options);
    if (!failed.ok()) {
      EXPECT_TRUE(absl::IsUnavailable(failed)) << failed;
      EXPECT_THAT(failed.message(), HasSubstr(odd.address()));
    }
    options.peers.push_back(good.address());
    ASSERT_EQ(FillRegions(*part, Regions({0}), options), absl::OkStatus());
    ExpectServes(dir(), {0});
  }
}

TEST_F(TileTransferTest, TablesThatAreNotTheModelsAreNotTaken) {
  const auto none = [](std::vector<TileChunk>*) { return grpc::Status::OK; };
  const TileNode good(whole());
  for (const std::string spoilt : {"model.json", "deltas.json", "deltas/"}) {
    for (const int way : {0, 1, 2, 3}) {
      SCOPED_TRACE(absl::StrCat(spoilt, " ", way));
      fs::remove_all(dir());
      OddNode odd(whole(), none, [&](const std::string& name, std::string* bytes) {
        if (!name.starts_with(spoilt)) return grpc::Status::OK;
        if (way == 0) (*bytes)[bytes->size() / 2] ^= 1;
        if (way == 1) bytes->resize(bytes->size() / 2);
        if (way == 2) bytes->append("x");
        return way == 3 ? grpc::Status(grpc::UNAVAILABLE, "closing") : grpc::Status::OK;
      });
      FillOptions options = From({odd.address()});
      options.attempts = 2;
      const absl::Status refused = OpenOrBeginPartial(dir(), whole_->hash(), options).status();
      EXPECT_TRUE(absl::IsUnavailable(refused)) << refused;
      EXPECT_FALSE(fs::exists(dir() + "/model.json"));
      options.peers.push_back(good.address());
      EXPECT_TRUE(OpenOrBeginPartial(dir(), whole_->hash(), options).ok());
    }
  }
}

TEST_F(TileTransferTest, ATileThatIsDamagedAtOnePeerComesFromAnother) {
  const std::string hurt_dir = temp_ / "hurt";
  fs::copy(whole_dir(), hurt_dir, fs::copy_options::recursive);
  std::string bytes = FileBytes(hurt_dir + "/packs/tiles-000.bin");
  bytes[PackHeader::kBytes + 10] ^= 1;
  testing::WriteBytes(hurt_dir + "/packs/tiles-000.bin", bytes);
  const TileNode hurt(hurt_dir), good(whole());
  FillOptions options = From({hurt.address()});
  const auto part = Begin(options);
  EXPECT_TRUE(absl::IsUnavailable(FillRegions(*part, Regions({0, 1, 2}), options)));
  EXPECT_EQ(Missing(*part, {0, 1, 2}), 1);
  EXPECT_EQ(hurt.stats().missing, 1);
  options = From({hurt.address(), good.address()});
  ASSERT_EQ(FillRegions(*part, Regions({0, 1, 2}), options), absl::OkStatus());
  EXPECT_EQ(good.stats().tiles, 1);
}

// Fails calls as a rule says.
class Refuse : public testing::FileWatcher {
 public:
  explicit Refuse(std::function<int(const FileCall&)> rule) : rule_(std::move(rule)) {}
  int Before(const FileCall& call) override { return rule_(call); }

 private:
  std::function<int(const FileCall&)> rule_;
};

TEST_F(TileTransferTest, AFullDiskEndsTheFillAndIsNotHeldAgainstPeers) {
  const TileNode node(whole());
  const FillOptions options = From({node.address()});
  const auto part = Begin(options);
  const testing::RecordingLog log;
  {
    int left = 10;
    Refuse refuse([&](const FileCall& call) {
      return call.kind == FileCall::Kind::kWrite && call.path.starts_with(dir() + "/packs/") && left-- <= 0
                 ? ENOSPC
                 : 0;
    });
    const testing::WatchFiles watch(refuse);
    const absl::Status full = FillRegions(*part, Regions({0, 1}), options);
    EXPECT_TRUE(absl::IsResourceExhausted(full)) << full;
    EXPECT_THAT(full.message(), AllOf(HasSubstr(dir()), HasSubstr("No space left")));
  }
  EXPECT_EQ(part->present_tiles(), 10);
  EXPECT_THAT(log.Messages("peer_given_up"), IsEmpty());
  last_ = {};
  ASSERT_EQ(FillRegions(*part, Regions({0, 1}), options), absl::OkStatus());
  ExpectServes(dir(), {0, 1});
}

TEST_F(TileTransferTest, KilledAtAnyWriteItIsGoneOnWithAndOnlyWhatIsMissingComes) {
  // Who serves a killed process may learn of that, and count, later.
  const TileNode first(whole()), node(whole());
  constexpr int kEnough = 10000;
  int step = 0, with_tiles = 0;
  for (;; step += 4) {
    ASSERT_LT(step, kEnough);
    fs::remove_all(dir());
    std::string program = TILE_FILL_UNTIL_STEP, number = absl::StrCat(step), from = first.address(),
                hash = whole_->hash(), to = dir();
    char* argv[] = {program.data(), from.data(), hash.data(), to.data(), number.data(), nullptr};
    pid_t child = 0;
    ASSERT_EQ(::posix_spawn(&child, program.c_str(), nullptr, nullptr, argv, environ), 0);
    int status = -1;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    if (WIFEXITED(status)) {
      ASSERT_EQ(WEXITSTATUS(status), 0);
      break;
    }
    SCOPED_TRACE(absl::StrCat("killed at step ", step));
    ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << status;
    const FillOptions options = From({node.address()});
    const auto part = Begin(options);
    ASSERT_NE(part, nullptr);
    with_tiles += part->present_tiles() > 0 ? 1 : 0;
    const int64_t missing = Missing(*part, {0, 1}), before = node.stats().tiles;
    last_ = {};
    ASSERT_EQ(FillRegions(*part, Regions({0, 1}), options), absl::OkStatus());
    ASSERT_EQ(node.stats().tiles - before, missing);
    ExpectServes(dir(), {0, 1});
  }
  EXPECT_GT(step, 40);
  EXPECT_GT(with_tiles, 1);
}

TEST(RateLimit, GrantsSoManyBytesASecond) {
  using std::chrono::milliseconds;
  const RateLimit::Clock::time_point start{std::chrono::hours(1)};
  RateLimit limit(1000);
  EXPECT_EQ(limit.Take(start, 500), start);
  EXPECT_EQ(limit.Take(start, 500), start + milliseconds(500));
  EXPECT_EQ(limit.Take(start + milliseconds(700), 100), start + milliseconds(1000));
  EXPECT_EQ(limit.Take(start + milliseconds(5000), 100), start + milliseconds(5000));  // nothing is saved up
  RateLimit none(0);
  EXPECT_EQ(none.Take(start, int64_t{1} << 50), start);
  EXPECT_EQ(none.Take(start, 1), start);
}

TEST(Backoff, DoublesUpToFiveSeconds) {
  using std::chrono::milliseconds;
  EXPECT_EQ(Backoff(milliseconds(100), 1), milliseconds(100));
  EXPECT_EQ(Backoff(milliseconds(100), 3), milliseconds(400));
  EXPECT_EQ(Backoff(milliseconds(100), 7), milliseconds(5000));
  EXPECT_EQ(Backoff(milliseconds(100), 1000000), milliseconds(5000));
}

// Slow enough to be measured, and never faster than allowed.
TEST_F(TileTransferTest, AFillIsNoFasterThanItsLimit) {
  const TileNode node(whole());
  FillOptions options = From({node.address()});
  const auto part = Begin(options);
  const int64_t bytes = Missing(*part, {0}) * part->tile_bytes();
  options.bytes_per_second = bytes * 5;
  const auto begin = std::chrono::steady_clock::now();
  ASSERT_EQ(FillRegions(*part, Regions({0}), options), absl::OkStatus());
  // All but the last batch must have been waited for.
  const double least = 0.2 * static_cast<double>(bytes - options.batch_bytes) / static_cast<double>(bytes);
  EXPECT_GE(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(), least);
}

}  // namespace
}  // namespace omni
