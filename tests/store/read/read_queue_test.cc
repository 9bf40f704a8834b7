#include "store/read/read_queue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <latch>
#include <mutex>
#include <random>
#include <thread>

#include "store/file/files.h"
#include "tests/store/read/read_queue_fixture.h"
#include "tests/testing/faulty_reads.h"
#include "tests/testing/file_bytes.h"
#include "tests/testing/recording_log.h"
#include "tests/testing/seccomp.h"
#include "tests/testing/temp_dir.h"

namespace omni {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::EndsWith;
using testing::Fault;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::Pages;
using testing::RandomBytes;
using testing::ReadQueueTest;
using testing::Reports;
using ::testing::StartsWith;
using testing::StoppedQueue;
using testing::TempDir;
using testing::WriteBytes;

INSTANTIATE_TEST_SUITE_P(Methods, ReadQueueTest, ::testing::Values(ReadMethod::kUring, ReadMethod::kPread),
                         [](const auto& info) {
                           return info.param == ReadMethod::kUring ? "Uring" : "Pread";
                         });

// Two files, one on another file system if there is one; destinations in the registered memory and outside.
TEST_P(ReadQueueTest, EveryByteComesFromWhereItWasAskedFor) {
  std::error_code none;
  std::string other = temp_.path();
  std::string shm = "/dev/shm/omni-test-XXXXXX";
  if (::mkdtemp(shm.data()) != nullptr) other = shm;
  const std::vector<std::string> paths = {temp_ / "a", other + "/b"};
  std::vector<std::string> bytes;
  for (const std::string& path : paths) {
    bytes.push_back(RandomBytes((size_t{3} << 20) + 1234, bytes.size() + 1));
    WriteBytes(path, bytes.back());
  }

  constexpr int64_t kPlace = 40 * kReadBlock, kPlaces = 300;
  Pages memory(kPlace * kPlaces);
  ReadQueueOptions options = Options();
  options.memory = memory.span().first(static_cast<size_t>(kPlace * kPlaces / 2) + 100 * kReadBlock);
  Reports reports;
  absl::StatusOr<std::unique_ptr<ReadQueue>> queue = ReadQueue::Open(paths, options, reports.done());
  ASSERT_TRUE(queue.ok()) << queue.status();

  std::mt19937_64 random(7);
  std::vector<ReadRequest> requests;
  for (int64_t i = 0; i < kPlaces; ++i) {
    const bool whole = random() % 4 != 0;  // blocks; else any bytes
    const auto file = static_cast<int32_t>(random() % 2);
    const uint64_t size = bytes[static_cast<size_t>(file)].size();
    ReadRequest request = {.file = file, .to = memory.data() + i * kPlace, .tag = random()};
    request.offset = random() % size;
    request.bytes = static_cast<int64_t>(1 + random() % static_cast<uint64_t>(kPlace - 7));
    if (whole) {
      request.offset = request.offset / 4096 * 4096;
      request.bytes = (request.bytes + 4095) / 4096 * 4096;
    } else {
      request.to += random() % 8;
    }
    request.needed = std::min(request.bytes, static_cast<int64_t>(size - request.offset));
    requests.push_back(request);
  }
  std::span<const ReadRequest> rest = requests;
  while (!rest.empty()) {
    const size_t n = std::min<size_t>(rest.size(), 1 + random() % 20);
    (*queue)->Submit(rest.first(n), static_cast<ReadUrgency>(random() % kReadUrgencies));
    rest = rest.subspan(n);
  }
  reports.WaitFor(requests.size());
  std::vector<uint64_t> tags = reports.tags(), expected;
  int64_t needed = 0;
  for (size_t i = 0; i < requests.size(); ++i) {
    const ReadRequest& request = requests[i];
    EXPECT_TRUE(reports.status(i).ok()) << reports.status(i);
    EXPECT_EQ(std::memcmp(request.to, bytes[static_cast<size_t>(request.file)].data() + request.offset,
                          static_cast<size_t>(request.needed)),
              0)
        << i;
    expected.push_back(request.tag);
    needed += request.needed;
  }
  EXPECT_THAT(tags, ::testing::UnorderedElementsAreArray(expected));
  const ReadQueue::Stats stats = (*queue)->stats();
  EXPECT_EQ(stats.reads, kPlaces);
  EXPECT_EQ(stats.errors, 0);
  EXPECT_GE(stats.bytes, needed);
  EXPECT_GT(stats.busy_ns, 0);
  EXPECT_THAT((*queue)->description(),
              HasSubstr(GetParam() == ReadMethod::kUring ? "io_uring" : "4 threads of pread"));
  queue->reset();
  if (other == shm) fs::remove_all(shm, none);
}

TEST_P(ReadQueueTest, ReadsPastThePageCacheWhereTheFileSystemAllows) {
  const std::string bytes = RandomBytes(16384, 2);
  WriteBytes(temp_ / "f", bytes);
  Pages memory(16384);
  Reports reports;
  absl::StatusOr<std::unique_ptr<ReadQueue>> queue =
      ReadQueue::Open({temp_ / "f"}, Options(), reports.done());
  ASSERT_TRUE(queue.ok()) << queue.status();
  if (!(*queue)->direct(0)) GTEST_SKIP() << "the file system of " << temp_.path() << " refuses O_DIRECT";
  const ReadRequest request = {.bytes = 16384, .needed = 16384, .to = memory.data()};
  (*queue)->Submit({&request, 1}, ReadUrgency::kGuessed);
  reports.WaitFor(1);
  EXPECT_TRUE(reports.status(0).ok()) << reports.status(0);
  if (!(*queue)->direct(0)) GTEST_SKIP() << "the file system of " << temp_.path() << " took O_DIRECT only";
  EXPECT_THAT((*queue)->description(), HasSubstr("O_DIRECT"));
  EXPECT_EQ(std::memcmp(memory.data(), bytes.data(), bytes.size()), 0);
}

TEST_P(ReadQueueTest, TheLastBlockMayReachPastTheEndButWhatIsNeededMustBeThere) {
  const std::string bytes = RandomBytes(5 * 4096 + 123, 1);
  WriteBytes(temp_ / "f", bytes);
  Pages memory(3 * 4096);
  ReadRequest request = {.offset = 4 * 4096, .bytes = 2 * 4096, .needed = 4096 + 123, .to = memory.data()};
  EXPECT_TRUE(ReadOne(temp_ / "f", request).ok());
  EXPECT_EQ(std::memcmp(memory.data(), bytes.data() + 4 * 4096, 4096 + 123), 0);

  request.needed += 1;
  absl::Status status = ReadOne(temp_ / "f", request);
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("/f: read 4219 bytes of 4220 at 16384; the file is shorter than its header says"));

  request.offset = 100 * 4096;
  status = ReadOne(temp_ / "f", request);
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr("/f: read 0 bytes of 4220 at 409600"));

  request.to += 1;  // not direct
  request.offset = 5 * 4096;
  EXPECT_THAT(std::string(ReadOne(temp_ / "f", request).message()), HasSubstr("read 123 bytes of 4220"));
  request.bytes = request.needed = 123;
  EXPECT_TRUE(ReadOne(temp_ / "f", request).ok());
}

TEST_P(ReadQueueTest, AFileThatShrinksIsAnErrorOfItsReadsOnly) {
  WriteBytes(temp_ / "f", std::string(65536, 'x'));
  WriteBytes(temp_ / "g", std::string(65536, 'y'));
  Pages memory(65536);
  Reports reports;
  absl::StatusOr<std::unique_ptr<ReadQueue>> queue =
      ReadQueue::Open({temp_ / "f", temp_ / "g"}, Options(), reports.done());
  ASSERT_TRUE(queue.ok()) << queue.status();
  fs::resize_file(temp_ / "f", 4100);
  const auto read = [&](int32_t file) {
    const ReadRequest request = {.file = file, .bytes = 65536, .needed = 65536, .to = memory.data()};
    (*queue)->Submit({&request, 1}, ReadUrgency::kGuessed);
    reports.WaitFor(reports.tags().size() + 1);
  };
  read(0);
  EXPECT_THAT(reports.message(0), HasSubstr("/f: read 4100 bytes of 65536 at 0"));
  read(1);
  EXPECT_TRUE(reports.status(1).ok());
  EXPECT_EQ((*queue)->stats().errors, 1);
}

TEST_P(ReadQueueTest, OpensOnlyRegularFiles) {
  const auto open = [&](const std::string& path) {
    return ReadQueue::Open({temp_ / "probe", path}, Options(), [](uint64_t, const absl::Status&) {}).status();
  };
  EXPECT_EQ(open(temp_ / "none").code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(open(temp_ / "none").message()), HasSubstr("/none: cannot open: No such file"));
  EXPECT_EQ(open(temp_.path()).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(open(temp_.path()).message()), EndsWith(": not a regular file"));
}

TEST_P(ReadQueueTest, RefusesOptionsThatMakeNoSense) {
  for (const auto& [depth, threads] : {std::pair{0, 1}, {5000, 1}, {1, 0}, {1, 1000}}) {
    ReadQueueOptions options = Options();
    options.depth = depth;
    options.threads = threads;
    EXPECT_EQ(ReadQueue::Open({}, options, nullptr).status().code(), absl::StatusCode::kInvalidArgument);
  }
  EXPECT_TRUE(ReadQueue::Open({}, Options(), nullptr).ok());
}

TEST_P(ReadQueueTest, ReportsRequestsThatMakeNoSense) {
  Pages memory(4096);
  const absl::Status status =
      ReadOne(temp_ / "probe", {.file = 7, .bytes = 4096, .needed = 1, .to = memory.data()});
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("cannot read file 7: the queue has 1 files"));
}

// The first page of a process is never there.
TEST_P(ReadQueueTest, AnInputErrorNamesFileOffsetAndReason) {
  Pages memory(4096);
  const absl::Status status = ReadOne("/proc/self/mem", {.bytes = 4096, .needed = 4096, .to = memory.data()});
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()),
              StartsWith("/proc/self/mem: cannot read 4096 bytes at 0: Input/output error; "));
}

TEST_P(ReadQueueTest, ReadsThroughThePageCacheWhereThereIsNoDirectReading) {
  const testing::RecordingLog log;
  std::string expected;
  std::getline(std::ifstream("/proc/version"), expected);
  Pages memory(4096);
  Reports reports;
  absl::StatusOr<std::unique_ptr<ReadQueue>> queue =
      ReadQueue::Open({"/proc/version"}, Options(), reports.done());
  ASSERT_TRUE(queue.ok()) << queue.status();
  EXPECT_FALSE((*queue)->direct(0));
  EXPECT_THAT((*queue)->description(), HasSubstr("through the page cache"));
  EXPECT_THAT(log.Messages("direct_refused"),
              ElementsAre("/proc/version is read through the page cache: its file system refuses O_DIRECT "
                          "(files=1)"));
  const ReadRequest request = {
      .bytes = 4096, .needed = static_cast<int64_t>(expected.size()), .to = memory.data()};
  (*queue)->Submit({&request, 1}, ReadUrgency::kAsked);
  reports.WaitFor(1);
  EXPECT_TRUE(reports.status(0).ok()) << reports.status(0);
  EXPECT_EQ(std::string(reinterpret_cast<char*>(memory.data()), expected.size()), expected);
}

// Every read submits the next one from `done`, beside many threads that submit.
TEST_P(ReadQueueTest, ManyThreadsAndDoneItselfMaySubmit) {
  constexpr uint64_t kThreads = 8, kEach = 100, kChain = 200, kBlocks = 64;
  const std::string bytes = RandomBytes(kBlocks * 4096, 3);
  WriteBytes(temp_ / "f", bytes);
  Pages memory(static_cast<int64_t>((kThreads * kEach + kChain) * 4096));
  const auto request = [&](uint64_t tag) {
    return ReadRequest{.offset = tag % kBlocks * 4096,
                       .bytes = 4096,
                       .needed = 4096,
                       .to = memory.data() + tag * 4096,
                       .tag = tag};
  };
  Reports reports;
  const ReadQueue::Done record = reports.done();
  ReadQueue* chained = nullptr;
  absl::StatusOr<std::unique_ptr<ReadQueue>> queue =
      ReadQueue::Open({temp_ / "f"}, Options(), [&](uint64_t tag, const absl::Status& status) {
        const uint64_t next = tag + 1;
        if (tag >= kThreads * kEach && next < kThreads * kEach + kChain) {
          const ReadRequest link = request(next);
          chained->Submit({&link, 1}, static_cast<ReadUrgency>(tag % 2));
        }
        record(tag, status);
      });
  ASSERT_TRUE(queue.ok()) << queue.status();
  chained = queue->get();
  const ReadRequest link = request(kThreads * kEach);
  chained->Submit({&link, 1}, ReadUrgency::kGuessed);
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (uint64_t i = 0; i < kEach; ++i) {
        const ReadRequest r = request(t * kEach + i);
        chained->Submit({&r, 1}, static_cast<ReadUrgency>(i % 3));
        if (i > 0) chained->Promote(t * kEach + i - 1);
        (void)chained->stats();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  reports.WaitFor(kThreads * kEach + kChain);
  std::vector<uint64_t> tags = reports.tags();
  std::sort(tags.begin(), tags.end());
  for (uint64_t tag = 0; tag < tags.size(); ++tag) {
    EXPECT_EQ(tags[tag], tag);
    EXPECT_TRUE(reports.status(tag).ok()) << reports.status(tag);
    EXPECT_EQ(std::memcmp(memory.data() + tag * 4096, bytes.data() + tag % kBlocks * 4096, 4096), 0);
  }
}

TEST_P(ReadQueueTest, FaultsOfAFaultyDiskLookLikeRealOnes) {
  const std::string bytes = RandomBytes(8192, 3);
  WriteBytes(temp_ / "f", bytes);
  Pages memory(4 * 8192);
  Reports reports;
  ReadQueueOptions options = Options();
  options.depth = options.threads = 1;
  absl::StatusOr<std::unique_ptr<ReadQueue>> queue = testing::OpenFaultyReads(
      {temp_ / "f"}, options,
      [](const ReadRequest& request) {
        constexpr Fault kFaults[] = {{},
                                     {.kind = Fault::Kind::kFlipBit, .at = 8 * 4097 + 3},
                                     {.kind = Fault::Kind::kShorten, .at = 100},
                                     {.kind = Fault::Kind::kFail}};
        return kFaults[request.tag];
      },
      reports.done());
  ASSERT_TRUE(queue.ok()) << queue.status();
  std::vector<ReadRequest> requests;
  for (uint64_t tag = 0; tag < 4; ++tag) {
    requests.push_back({.bytes = 8192, .needed = 8000, .to = memory.data() + tag * 8192, .tag = tag});
  }
  (*queue)->Submit(requests, ReadUrgency::kGuessed);
  reports.WaitFor(4);
  EXPECT_THAT(reports.tags(), ElementsAre(0, 1, 2, 3));
  const auto read = [&](size_t tag) {
    return std::string(reinterpret_cast<char*>(memory.data()) + tag * 8192, 8192);
  };
  EXPECT_TRUE(reports.status(0).ok() && reports.status(1).ok());
  EXPECT_EQ(read(0), bytes);
  std::string flipped = bytes;
  flipped[4097] = static_cast<char>(flipped[4097] ^ 8);
  EXPECT_EQ(read(1), flipped);
  EXPECT_THAT(reports.message(2), HasSubstr("/f: read 100 bytes of 8000 at 0; the file is shorter"));
  EXPECT_EQ(read(2).substr(0, 100), bytes.substr(0, 100));
  EXPECT_NE(read(2).substr(100), bytes.substr(100));
  EXPECT_THAT(reports.message(3), HasSubstr("/f: cannot read 8192 bytes at 0: Input/output error"));
  EXPECT_NE(read(3), bytes);
}

// What only io_uring can be refused.
class UringTest : public ReadQueueTest {
 protected:
  // Opens with io_uring or by choice, reads a block and says how.
  std::string ReadsWith(ReadMethod method, std::span<uint8_t> memory, uint8_t* to) {
    WriteBytes(temp_ / "f", std::string(8192, 'x'));
    Reports reports;
    absl::StatusOr<std::unique_ptr<ReadQueue>> queue = ReadQueue::Open(
        {temp_ / "f"}, {.method = method, .depth = 4, .threads = 2, .memory = memory}, reports.done());
    if (!queue.ok()) return queue.status().ToString();
    const ReadRequest request = {.bytes = 8192, .needed = 8192, .to = to};
    std::memset(to, 0, 8192);
    (*queue)->Submit({&request, 1}, ReadUrgency::kGuessed);
    reports.WaitFor(1);
    EXPECT_TRUE(reports.status(0).ok()) << reports.status(0);
    EXPECT_EQ(std::string(reinterpret_cast<char*>(to), 8192), std::string(8192, 'x'));
    return (*queue)->description();
  }
};

INSTANTIATE_TEST_SUITE_P(Uring, UringTest, ::testing::Values(ReadMethod::kUring),
                         [](const auto&) { return "Uring"; });

TEST_P(UringTest, PreadTakesItsPlaceWhereItIsNotAllowed) {
  Pages memory(8192);
  struct Case {
    long call;
    int error;
    const char* cure;
  };
  for (const Case& c : {Case{SYS_io_uring_setup, EPERM, "kernel.io_uring_disabled"},
                        {SYS_io_uring_setup, ENOSYS, "a kernel with io_uring"},
                        {SYS_io_uring_setup, ENOMEM, "ulimit -l"},
                        {SYS_io_uring_enter, EPERM, "kernel.io_uring_disabled"}}) {
    const testing::RecordingLog log;
    const bool ran = testing::RunWithout({.call = static_cast<int>(c.call), .error = c.error}, [&] {
      EXPECT_THAT(ReadsWith(ReadMethod::kAuto, memory.span(), memory.data()),
                  AllOf(HasSubstr("2 threads of pread, "), HasSubstr("io_uring is not available: "),
                        HasSubstr(std::strerror(c.error))));
      EXPECT_THAT(ReadsWith(ReadMethod::kUring, memory.span(), memory.data()),
                  AllOf(HasSubstr("UNAVAILABLE: io_uring is not available: "), HasSubstr(c.cure)));
    });
    if (!ran) GTEST_SKIP() << "no seccomp";
    EXPECT_THAT(log.Messages("uring_refused"),  // of the first alone: the second was refused itself
                ElementsAre(AllOf(StartsWith("tiles are read with pread: io_uring is not available: "),
                                  HasSubstr(std::strerror(c.error)), HasSubstr(c.cure))));
  }
}

TEST_P(UringTest, ReadsWithoutRegisteringWhereThatIsNotAllowed) {
  const testing::RecordingLog log;
  Pages memory(8192);
  constexpr int kRegisterBuffers = 0, kRegisterFiles = 2;  // of io_uring_register
  const bool ran =
      testing::RunWithout({.call = SYS_io_uring_register, .error = ENOMEM, .second = kRegisterBuffers}, [&] {
        EXPECT_THAT(ReadsWith(ReadMethod::kUring, memory.span(), memory.data()),
                    HasSubstr("buffers not registered (Cannot allocate memory; raise the limit of locked"));
      });
  if (!ran) GTEST_SKIP() << "no seccomp";
  EXPECT_THAT(log.Messages("buffers_not_registered"),
              ElementsAre("io_uring reads into memory that is not pinned: Cannot allocate memory; raise the "
                          "limit of locked memory, ulimit -l (bytes=8192)"));
  EXPECT_TRUE(
      testing::RunWithout({.call = SYS_io_uring_register, .error = EMFILE, .second = kRegisterFiles}, [&] {
        EXPECT_THAT(ReadsWith(ReadMethod::kUring, memory.span(), memory.data()), StartsWith("io_uring, "));
      }));
}

TEST_P(UringTest, SaysWhichMemoryItCannotRegister) {
  Pages memory(8192);
  EXPECT_THAT(ReadsWith(ReadMethod::kUring, {}, memory.data()),
              AllOf(StartsWith("io_uring, "), Not(HasSubstr("buffers"))));
  void* nothing = ::mmap(nullptr, 8192, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(nothing, MAP_FAILED);
  EXPECT_THAT(ReadsWith(ReadMethod::kUring, {static_cast<uint8_t*>(nothing), 8192}, memory.data()),
              HasSubstr("buffers not registered (Bad address)"));
  ::munmap(nothing, 8192);
}

// More than one registered piece: 1 GiB and a bit of addresses, with the same 2 MiB behind all of them.
TEST_P(UringTest, ReadsAcrossTheEdgeOfARegisteredPiece) {
  constexpr size_t kMapped = size_t{2} << 20, kPiece = size_t{1} << 30, kAll = kPiece + kMapped;
  const int fd = ::memfd_create("pieces", MFD_CLOEXEC);
  ASSERT_GE(fd, 0);
  ASSERT_EQ(::ftruncate(fd, kMapped), 0);
  auto* all = static_cast<uint8_t*>(::mmap(nullptr, kAll, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  ASSERT_NE(all, MAP_FAILED);
  for (size_t at = 0; at < kAll; at += kMapped) {
    ASSERT_EQ(::mmap(all + at, kMapped, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0), all + at);
  }
  for (uint8_t* to : {all, all + kPiece - 8192, all + kPiece - 4096, all + kPiece, all + kAll - 8192}) {
    const std::string description = ReadsWith(ReadMethod::kUring, {all, kAll}, to);
    if (description.find("registered buffers") == std::string::npos) GTEST_SKIP() << description;
  }
  ::munmap(all, kAll);
  ::close(fd);
}

}  // namespace
}  // namespace omni
