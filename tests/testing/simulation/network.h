// Streams of frames between simulated processes, and what befalls them.
//
// A stream is as TCP gives it: in order, nothing missing, nothing twice, or broken; but each end may learn of
// that late or never, a new stream may overtake what an old one still carries, and one that was opened may
// have been opened twice.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cluster/transport.h"
#include "tests/testing/simulation/world.h"

namespace omni::simulation {

// What listens: told in its process, one call at a time.
class StreamServer {
 public:
  virtual ~StreamServer() = default;
  virtual void OnOpened(uint64_t stream) = 0;
  virtual void OnFrame(uint64_t stream, std::string frame) = 0;
  virtual void OnClosed(uint64_t stream, absl::Status status) = 0;
};

class Network {
 public:
  explicit Network(World& world) : world_(world) {}

  struct Link {  // from one process to another
    bool cut = false;
    Duration extra{0};  // that each frame takes longer
    double losing = 0;  // share of the frames with which their stream breaks
  };
  Link& At(const Process& from, const Process& to) { return links_[{from.name, to.name}]; }
  void Heal();  // all links are well; what waited goes on, or its stream has broken
  void Heal(const Process& a, const Process& b);
  void HalfOpen(const Process& a, const Process& b);  // their streams are dead, and nobody is told
  double twice = 0, overtaken = 0;                    // shares of the streams opened

  void Listen(std::string address, Process& process, StreamServer& server);
  std::unique_ptr<FrameStream> Open(Process& from, const std::string& address, FrameStreamEvents& events);
  // The server's end.
  void Write(uint64_t stream, std::string frame);
  void Close(uint64_t stream, absl::Status status);
  // A process has gone; told: its system says so to whoever was connected with it.
  void OnGone(const Process& process, bool told);

 private:
  struct Listener {
    Process* process;
    StreamServer* server;
  };
  struct Connection {
    uint64_t number;
    Process *client, *server;
    int64_t client_life, server_life;
    FrameStreamEvents* events;  // null: the client's end is closed
    StreamServer* listener;
    uint64_t ghost = 0;  // a second stream with the same frames
    bool accepted = false, dead = false, told = false;
    Time last[2];                                // [0]: to the server
    std::vector<std::function<void()>> held[2];  // while the link is cut
    Duration lag{0}, ghost_lag{0};
    Time ghost_last;
  };
  using ConnectionPtr = std::shared_ptr<Connection>;
  class Stream;

  Duration Latency(const Connection& c, int direction);
  bool Cut(const Connection& c, int direction);
  void Send(const ConnectionPtr& c, int direction, std::function<void()> deliver);
  void ToServer(const ConnectionPtr& c, std::function<void(StreamServer&, uint64_t)> what);
  void ToClient(const ConnectionPtr& c, std::function<void(FrameStreamEvents&)> what, bool last);
  void Break(const ConnectionPtr& c, const char* why);
  void Sweep();

  World& world_;
  std::map<std::pair<std::string, std::string>, Link> links_;
  std::map<std::string, Listener> listeners_;
  std::map<uint64_t, ConnectionPtr> open_;  // by the server's stream
  uint64_t next_ = 1;
};

}  // namespace omni::simulation
