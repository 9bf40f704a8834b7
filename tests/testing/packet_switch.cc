#include "tests/testing/packet_switch.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <optional>
#include <utility>

namespace omni::testing {
namespace {

uint64_t MacAt(const uint8_t* bytes) {
  uint64_t mac = 0;
  for (int i = 0; i < 6; ++i) mac = mac << 8 | bytes[i];
  return mac;
}
bool IsGroup(const uint8_t* mac) { return (mac[0] & 1) != 0; }

}  // namespace

PacketSwitch::PacketSwitch(std::vector<int> devices, uint64_t seed)
    : ports_(devices.size()), random_(seed), stop_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  for (size_t i = 0; i < devices.size(); ++i) ports_[i].device = devices[i];
  thread_ = std::thread([this] { Run(); });
}

PacketSwitch::~PacketSwitch() {
  ::eventfd_write(stop_, 1);
  thread_.join();
  ::close(stop_);
  for (const Port& port : ports_) ::close(port.device);
}

void PacketSwitch::SetLoss(int port, bool out, double share) {
  std::lock_guard lock(mutex_);
  ports_[static_cast<size_t>(port)].ways[out].loss = share;
}

void PacketSwitch::SetDelay(int port, bool out, std::chrono::microseconds mean,
                            std::chrono::microseconds jitter) {
  std::lock_guard lock(mutex_);
  Way& way = ports_[static_cast<size_t>(port)].ways[out];
  way.mean = mean;
  way.jitter = jitter;
}

void PacketSwitch::SetUp(int port, bool up) {
  std::lock_guard lock(mutex_);
  ports_[static_cast<size_t>(port)].up = up;
}

void PacketSwitch::Run() {
  std::vector<pollfd> polled;
  for (const Port& port : ports_) polled.push_back({port.device, POLLIN, 0});
  polled.push_back({stop_, POLLIN, 0});
  while (polled.back().revents == 0) {
    std::optional<timespec> wait;
    if (!waiting_.empty()) {
      const auto left = std::max<Clock::duration>(waiting_.top().due - Clock::now(), Clock::duration(0));
      const auto ns = std::chrono::duration_cast<std::chrono::nanoseconds>(left).count();
      wait = timespec{ns / 1'000'000'000, ns % 1'000'000'000};
    }
    ::ppoll(polled.data(), polled.size(), wait.has_value() ? &*wait : nullptr, nullptr);
    const auto now = Clock::now();
    std::lock_guard lock(mutex_);
    for (size_t i = 0; i < ports_.size(); ++i) {
      if ((polled[i].revents & POLLIN) != 0) Read(i, now);
    }
    for (; !waiting_.empty() && waiting_.top().due <= now; waiting_.pop()) {
      const Frame& frame = waiting_.top();
      // A device that takes no more loses it.
      if (ports_[frame.to].up && ::write(ports_[frame.to].device, frame.bytes.data(), frame.bytes.size()) < 0)
        continue;
    }
  }
}

void PacketSwitch::Read(size_t from, Clock::time_point now) {
  std::vector<uint8_t> bytes(1 << 16);
  for (ssize_t n; (n = ::read(ports_[from].device, bytes.data(), bytes.size())) >= 14;) {
    const std::vector<uint8_t> frame(bytes.begin(), bytes.begin() + n);
    behind_[MacAt(&frame[6])] = from;
    const auto known = IsGroup(frame.data()) ? behind_.end() : behind_.find(MacAt(frame.data()));
    if (!ports_[from].up || Lost(ports_[from].ways[true])) continue;
    if (known != behind_.end()) {
      if (known->second != from) Pass(from, known->second, frame, now);
      continue;
    }
    for (size_t to = 0; to < ports_.size(); ++to) {
      if (to != from) Pass(from, to, frame, now);
    }
  }
}

void PacketSwitch::Pass(size_t from, size_t to, const std::vector<uint8_t>& bytes, Clock::time_point now) {
  if (Lost(ports_[to].ways[false]) || waiting_.size() >= kMostWaiting) return;
  const auto due = now + Time(ports_[from].ways[true]) + Time(ports_[to].ways[false]);
  waiting_.push({due, ++frames_, to, bytes});
}

bool PacketSwitch::Lost(const Way& way) {
  return way.loss > 0 && std::uniform_real_distribution<double>(0, 1)(random_) < way.loss;
}

PacketSwitch::Clock::duration PacketSwitch::Time(const Way& way) {
  if (way.jitter.count() == 0) return way.mean;
  std::uniform_int_distribution<int64_t> off(-way.jitter.count(), way.jitter.count());
  return std::max(way.mean + std::chrono::microseconds(off(random_)), std::chrono::microseconds(0));
}

}  // namespace omni::testing
