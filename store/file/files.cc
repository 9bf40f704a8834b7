#include "store/file/files.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>

#include <absl/strings/str_cat.h>

#include "engine/base/open_file.h"

namespace omni {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kHugePage = int64_t{2} << 20;
constexpr int64_t kCopyChunk = int64_t{1} << 20;

// Reads up to `bytes`; fewer only at the end of the file. -1: errno.
int64_t ReadSome(int fd, void* data, int64_t bytes) {
  int64_t done = 0;
  while (done < bytes) {
    const ssize_t n = ::read(fd, static_cast<char*>(data) + done, static_cast<size_t>(bytes - done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return -1;
    if (n == 0) break;
    done += n;
  }
  return done;
}

absl::StatusOr<int64_t> SizeOf(const std::string& path, int fd) {
  struct stat st;
  if (::fstat(fd, &st) != 0) return SystemError(path, "examine", errno);
  return static_cast<int64_t>(st.st_size);
}

absl::Status SyncPath(const std::string& path, int flags) {
  const FileDescriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | flags));
  if (fd.get() < 0) return SystemError(path, "open", errno);
  if (::fsync(fd.get()) != 0) return SystemError(path, "fsync", errno);
  return absl::OkStatus();
}

}  // namespace

void AlignedBuffer::Free::operator()(uint8_t* p) const { std::free(p); }

absl::StatusOr<AlignedBuffer> AlignedBuffer::Allocate(int64_t bytes) {
  AlignedBuffer buffer;
  buffer.size_ = bytes;
  const int64_t alignment = bytes >= kHugePage ? kHugePage : 64;
  if (bytes < 0 || bytes > INT64_MAX - alignment) {
    return absl::InvalidArgumentError(absl::StrCat("cannot allocate ", bytes, " bytes"));
  }
  const int64_t rounded = std::max<int64_t>(alignment, (bytes + alignment - 1) / alignment * alignment);
  void* p = std::aligned_alloc(static_cast<size_t>(alignment), static_cast<size_t>(rounded));
  if (p == nullptr) {
    return absl::ResourceExhaustedError(
        absl::StrCat("cannot allocate ", bytes, " bytes of memory; free some or use a machine with more"));
  }
  // Advice only: without huge pages everything works, a little slower.
  if (alignment == kHugePage) (void)::madvise(p, static_cast<size_t>(rounded), MADV_HUGEPAGE);
  buffer.data_.reset(static_cast<uint8_t*>(p));
  return buffer;
}

absl::StatusOr<AlignedBuffer> ReadAligned(const std::string& path, int64_t bytes) {
  const absl::StatusOr<FileDescriptor> fd = OpenRegular(path);
  if (!fd.ok()) return fd.status();
  absl::StatusOr<int64_t> size = SizeOf(path, fd->get());
  if (!size.ok()) return size.status();
  if (*size != bytes) {
    return absl::DataLossError(absl::StrCat(path, ": ", *size, " bytes long, should be ", bytes,
                                            "; the file is damaged: copy it again or pack the model again"));
  }
  absl::StatusOr<AlignedBuffer> buffer = AlignedBuffer::Allocate(bytes);
  if (!buffer.ok()) {
    return absl::Status(buffer.status().code(), absl::StrCat(path, ": ", buffer.status().message()));
  }
  const int64_t got = ReadSome(fd->get(), buffer->data(), bytes);
  if (got < 0) return SystemError(path, "read", errno);
  if (got != bytes) return absl::DataLossError(absl::StrCat(path, ": became shorter while it was read"));
  return buffer;
}

absl::StatusOr<std::string> ReadText(const std::string& path, int64_t limit) {
  const absl::StatusOr<FileDescriptor> fd = OpenRegular(path);
  if (!fd.ok()) return fd.status();
  absl::StatusOr<int64_t> size = SizeOf(path, fd->get());
  if (!size.ok()) return size.status();
  if (*size > limit) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": ", *size, " bytes long, at most ", limit, " expected"));
  }
  std::string text(static_cast<size_t>(*size), '\0');
  const int64_t got = ReadSome(fd->get(), text.data(), *size);
  if (got < 0) return SystemError(path, "read", errno);
  text.resize(static_cast<size_t>(got));
  return text;
}

absl::StatusOr<std::string> ReadStart(const std::string& path, int64_t bytes) {
  const absl::StatusOr<FileDescriptor> fd = OpenRegular(path);
  if (!fd.ok()) return fd.status();
  std::string text(static_cast<size_t>(bytes), '\0');
  const int64_t got = ReadSome(fd->get(), text.data(), bytes);
  if (got < 0) return SystemError(path, "read", errno);
  text.resize(static_cast<size_t>(got));
  return text;
}

absl::StatusOr<FileDigest> DigestFile(const std::string& path) {
  const absl::StatusOr<FileDescriptor> fd = OpenRegular(path);
  if (!fd.ok()) return fd.status();
  StreamHash hash;
  FileDigest digest;
  std::string chunk(kCopyChunk, '\0');
  while (true) {
    const int64_t got = ReadSome(fd->get(), chunk.data(), kCopyChunk);
    if (got < 0) return SystemError(path, "read", errno);
    hash.Update(chunk.data(), static_cast<size_t>(got));
    digest.bytes += got;
    if (got < kCopyChunk) break;
  }
  digest.hash = hash.Digest();
  return digest;
}

absl::StatusOr<std::vector<std::string>> ListFiles(const std::string& dir) {
  std::vector<std::string> names;
  std::error_code error;
  fs::recursive_directory_iterator it(dir, error);
  for (; !error && it != fs::recursive_directory_iterator(); it.increment(error)) {
    const std::string name = it->path().lexically_relative(dir).string();
    const bool is_directory = it->is_directory(error);
    if (error) break;
    if (!is_directory) {
      names.push_back(name);
    } else if (fs::is_empty(it->path(), error)) {
      names.push_back(name + "/");
    }
    if (error) break;
  }
  if (error) return SystemError(dir, "list", error.value());
  std::sort(names.begin(), names.end());
  return names;
}

bool IsDirectory(const std::string& path) {
  std::error_code error;
  return fs::is_directory(path, error);
}

absl::Status MakeDirectory(const std::string& path) {
  if (::mkdir(path.c_str(), 0777) != 0) return SystemError(path, "create the directory", errno);
  return absl::OkStatus();
}

absl::Status RemoveFile(const std::string& path) {
  if (::unlink(path.c_str()) != 0) return SystemError(path, "remove", errno);
  return absl::OkStatus();
}

absl::StatusOr<int64_t> FreeBytes(const std::string& path) {
  struct statvfs fs;
  if (::statvfs(path.c_str(), &fs) != 0) return SystemError(path, "ask for free space", errno);
  return static_cast<int64_t>(fs.f_bavail) * static_cast<int64_t>(fs.f_frsize);
}

absl::Status SyncFile(const std::string& path) { return SyncPath(path, 0); }

absl::Status SyncDirectory(const std::string& path) { return SyncPath(path, O_DIRECTORY); }

absl::StatusOr<FileWriter> FileWriter::Create(const std::string& path) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (fd < 0) return SystemError(path, "create", errno);
  return FileWriter(path, fd);
}

FileWriter::FileWriter(FileWriter&& other) noexcept
    : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)), size_(other.size_) {}

FileWriter::~FileWriter() {
  if (fd_ >= 0) ::close(fd_);
}

absl::Status FileWriter::Append(const void* data, int64_t bytes) { return WriteAt(size_, data, bytes); }

absl::Status FileWriter::AppendZeros(int64_t bytes) {
  const std::string zeros(static_cast<size_t>(std::min(bytes, kCopyChunk)), '\0');
  while (bytes > 0) {
    const int64_t n = std::min<int64_t>(bytes, static_cast<int64_t>(zeros.size()));
    if (absl::Status s = Append(zeros.data(), n); !s.ok()) return s;
    bytes -= n;
  }
  return absl::OkStatus();
}

absl::Status FileWriter::WriteAt(int64_t offset, const void* data, int64_t bytes) {
  int64_t done = 0;
  while (done < bytes) {
    const ssize_t n = ::pwrite(fd_, static_cast<const char*>(data) + done, static_cast<size_t>(bytes - done),
                               static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return SystemError(path_, "write", errno);
    done += n;
  }
  size_ = std::max(size_, offset + bytes);
  return absl::OkStatus();
}

absl::Status FileWriter::Sync() {
  if (::fsync(fd_) != 0) return SystemError(path_, "fsync", errno);
  if (::close(std::exchange(fd_, -1)) != 0) return SystemError(path_, "close", errno);
  return absl::OkStatus();
}

absl::Status WriteFileSynced(const std::string& path, std::string_view bytes) {
  absl::StatusOr<FileWriter> file = FileWriter::Create(path);
  if (!file.ok()) return file.status();
  if (absl::Status s = file->Append(bytes.data(), static_cast<int64_t>(bytes.size())); !s.ok()) return s;
  return file->Sync();
}

}  // namespace omni
