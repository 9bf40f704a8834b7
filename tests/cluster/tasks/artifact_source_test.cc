// What attempts left is kept by its bytes for as long as their tasks are, and read from whichever node has
// it.
#include "cluster/tasks/artifact_source.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <future>
#include <map>

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include "cluster/tasks/lending_service.h"
#include "tests/testing/temp_dir.h"

namespace omni {
namespace {

using std::chrono::hours;
using ::testing::HasSubstr;
using testing::TempDir;

class ArtifactTest : public ::testing::Test {
 protected:
  void SetUp() override { Open(); }
  void Open() { store_ = std::make_unique<ArtifactStore>(ArtifactStore::Open(temp_ / "kept").value()); }
  // Where it is kept.
  std::string Keep(const std::string& bytes, std::chrono::milliseconds keep = hours(1)) {
    const std::string folder = temp_ / "left";
    std::filesystem::create_directory(folder);
    std::ofstream(folder + "/a", std::ios::binary) << bytes;
    std::string where;
    const absl::Status kept = store_->Collect(folder, {10, 100 << 20}, keep,
                                              [&](std::string_view, std::string_view at) { where = at; });
    EXPECT_TRUE(kept.ok()) << kept;
    return where;
  }
  bool IsKept(const std::string& where) const {
    return std::filesystem::exists(store_->PathOf(where).value());
  }
  void SetTime(const std::string& where, std::chrono::system_clock::time_point time) {
    const timespec at = {std::chrono::system_clock::to_time_t(time), 0}, times[2] = {at, at};
    ASSERT_EQ(utimensat(AT_FDCWD, store_->PathOf(where).value().c_str(), times, 0), 0);
  }

  const TempDir temp_ = TempDir::InMemory();
  std::unique_ptr<ArtifactStore> store_;
};

TEST_F(ArtifactTest, WhatDoesNotFitIsAnErrorThatSaysWhy) {
  std::filesystem::create_directory(temp_ / "left");
  std::ofstream(temp_ / "left/a", std::ios::binary) << std::string(200'000, 'x');
  ::signal(SIGXFSZ, SIG_IGN);
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const rlimit small{100'000, before.rlim_max};  // in the middle of what one write is given
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const absl::Status kept =
      store_->Collect(temp_ / "left", {10, 100 << 20}, hours(1), [](std::string_view, std::string_view) {});
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_EQ(kept.code(), absl::StatusCode::kResourceExhausted) << kept;
  EXPECT_THAT(std::string(kept.message()), HasSubstr("ulimit -f"));
}

TEST_F(ArtifactTest, AFileIsReadInPieces) {
  std::string bytes(3'000'001, '\0');
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * 2654435761u >> 13);
  const std::string where = Keep(bytes);
  std::string read;
  while (read.size() < bytes.size()) {
    const auto piece = store_->Read(where, static_cast<int64_t>(read.size()), 1 << 20);
    ASSERT_TRUE(piece.ok()) << piece.status();
    EXPECT_EQ(piece->size, static_cast<int64_t>(bytes.size()));
    EXPECT_LE(piece->data.size(), size_t{1} << 20);
    ASSERT_FALSE(piece->data.empty());
    read += piece->data;
  }
  EXPECT_TRUE(read == bytes);
  EXPECT_EQ(store_->Read(where, static_cast<int64_t>(bytes.size()), 10)->data, "");
  EXPECT_TRUE(absl::IsOutOfRange(store_->Read(where, 3'000'002, 10).status()));
  EXPECT_TRUE(absl::IsOutOfRange(store_->Read(where, -1, 10).status()));
  EXPECT_EQ(store_->Read(Keep(""), 0, 10)->size, 0);
}

TEST_F(ArtifactTest, WhatIsDamagedOrGoneIsSaid) {
  const std::string where = Keep("the sea");
  std::ofstream(store_->PathOf(where).value()) << "the see";
  const absl::Status damaged = store_->Read(where, 0, 10).status();
  EXPECT_TRUE(absl::IsDataLoss(damaged));
  EXPECT_THAT(std::string(damaged.message()), HasSubstr("is damaged"));
  std::ofstream(store_->PathOf(where).value()) << "the s";
  EXPECT_TRUE(absl::IsDataLoss(store_->Read(where, 0, 10).status())) << "cut";
  std::filesystem::remove(store_->PathOf(where).value());
  EXPECT_TRUE(absl::IsNotFound(store_->Read(where, 0, 10).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(store_->Read("sha256:../../etc/passwd", 0, 10).status()));
}

TEST_F(ArtifactTest, ItIsKeptForAsLongAsTheLongestOfItsTasks) {
  const std::string where = Keep("the sea", hours(100));
  EXPECT_EQ(Keep("the sea", hours(1)), where);
  struct stat about;
  ASSERT_EQ(stat(store_->PathOf(where).value().c_str(), &about), 0);
  const auto until = std::chrono::system_clock::from_time_t(about.st_mtim.tv_sec);
  EXPECT_GT(until, std::chrono::system_clock::now() + hours(99));
  store_->Sweep();
  EXPECT_TRUE(IsKept(where));
  SetTime(where, std::chrono::system_clock::now() - hours(1));
  store_->Sweep();
  EXPECT_FALSE(IsKept(where));
  EXPECT_EQ(Keep("the sea"), where);
  SetTime(where, std::chrono::system_clock::now() - hours(1));
  Open();
  EXPECT_FALSE(IsKept(where)) << "a server that starts sweeps too";
}

TEST_F(ArtifactTest, WhatSomebodyHadBegunGoesAtTheNextStart) {
  std::ofstream(temp_ / "kept/new-abcdef") << "half";
  store_->Sweep();
  EXPECT_TRUE(std::filesystem::exists(temp_ / "kept/new-abcdef")) << "it may be being written";
  Open();
  EXPECT_FALSE(std::filesystem::exists(temp_ / "kept/new-abcdef"));
}

class ArtifactSourceTest : public ArtifactTest {
 protected:
  // A node that has them.
  void SetUp() override {
    ArtifactTest::SetUp();
    there_.SetOwn("there", store_.get());
    lending_ = std::make_unique<LendingService>(
        nullptr, [] { return absl::UnavailableError("it does not coordinate"); }, [] { return ""; },
        [this](const std::string& where, int64_t offset, ArtifactSource::Done done) {
          there_.ReadOwn(where, offset, std::move(done));
        });
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(lending_->service());
    server_ = builder.BuildAndStart();
    address_ = "127.0.0.1:" + std::to_string(port);
  }
  void TearDown() override {
    if (server_ != nullptr) server_->Shutdown();
    server_ = nullptr;
  }
  absl::StatusOr<ArtifactPiece> Read(const std::string& node, const std::string& address,
                                     const std::string& where, int64_t offset = 0) {
    std::promise<absl::StatusOr<ArtifactPiece>> told;
    here_.Read(node, address, where, offset, [&](auto piece) { told.set_value(std::move(piece)); });
    return told.get_future().get();
  }
  ArtifactSource here_{grpc::InsecureChannelCredentials()}, there_{nullptr};
  std::unique_ptr<LendingService> lending_;
  std::unique_ptr<grpc::Server> server_;
  std::string address_;
};

TEST_F(ArtifactSourceTest, ItIsReadFromTheNodeThatHasIt) {
  const std::string where = Keep(std::string(2'000'000, 'x'));
  const auto piece = Read("there", address_, where);
  ASSERT_TRUE(piece.ok()) << piece.status();
  EXPECT_EQ(piece->size, 2'000'000);
  EXPECT_EQ(piece->data.size(), size_t{1} << 20);
  EXPECT_EQ(Read("there", address_, where, 1'999'999)->data, "x");
}

TEST_F(ArtifactSourceTest, WhatANodeHasItselfIsAskedOfNobody) {
  const std::string where = Keep("the sea");
  here_.SetOwn("here", store_.get());
  EXPECT_EQ(Read("here", "", where)->data, "the sea");
  EXPECT_EQ(Read("there", "", where)->data, "the sea") << "it is known by its bytes";
}

TEST_F(ArtifactSourceTest, WhyItCannotBeReadIsSaidWithTheNode) {
  const std::string where = Keep("the sea");
  const absl::Status unknown = Read("there", "", where).status();
  EXPECT_TRUE(absl::IsUnavailable(unknown));
  EXPECT_THAT(std::string(unknown.message()), HasSubstr("the node there"));
  std::ofstream(store_->PathOf(where).value()) << "the see";
  EXPECT_TRUE(absl::IsDataLoss(Read("there", address_, where).status()));
  std::filesystem::remove(store_->PathOf(where).value());
  const absl::Status gone = Read("there", address_, where).status();
  EXPECT_TRUE(absl::IsNotFound(gone));
  EXPECT_THAT(std::string(gone.message()), HasSubstr("the node there"));
  server_->Shutdown();
  EXPECT_TRUE(absl::IsUnavailable(Read("there", address_, where).status()));
}

}  // namespace
}  // namespace omni
