#include "store/file/stream_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

#include "engine/base/threads.h"

namespace omni {
namespace {

constexpr int64_t kBufferBytes = int64_t{4} << 20;
constexpr int64_t kDirectAlignment = 4096;
constexpr int kBuffers = 3;

}  // namespace

struct StreamWriter::Impl {
  std::string path, head;
  int fd = -1;
  bool direct = false;
  int64_t appended = 0;  // bytes, those in `current` included

  struct Buffer {
    AlignedBuffer memory;
    int64_t used = 0, offset = 0;
  };
  std::array<Buffer, kBuffers> buffers;
  size_t current = 0;  // being filled; the others are free, waiting or being written, in this order

  std::mutex mutex;
  std::condition_variable changed;
  size_t waiting = 0;  // full buffers before `current`
  bool ending = false;
  absl::Status error;
  StreamHash hash;
  std::thread thread;

  ~Impl() {
    End();
    if (fd >= 0) ::close(fd);
  }

  void End() {
    {
      const std::lock_guard lock(mutex);
      ending = true;
    }
    changed.notify_all();
    if (thread.joinable()) thread.join();
  }

  absl::Status WriteAt(const uint8_t* data, int64_t bytes, int64_t offset) const {
    for (int64_t done = 0; done < bytes;) {
      const ssize_t n =
          ::pwrite(fd, data + done, static_cast<size_t>(bytes - done), static_cast<off_t>(offset + done));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return SystemError(path, "write", errno);
      done += n;
    }
    return absl::OkStatus();
  }

  absl::Status WriteBuffer(Buffer& buffer) {
    // The head is hashed as it will be and left zero on the disk until the end.
    auto* data = buffer.memory.data();
    const auto head_bytes = static_cast<int64_t>(head.size());
    if (buffer.offset == 0) std::memcpy(data, head.data(), head.size());
    hash.Update(data, static_cast<size_t>(buffer.used));
    if (buffer.offset == 0) std::memset(data, 0, static_cast<size_t>(head_bytes));
    const int64_t whole = direct ? buffer.used / kDirectAlignment * kDirectAlignment : buffer.used;
    if (absl::Status s = WriteAt(data, whole, buffer.offset); !s.ok() || whole == buffer.used) return s;
    if (absl::Status s = LeaveDirect(); !s.ok()) return s;  // the last buffer's end
    return WriteAt(data + whole, buffer.used - whole, buffer.offset + whole);
  }

  absl::Status LeaveDirect() {
    if (!direct) return absl::OkStatus();
    direct = false;
    const int flags = ::fcntl(fd, F_GETFL);
    if (flags < 0 || ::fcntl(fd, F_SETFL, flags & ~O_DIRECT) != 0)
      return SystemError(path, "change its mode", errno);
    return absl::OkStatus();
  }

  void WriteBuffers() {
    std::unique_lock lock(mutex);
    size_t next = 0;
    while (true) {
      changed.wait(lock, [&] { return waiting > 0 || ending; });
      if (waiting == 0) return;
      lock.unlock();
      absl::Status written;
      try {
        written = WriteBuffer(buffers[next]);
      } catch (const std::exception&) {  // no memory for the text of an error; for this one neither
        written = absl::Status(absl::StatusCode::kResourceExhausted, "");
      }
      lock.lock();
      next = (next + 1) % kBuffers;
      --waiting;
      if (error.ok()) error = std::move(written);
      changed.notify_all();
    }
  }

  // Hands the current buffer over and waits for a free one.
  absl::Status HandOver() {
    std::unique_lock lock(mutex);
    ++waiting;
    changed.notify_all();
    changed.wait(lock, [&] { return waiting < kBuffers; });
    current = (current + 1) % kBuffers;
    buffers[current].used = 0;
    buffers[current].offset = appended;
    return Error();
  }

  absl::Status Error() const {
    if (!error.message().empty() || error.ok()) return error;
    return absl::Status(error.code(), path + ": no memory was left while it was written; free some");
  }
};

StreamWriter::StreamWriter(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
StreamWriter::~StreamWriter() = default;
int64_t StreamWriter::size() const { return impl_->appended; }

absl::StatusOr<std::unique_ptr<StreamWriter>> StreamWriter::Create(const std::string& path,
                                                                   std::string_view head,
                                                                   int64_t expected_bytes) {
  auto impl = std::make_unique<Impl>();
  impl->path = path;
  impl->head = head;
  constexpr int kFlags = O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC;
  impl->fd = ::open(path.c_str(), kFlags | O_DIRECT, 0666);
  impl->direct = impl->fd >= 0;
  if (impl->fd < 0 && errno == EINVAL) {  // some file systems refuse after they have made the file
    ::unlink(path.c_str());
    impl->fd = ::open(path.c_str(), kFlags, 0666);
  }
  if (impl->fd < 0) return SystemError(path, "create", errno);
  if (expected_bytes > 0) {
    const int failed = ::posix_fallocate(impl->fd, 0, static_cast<off_t>(expected_bytes));
    if (failed != 0 && failed != EINVAL && failed != EOPNOTSUPP)
      return SystemError(path, "reserve room", failed);
  }
  for (Impl::Buffer& buffer : impl->buffers) {
    absl::StatusOr<AlignedBuffer> memory = AlignedBuffer::Allocate(kBufferBytes);
    if (!memory.ok()) return memory.status();
    buffer.memory = *std::move(memory);
  }
  try {
    impl->thread = std::thread([p = impl.get()] { p->WriteBuffers(); });
  } catch (const std::system_error& failed) {
    const absl::Status refused = ThreadsRefused(1, "write a file", failed.code().value());
    return absl::Status(refused.code(), path + ": " + std::string(refused.message()));
  }
  std::unique_ptr<StreamWriter> writer(new StreamWriter(std::move(impl)));
  if (absl::Status s = writer->AppendZeros(static_cast<int64_t>(head.size())); !s.ok()) return s;
  return writer;
}

absl::Status StreamWriter::Append(const void* data, int64_t bytes) {
  const auto* from = static_cast<const uint8_t*>(data);
  while (bytes > 0) {
    Impl::Buffer& buffer = impl_->buffers[impl_->current];
    const int64_t n = std::min(bytes, kBufferBytes - buffer.used);
    if (from != nullptr) {
      std::memcpy(buffer.memory.data() + buffer.used, from, static_cast<size_t>(n));
      from += n;
    } else {
      std::memset(buffer.memory.data() + buffer.used, 0, static_cast<size_t>(n));
    }
    buffer.used += n;
    impl_->appended += n;
    bytes -= n;
    if (buffer.used < kBufferBytes) continue;
    if (absl::Status s = impl_->HandOver(); !s.ok()) return s;
  }
  return absl::OkStatus();
}

absl::Status StreamWriter::AppendZeros(int64_t bytes) { return Append(nullptr, bytes); }

absl::StatusOr<FileDigest> StreamWriter::Finish(std::string_view head) {
  Impl& impl = *impl_;
  if (absl::Status s = impl.HandOver(); !s.ok()) return s;
  impl.End();
  if (!impl.error.ok()) return impl.Error();
  if (absl::Status s = impl.LeaveDirect(); !s.ok()) return s;
  if (::ftruncate(impl.fd, static_cast<off_t>(impl.appended)) != 0)
    return SystemError(impl.path, "cut", errno);
  if (::fsync(impl.fd) != 0) return SystemError(impl.path, "fsync", errno);
  const auto* first = reinterpret_cast<const uint8_t*>(head.data());
  if (absl::Status s = impl.WriteAt(first, static_cast<int64_t>(head.size()), 0); !s.ok()) return s;
  if (::fsync(impl.fd) != 0) return SystemError(impl.path, "fsync", errno);
  if (::close(std::exchange(impl.fd, -1)) != 0) return SystemError(impl.path, "close", errno);
  if (head != impl.head) return DigestFile(impl.path);
  return FileDigest{impl.appended, impl.hash.Digest()};
}

}  // namespace omni
