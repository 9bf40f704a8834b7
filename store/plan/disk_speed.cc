#include "store/plan/disk_speed.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <absl/strings/str_cat.h>

#include "engine/base/splitmix.h"
#include "store/file/files.h"

namespace omni {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kUnit = 4096;  // what O_DIRECT's offsets, sizes and addresses are multiples of
constexpr int64_t kSequentialBlock = int64_t{1} << 20;
// What is read goes to ever other places, as a model's tiles do: reading into memory that a processor's cache
// holds was measured half as fast again.
constexpr int64_t kBuffer = int64_t{64} << 20;
constexpr size_t kMaxFiles = 1024;

class OpenFile {
 public:
  OpenFile(int fd, int64_t bytes) : fd_(fd), bytes_(bytes) {}
  OpenFile(OpenFile&& other) noexcept : fd_(std::exchange(other.fd_, -1)), bytes_(other.bytes_) {}
  OpenFile& operator=(OpenFile&&) = delete;
  ~OpenFile() {
    if (fd_ >= 0) ::close(fd_);
  }
  int fd() const { return fd_; }
  int64_t bytes() const { return bytes_; }

 private:
  int fd_;
  int64_t bytes_;
};

struct FreeBlock {
  void operator()(uint8_t* p) const { std::free(p); }
};
using Block = std::unique_ptr<uint8_t, FreeBlock>;

Block MakeBlock(int64_t bytes) {
  return Block(static_cast<uint8_t*>(std::aligned_alloc(kUnit, static_cast<size_t>(bytes))));
}

// The file's block at `offset`; 0 or an errno.
int ReadBlock(int fd, uint8_t* block, int64_t bytes, int64_t offset) {
  for (int64_t done = 0; done < bytes;) {
    const ssize_t n =
        ::pread(fd, block + done, static_cast<size_t>(bytes - done), static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno;
    if (n == 0) return EIO;  // the file became shorter
    done += n;
  }
  return 0;
}

// Those of at least `least` bytes, opened. With `direct` a file that cannot be read so is left out.
std::vector<OpenFile> OpenFiles(const std::vector<std::string>& paths, int64_t least, bool direct) {
  std::vector<OpenFile> files;
  const Block block = MakeBlock(kUnit);
  for (const std::string& path : paths) {
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | (direct ? O_DIRECT : 0));
    if (fd < 0) continue;
    struct stat st {};
    const bool regular = ::fstat(fd, &st) == 0 && S_ISREG(st.st_mode);
    OpenFile file(fd, regular ? st.st_size : 0);
    if (file.bytes() < least || block == nullptr) continue;
    // Some file systems take the flag and refuse the read.
    if (direct && ReadBlock(fd, block.get(), kUnit, 0) != 0) continue;
    files.push_back(std::move(file));
    if (files.size() == kMaxFiles) break;
  }
  return files;
}

absl::StatusOr<std::vector<std::string>> PathsOf(const std::string& path) {
  struct stat st {};
  if (::stat(path.c_str(), &st) != 0) return SystemError(path, "read", errno);
  if (!S_ISDIR(st.st_mode)) return std::vector<std::string>{path};
  absl::StatusOr<std::vector<std::string>> names = ListFiles(path);
  if (!names.ok()) return names.status();
  for (std::string& name : *names) name = absl::StrCat(path, "/", name);
  return names;
}

absl::StatusOr<std::vector<OpenFile>> FilesOf(const std::string& path, int64_t least, bool* direct) {
  const absl::StatusOr<std::vector<std::string>> paths = PathsOf(path);
  if (!paths.ok()) return paths.status();
  *direct = true;
  std::vector<OpenFile> files = OpenFiles(*paths, least, true);
  if (files.empty()) {
    *direct = false;
    files = OpenFiles(*paths, least, false);
  }
  if (!files.empty()) return files;
  return absl::FailedPreconditionError(
      absl::StrCat(path, ": holds no readable file of ", least, " bytes or more to measure the disk with"));
}

struct Place {
  int fd;
  int64_t offset;
};

// The bytes a second of `readers` threads that each read the place of the next number, into the next block of
// `buffer`, until the time is over.
absl::StatusOr<double> Measure(const std::string& path, int readers, int64_t block_bytes,
                               AlignedBuffer& buffer, std::chrono::milliseconds limit,
                               const std::function<Place(int64_t)>& place) {
  const int64_t blocks = buffer.size() / block_bytes;
  std::atomic<int64_t> next{0}, bytes{0};
  std::atomic<int> error{0};
  const Clock::time_point start = Clock::now();
  const auto read = [&] {
    while (error == 0 && Clock::now() - start < limit) {
      const int64_t number = next++;
      const Place at = place(number);
      uint8_t* to = buffer.data() + number % blocks * block_bytes;
      if (const int failed = ReadBlock(at.fd, to, block_bytes, at.offset); failed != 0) error = failed;
      bytes += block_bytes;
    }
  };
  {
    std::vector<std::thread> threads;
    try {
      for (int i = 1; i < readers; ++i) threads.emplace_back(read);
    } catch (const std::system_error&) {  // no more threads to be had: fewer readers
    }
    read();
    for (std::thread& thread : threads) thread.join();
  }
  if (error != 0) return SystemError(path, "read", error);
  return static_cast<double>(bytes) / std::chrono::duration<double>(Clock::now() - start).count();
}

// Numbers blocks of `block_bytes` through all files.
class Blocks {
 public:
  Blocks(const std::vector<OpenFile>& files, int64_t block_bytes) : files_(files), block_bytes_(block_bytes) {
    for (const OpenFile& file : files) end_.push_back(count() + file.bytes() / block_bytes);
  }
  int64_t count() const { return end_.empty() ? 0 : end_.back(); }
  Place At(int64_t number) const {
    const size_t i = static_cast<size_t>(std::upper_bound(end_.begin(), end_.end(), number) - end_.begin());
    const int64_t begin = i == 0 ? 0 : end_[i - 1];
    return {files_[i].fd(), (number - begin) * block_bytes_};
  }

 private:
  const std::vector<OpenFile>& files_;
  int64_t block_bytes_;
  std::vector<int64_t> end_;
};

// Without O_DIRECT: what the page cache holds of the files would be measured in the disk's place.
void DropPages(const std::vector<OpenFile>& files) {
  for (const OpenFile& file : files) (void)::posix_fadvise(file.fd(), 0, 0, POSIX_FADV_DONTNEED);
}

}  // namespace

absl::StatusOr<DiskSpeed> MeasureDiskSpeed(const std::string& path, const DiskSpeedOptions& options) {
  DiskSpeed speed;
  speed.block_bytes = std::max<int64_t>(1, (options.block_bytes + kUnit - 1) / kUnit) * kUnit;
  speed.reads_in_flight = std::clamp(options.reads_in_flight, 1, 256);
  absl::StatusOr<std::vector<OpenFile>> files = FilesOf(path, speed.block_bytes, &speed.direct);
  if (!files.ok()) return files.status();
  for (const OpenFile& file : *files) speed.span_bytes += file.bytes();

  // No two readers share a block.
  const int64_t largest = std::max(speed.block_bytes, kSequentialBlock);
  const int64_t buffer_bytes = std::max(kBuffer, (speed.reads_in_flight + 1) * largest);
  if (buffer_bytes > options.free_bytes / 2) {
    return absl::ResourceExhaustedError(absl::StrCat("cannot be measured: that takes ", buffer_bytes >> 20,
                                                     " MiB of memory, and only ", options.free_bytes >> 20,
                                                     " are free"));
  }
  absl::StatusOr<AlignedBuffer> buffer = AlignedBuffer::Allocate(buffer_bytes);
  if (!buffer.ok()) return buffer.status();
  std::memset(buffer->data(), 1, static_cast<size_t>(buffer->size()));  // present before the clock runs

  const Blocks tiles(*files, speed.block_bytes);
  if (!speed.direct) DropPages(*files);
  // Other places each time: what was read last may be cached below this system.
  const auto seed = static_cast<uint64_t>(Clock::now().time_since_epoch().count());
  absl::StatusOr<double> random =
      Measure(path, speed.reads_in_flight, speed.block_bytes, *buffer, options.limit, [&](int64_t i) {
        return tiles.At(static_cast<int64_t>(CounterRandom(seed, static_cast<uint64_t>(i)) %
                                             static_cast<uint64_t>(tiles.count())));
      });
  if (!random.ok()) return random.status();
  speed.random_bytes_per_s = *random;

  const Blocks large(*files, kSequentialBlock), &in_order = large.count() > 0 ? large : tiles;
  if (!speed.direct) DropPages(*files);
  absl::StatusOr<double> sequential =
      Measure(path, speed.reads_in_flight, large.count() > 0 ? kSequentialBlock : speed.block_bytes, *buffer,
              options.limit, [&](int64_t i) { return in_order.At(i % in_order.count()); });
  if (!sequential.ok()) return sequential.status();
  speed.sequential_bytes_per_s = *sequential;
  return speed;
}

absl::StatusOr<bool> ReadsDirectly(const std::string& path) {
  bool direct = false;
  absl::StatusOr<std::vector<OpenFile>> files = FilesOf(path, kUnit, &direct);
  if (!files.ok()) return files.status();
  return direct;
}

}  // namespace omni
