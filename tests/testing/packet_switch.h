// An Ethernet switch in user space, between TAP devices, for kernels without netem.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <map>
#include <mutex>
#include <queue>
#include <random>
#include <thread>
#include <vector>

namespace omni::testing {

// Learns who is behind which port, and passes each frame on when it has taken as long as its ways take: the
// sender's out and the receiver's in. What is drawn follows from the seed and the frames' order. Frames that
// are due at another time than they came may overtake each other, as on a real network.
class PacketSwitch {
 public:
  // Takes the devices, which do not block. Threads of its own: one.
  PacketSwitch(std::vector<int> devices, uint64_t seed);
  ~PacketSwitch();  // what is under way is lost

  // Thread-safe. `out`: what the port's device sends, else what it receives.
  void SetLoss(int port, bool out, double share);
  void SetDelay(int port, bool out, std::chrono::microseconds mean, std::chrono::microseconds jitter);
  void SetUp(int port, bool up);

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr size_t kMostWaiting = 1 << 15;  // frames; more are lost, as by any switch
  struct Way {
    double loss = 0;
    std::chrono::microseconds mean{0}, jitter{0};
  };
  struct Port {
    int device = -1;
    bool up = true;
    std::array<Way, 2> ways;  // in, out
  };
  struct Frame {
    Clock::time_point due;
    uint64_t number = 0;
    size_t to = 0;
    std::vector<uint8_t> bytes;
    bool operator>(const Frame& other) const {
      return due != other.due ? due > other.due : number > other.number;
    }
  };

  void Run();
  void Read(size_t from, Clock::time_point now);
  void Pass(size_t from, size_t to, const std::vector<uint8_t>& bytes, Clock::time_point now);
  bool Lost(const Way& way);
  Clock::duration Time(const Way& way);

  std::mutex mutex_;
  std::vector<Port> ports_;
  std::mt19937_64 random_;
  std::map<uint64_t, size_t> behind_;  // by MAC address: the port
  std::priority_queue<Frame, std::vector<Frame>, std::greater<>> waiting_;
  uint64_t frames_ = 0;
  int stop_ = -1;  // an eventfd
  std::thread thread_;
};

}  // namespace omni::testing
