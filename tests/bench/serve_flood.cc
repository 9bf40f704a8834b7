// `omni serve` under clients that mean it no good: so many new connections a second that are dropped at once,
// sent half a request or nonsense, reset, or left open, while others are answered. Fails if the server ends,
// if whoever is honest gets another answer than alone, or if the server's memory grows with the number of
// clients.
//   serve_flood -m MODEL --omni PROGRAM [--rate N] [--seconds N] [--connections N]
// Prints a JSON object.
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <fstream>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include <nlohmann/json.hpp>

#include "tests/cluster/http/raw_client.h"
#include "tests/testing/node_process.h"
#include "tests/testing/temp_dir.h"

namespace omni::testing {
namespace {

using Clock = std::chrono::steady_clock;

struct FloodOptions {
  std::string model, omni;
  int64_t rate = 10'000, seconds = 10;
  int64_t connections = 0;  // in all, as fast as may be; 0: rate * seconds
};

[[noreturn]] void Fail(const std::string& why) {
  std::fprintf(stderr, "serve_flood: %s\n", why.c_str());
  std::exit(1);
}

sockaddr_in AddressOf(const std::string& address) {
  sockaddr_in to{};
  const size_t colon = address.rfind(':');
  to.sin_family = AF_INET;
  to.sin_port = htons(static_cast<uint16_t>(std::atoi(address.c_str() + colon + 1)));
  inet_pton(AF_INET, address.substr(0, colon).c_str(), &to.sin_addr);
  return to;
}

// Bytes of memory that the process has; 0 once it is gone.
int64_t ResidentBytes(pid_t pid) {
  std::ifstream in("/proc/" + std::to_string(pid) + "/statm");
  int64_t size = 0, resident = 0;
  in >> size >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

// Asks over one connection that it keeps, again and again: so often, or until it is told to stop.
class HonestClient {
 public:
  explicit HonestClient(std::string address, int64_t often = INT64_MAX)
      : address_(std::move(address)),
        request_(Post("/v1/completions", R"({"prompt":"The sea","max_tokens":8,"temperature":0})")) {
    first_ = Ask();
    if (first_.empty()) Fail("nobody who asks alone is answered");
    thread_ = std::thread([this, often] {
      for (int64_t i = 0; i < often && !stop_; ++i) {
        const Clock::time_point start = Clock::now();
        if (Ask() != first_) {
          ++wrong_;
          continue;
        }
        seconds_.push_back(std::chrono::duration<double>(Clock::now() - start).count());
      }
    });
  }
  ~HonestClient() { Stop(); }
  HonestClient(const HonestClient&) = delete;
  HonestClient& operator=(const HonestClient&) = delete;
  void Stop() {
    stop_ = true;
    Join();
  }
  void Join() {
    if (thread_.joinable()) thread_.join();
  }
  // After Stop or Join.
  int64_t answered() const { return static_cast<int64_t>(seconds_.size()); }
  int64_t wrong() const { return wrong_; }
  double Quantile(double q) {
    if (seconds_.empty()) return 0;
    std::sort(seconds_.begin(), seconds_.end());
    return seconds_[std::min(seconds_.size() - 1,
                             static_cast<size_t>(q * static_cast<double>(seconds_.size())))];
  }

 private:
  // The text of the answer; empty: there was none.
  std::string Ask() {
    if (client_ == nullptr) client_ = std::make_unique<RawClient>(address_);
    client_->Send(request_);
    const std::optional<RawAnswer> answer = client_->Read();
    const nlohmann::json body =
        answer.has_value() ? nlohmann::json::parse(answer->body, nullptr, false) : nlohmann::json();
    if (body.is_object() && body.contains("choices")) return body["choices"][0]["text"].get<std::string>();
    client_.reset();
    return {};
  }

  const std::string address_, request_;
  std::string first_;
  std::unique_ptr<RawClient> client_;
  std::atomic<bool> stop_{false};
  int64_t wrong_ = 0;
  std::vector<double> seconds_;
  std::thread thread_;
};

// What one after the other of the bad clients does once it is connected.
enum class Deed { kReset, kClose, kHalfARequest, kNonsense, kRequest, kStay };
constexpr Deed kDeeds[] = {Deed::kReset, Deed::kClose,   Deed::kHalfARequest, Deed::kNonsense,
                           Deed::kReset, Deed::kRequest, Deed::kClose,        Deed::kStay};

std::string_view SaidBy(Deed deed) {
  switch (deed) {
    case Deed::kHalfARequest:
    case Deed::kStay:
      return "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Le";
    case Deed::kNonsense:
      return "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 nothing that a server could read\r\n\r\n";
    case Deed::kRequest:
      return "GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    default:
      return {};
  }
}

struct FloodResult {
  int64_t connected = 0, failed = 0, answered = 0;
  double seconds = 0;
};

class Flood {
 public:
  Flood(const std::string& address, const FloodOptions& options)
      : to_(AddressOf(address)), options_(options), epoll_(epoll_create1(EPOLL_CLOEXEC)) {}
  ~Flood() {
    for (const int fd : staying_) close(fd);
    close(epoll_);
  }
  Flood(const Flood&) = delete;
  Flood& operator=(const Flood&) = delete;

  FloodResult Run(const std::function<void()>& now_and_then) {
    const int64_t all = options_.connections > 0 ? options_.connections : options_.rate * options_.seconds;
    const Clock::time_point start = Clock::now();
    Clock::time_point look = start;
    while (begun_ < all || open_ > 0) {
      const double elapsed = std::chrono::duration<double>(Clock::now() - start).count();
      const int64_t due =
          options_.connections > 0
              ? all
              : std::min(all, static_cast<int64_t>(elapsed * static_cast<double>(options_.rate)));
      while (begun_ < due && open_ < kMostOpen) Begin();
      Handle();
      if (Clock::now() >= look) {
        now_and_then();
        look = Clock::now() + std::chrono::milliseconds(100);
      }
    }
    result_.seconds = std::chrono::duration<double>(Clock::now() - start).count();
    return result_;
  }

 private:
  static constexpr int64_t kMostOpen = 512;     // connecting, or waiting for an answer
  static constexpr size_t kMostStaying = 1000;  // that keep their connection and say no more

  void Begin() {
    const int64_t number = begun_++;
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) Fail("no socket: raise the limit of open files");
    // Each of many addresses of loopback has ports of its own.
    sockaddr_in from{};
    from.sin_family = AF_INET;
    from.sin_addr.s_addr = htonl(INADDR_LOOPBACK + static_cast<uint32_t>(1 + number % 250));
    const int on = 1;
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    if (bind(fd, reinterpret_cast<sockaddr*>(&from), sizeof from) != 0)
      Fail("loopback has one address alone");
    connect(fd, reinterpret_cast<const sockaddr*>(&to_), sizeof to_);
    if (static_cast<size_t>(fd) >= deeds_.size()) deeds_.resize(static_cast<size_t>(fd) + 1);
    deeds_[static_cast<size_t>(fd)] = {kDeeds[static_cast<size_t>(number) % std::size(kDeeds)], false};
    epoll_event event{};
    event.events = EPOLLOUT;
    event.data.fd = fd;
    epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event);
    ++open_;
  }

  void Handle() {
    epoll_event events[256];
    const int n = epoll_wait(epoll_, events, 256, 1);
    for (int i = 0; i < n; ++i) OnReady(events[i].data.fd, events[i].events);
  }

  void OnReady(int fd, uint32_t events) {
    auto& [deed, said] = deeds_[static_cast<size_t>(fd)];
    if (said) {
      char buffer[4096];
      const ssize_t got = recv(fd, buffer, sizeof buffer, 0);
      if (got > 0) ++result_.answered;
      return End(fd, false);
    }
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error != 0 || (events & EPOLLOUT) == 0) {
      ++result_.failed;
      return End(fd, false);
    }
    ++result_.connected;
    const std::string_view text = SaidBy(deed);
    if (!text.empty()) send(fd, text.data(), text.size(), MSG_NOSIGNAL);
    switch (deed) {
      case Deed::kReset:
      case Deed::kHalfARequest:
        return End(fd, true);
      case Deed::kClose:
        return End(fd, false);
      case Deed::kStay:
        epoll_ctl(epoll_, EPOLL_CTL_DEL, fd, nullptr);
        --open_;
        staying_.push_back(fd);
        if (staying_.size() > kMostStaying) {
          close(staying_.front());
          staying_.pop_front();
        }
        return;
      case Deed::kNonsense:
      case Deed::kRequest: {
        said = true;
        epoll_event event{};
        event.events = EPOLLIN;
        event.data.fd = fd;
        epoll_ctl(epoll_, EPOLL_CTL_MOD, fd, &event);
        return;
      }
    }
  }

  void End(int fd, bool reset) {
    if (reset) {
      const linger at_once{1, 0};
      setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    }
    close(fd);
    --open_;
  }

  const sockaddr_in to_;
  const FloodOptions options_;
  const int epoll_;
  int64_t begun_ = 0, open_ = 0;
  std::vector<std::pair<Deed, bool>> deeds_;  // by descriptor; whether it waits for an answer
  std::deque<int> staying_;
  FloodResult result_;
};

FloodOptions Parse(int argc, char** argv) {
  FloodOptions options;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string_view name = argv[i];
    if (name == "-m") options.model = argv[i + 1];
    if (name == "--omni") options.omni = argv[i + 1];
    if (name == "--rate") options.rate = std::atoll(argv[i + 1]);
    if (name == "--seconds") options.seconds = std::atoll(argv[i + 1]);
    if (name == "--connections") options.connections = std::atoll(argv[i + 1]);
  }
  if (options.model.empty() || options.omni.empty() || options.rate < 1 || options.seconds < 1)
    Fail("usage: serve_flood -m MODEL --omni PROGRAM [--rate N] [--seconds N] [--connections N]");
  return options;
}

int Main(int argc, char** argv) {
  const FloodOptions options = Parse(argc, argv);
  rlimit files{};
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  const TempDir dir;
  NodeProcess serve(
      options.omni,
      {"-m", options.model, "--listen", "127.0.0.1:0", "--state", dir / "state", "--keys", "none"},
      dir / "log", -1, "serve");
  const std::string address = serve.WaitForAddress();
  if (address.empty()) Fail("the server does not start:\n" + serve.Log());

  constexpr int64_t kCalm = 100;
  HonestClient calm(address, kCalm);
  calm.Join();
  const int64_t before = ResidentBytes(serve.pid());
  HonestClient honest(address);
  int64_t most = before;
  FloodResult flood;
  {
    Flood bad(address, options);
    flood = bad.Run([&] {
      most = std::max(most, ResidentBytes(serve.pid()));
      if (!serve.running()) Fail("the server has ended:\n" + serve.Log());
    });
  }
  honest.Stop();
  const int64_t after = ResidentBytes(serve.pid());
  const int ended = serve.Interrupt();
  constexpr double kMb = 1e6;
  const nlohmann::json json = {{"connections", flood.connected},
                               {"failed_connections", flood.failed},
                               {"answered", flood.answered},
                               {"seconds", flood.seconds},
                               {"connections_per_s", static_cast<double>(flood.connected) / flood.seconds},
                               {"rss_before_mb", static_cast<double>(before) / kMb},
                               {"rss_most_mb", static_cast<double>(most) / kMb},
                               {"rss_after_mb", static_cast<double>(after) / kMb},
                               {"honest_answers", honest.answered()},
                               {"honest_wrong", honest.wrong()},
                               {"honest_median_ms", 1e3 * honest.Quantile(0.5)},
                               {"honest_p99_ms", 1e3 * honest.Quantile(0.99)},
                               {"calm_median_ms", 1e3 * calm.Quantile(0.5)},
                               {"calm_p99_ms", 1e3 * calm.Quantile(0.99)},
                               {"exit_code", ended}};
  std::printf("%s\n", json.dump(1).c_str());
  // What a thousand and a half of connections may take, buffers of the sanitizers or the allocator included.
  constexpr int64_t kMostGrowth = 64 << 20;
  if (most - before > kMostGrowth) Fail("the server's memory grows with its clients");
  if (honest.wrong() > 0 || honest.answered() == 0) Fail("whoever was honest was not answered");
  if (flood.failed > flood.connected / 100) Fail("connections are refused by the system");
  if (ended != 0) Fail("the server did not end well:\n" + serve.Log());
  return 0;
}

}  // namespace
}  // namespace omni::testing

int main(int argc, char** argv) { return omni::testing::Main(argc, argv); }
