// Runs a fuzz target without a fuzzer: its seeds, then a fixed sequence of mutated ones, so that it can be a
// test on any machine. Given files or directories, it runs those inputs instead, and nothing else.
//   NAME_fuzz [--runs N] [--seed N]
//   NAME_fuzz (FILE | DIRECTORY)...
// With --runs so many mutated ones instead of the test's number, and with another seed other ones.
// The input at work lies in PROGRAM.input and is removed once all have passed; after a crash it is what to
// look at.
#include <fcntl.h>
#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <new>

#include "engine/base/splitmix.h"
#include "tests/fuzz/fuzz.h"

namespace {

constexpr size_t kMaxInputBytes = size_t{1} << 18;
constexpr unsigned kMaxSeconds = 60;  // for one input: far more than the slowest takes under a sanitizer
// What one input may have allocated at any one moment.
constexpr size_t kMaxBaseBytes = size_t{4} << 20;  // unless the target says otherwise
constexpr size_t kMaxBytesPerByte = 64;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr int kSlowdown = 10;
#else
constexpr int kSlowdown = 1;
#endif

std::atomic<size_t> live_bytes{0};
std::atomic<size_t> limit_bytes{SIZE_MAX};

void* Allocate(size_t bytes, size_t alignment) {
  if (bytes > limit_bytes || live_bytes + bytes > limit_bytes) {
    limit_bytes = SIZE_MAX;  // the message may allocate
    std::fprintf(stderr, "fuzz: an input made the program allocate %zu bytes beside %zu\n", bytes,
                 live_bytes.load());
    std::abort();
  }
  void* p = nullptr;
  if (posix_memalign(&p, std::max(alignment, sizeof(void*)), std::max<size_t>(bytes, 1)) != 0) std::abort();
  live_bytes += malloc_usable_size(p);
  return p;
}

void Free(void* p) {
  if (p == nullptr) return;
  live_bytes -= malloc_usable_size(p);
  std::free(p);
}

class Random {
 public:
  explicit Random(uint64_t seed) : seed_(seed) {}
  uint64_t Next() { return omni::CounterRandom(seed_, count_++); }
  size_t Below(size_t n) { return n == 0 ? 0 : Next() % n; }
  size_t Short(size_t most) {
    return Below((size_t{1} << Below(1 + std::bit_width(most))) + 1);
  }  // mostly small

 private:
  const uint64_t seed_;
  uint64_t count_ = 0;
};

class Mutator {
 public:
  Mutator(std::vector<std::string> seeds, uint64_t seed) : seeds_(std::move(seeds)), random_(seed) {}

  std::string Make() {
    std::string s = seeds_[random_.Below(seeds_.size())];
    do {
      Change(&s);
    } while (random_.Below(3) != 0);
    if (s.size() > kMaxInputBytes) s.resize(kMaxInputBytes);
    return s;
  }

 private:
  uint64_t Extreme(size_t size) {
    const uint64_t edges[] = {0,
                              1,
                              0x7f,
                              0xff,
                              0xffff,
                              size,
                              uint64_t{1} << 31,
                              uint64_t{1} << 32,
                              uint64_t{1} << 53,
                              uint64_t{1} << 62,
                              uint64_t{1} << 63,
                              random_.Next() >> random_.Below(64)};
    return edges[random_.Below(std::size(edges))] + random_.Below(3) - 1;
  }

  template <typename T>
  void Overwrite(std::string* s) {
    if (s->size() < sizeof(T)) return;
    size_t at = random_.Below(s->size() - sizeof(T) + 1);
    if (random_.Below(2) == 0) at = at / sizeof(T) * sizeof(T);
    const T value = static_cast<T>(Extreme(s->size()));
    std::memcpy(s->data() + at, &value, sizeof value);
  }

  // A number or a word of a text becomes another one.
  void ReplaceToken(std::string* s) {
    static constexpr const char* kTokens[] = {"null", "true",  "{}",      "[]",  "\"\"",
                                              "-0",   "1e999", "-1e-320", "0.1", "\"\\u0000\""};
    const size_t begin = s->find_first_of("0123456789-\"tfn", random_.Below(s->size() + 1));
    if (begin == std::string::npos) return;
    const size_t end = std::min(s->find_first_of(",}]:\n ", begin), s->size());
    const size_t kind = random_.Below(4);
    const std::string token = kind == 0   ? kTokens[random_.Below(std::size(kTokens))]
                              : kind == 1 ? "-" + std::to_string(Extreme(s->size()))
                                          : std::to_string(Extreme(s->size()));
    s->replace(begin, end - begin, token);
  }

  void Change(std::string* s) {
    const size_t at = random_.Below(s->size() + 1);
    switch (random_.Below(11)) {
      case 0:
      case 1:
        if (at < s->size()) (*s)[at] = static_cast<char>((*s)[at] ^ (1 << random_.Below(8)));
        return;
      case 2:
        if (at < s->size()) (*s)[at] = static_cast<char>(random_.Next());
        return;
      case 3:
        s->resize(at);
        return;
      case 4:
        s->erase(at, random_.Short(s->size()));
        return;
      case 5: {
        std::string bytes(random_.Short(64), '\0');
        for (char& c : bytes) c = static_cast<char>(random_.Next());
        s->insert(at, bytes);
        return;
      }
      case 6: {  // a run of one byte, now and then a long one: nesting and counts
        const char c =
            random_.Below(2) == 0 ? "[{(\"9 a\0"[random_.Below(8)] : static_cast<char>(random_.Next());
        s->insert(at, random_.Short(kMaxInputBytes / 2), c);
        return;
      }
      case 7:
        s->insert(at, s->substr(random_.Below(s->size() + 1), random_.Short(s->size())));
        return;
      case 8: {
        const std::string& other = seeds_[random_.Below(seeds_.size())];
        *s = s->substr(0, at) + other.substr(random_.Below(other.size() + 1));
        return;
      }
      case 9:
        return random_.Below(2) == 0 ? Overwrite<uint32_t>(s) : Overwrite<uint64_t>(s);
      default:
        return ReplaceToken(s);
    }
  }

  std::vector<std::string> seeds_;
  Random random_;
};

class Runner {
 public:
  explicit Runner(const std::string& program)
      : kept_(program + ".input"), fd_(open(kept_.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644)) {
    if (fd_ < 0)
      std::fprintf(stderr, "fuzz: cannot write %s; a failing input will not be kept\n", kept_.c_str());
  }

  void Run(const std::string& input) {
    if (fd_ >= 0 && (ftruncate(fd_, 0) != 0 || pwrite(fd_, input.data(), input.size(), 0) < 0)) {
      std::fprintf(stderr, "fuzz: cannot write %s\n", kept_.c_str());
      std::exit(1);
    }
    // Bytes on the heap exactly, so that a sanitizer sees a read past them.
    const std::vector<uint8_t> bytes(input.begin(), input.end());
    alarm(kMaxSeconds);
    const size_t base = &omni::fuzz::kBaseBytes != nullptr ? omni::fuzz::kBaseBytes : kMaxBaseBytes;
    limit_bytes = live_bytes + base + kMaxBytesPerByte * input.size();
    LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
    limit_bytes = SIZE_MAX;
    alarm(0);
    ++done_;
  }

  void Finish() {
    if (fd_ >= 0) {
      close(fd_);
      unlink(kept_.c_str());
    }
    std::printf("%lld inputs passed\n", done_);
  }

 private:
  std::string kept_;
  int fd_;
  long long done_ = 0;
};

std::string FileBytes(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) {
    std::fprintf(stderr, "fuzz: cannot read %s\n", path.c_str());
    std::exit(1);
  }
  return {std::istreambuf_iterator<char>(in), {}};
}

std::vector<std::string> InputsOf(const std::filesystem::path& path) {
  if (!std::filesystem::is_directory(path)) return {FileBytes(path)};
  std::vector<std::string> inputs;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(path)) {
    if (entry.is_regular_file()) inputs.push_back(FileBytes(entry.path()));
  }
  return inputs;
}

}  // namespace

void* operator new(size_t bytes) { return Allocate(bytes, alignof(std::max_align_t)); }
void* operator new(size_t bytes, std::align_val_t alignment) {
  return Allocate(bytes, static_cast<size_t>(alignment));
}
void operator delete(void* p) noexcept { Free(p); }
void operator delete(void* p, size_t) noexcept { Free(p); }
void operator delete(void* p, std::align_val_t) noexcept { Free(p); }
void operator delete(void* p, size_t, std::align_val_t) noexcept { Free(p); }

int main(int argc, char** argv) {
  std::vector<std::string> given;
  int64_t runs = omni::fuzz::kRuns / kSlowdown;
  uint64_t number = 1;
  int first = 1;
  for (; first < argc && std::string_view(argv[first]).starts_with("--"); first += 2) {
    const std::string_view name = argv[first], text = first + 1 < argc ? argv[first + 1] : "";
    uint64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size() || value > uint64_t{INT64_MAX}) {
      std::fprintf(stderr, "fuzz: %s wants a whole number behind it\n", argv[first]);
      return 2;
    }
    if (name == "--runs") {
      runs = static_cast<int64_t>(value);
    } else if (name == "--seed") {
      number = value;
    } else {
      std::fprintf(stderr, "fuzz: unknown flag %s\n", argv[first]);
      return 2;
    }
  }
  if (first > 1 && first < argc) {
    std::fprintf(stderr, "fuzz: %s does nothing beside %s: a file is run as it is\n", argv[1], argv[first]);
    return 2;
  }
  for (int i = first; i < argc; ++i) {
    for (std::string& input : InputsOf(argv[i])) given.push_back(std::move(input));
  }
  Runner runner(argv[0]);
  if (argc > first) {
    for (const std::string& input : given) runner.Run(input);
  } else {
    std::vector<std::string> seeds = omni::fuzz::Seeds();
    for (const std::string& seed : seeds) runner.Run(seed);
    Mutator mutator(std::move(seeds), number);
    for (int64_t i = 0; i < runs; ++i) runner.Run(mutator.Make());
  }
  runner.Finish();
  return 0;
}
