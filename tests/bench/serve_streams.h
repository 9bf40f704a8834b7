// Clients of `omni serve` on one thread: any number of streams of events, each with when what came.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "tests/bench/swarm_figures.h"

namespace omni::bench {

// What has come over one stream.
struct StreamAnswer {
  std::string text;
  std::vector<Clock::time_point> shown;  // when each piece of text came
  int64_t tokens = 0;                    // by the server's count
  bool whole = false;                    // it ended as streams do
};

// Ends the program where a connection is refused or an answer is an error. For one thread.
class ServeStreams {
 public:
  explicit ServeStreams(const std::string& address);
  ~ServeStreams();  // closes all of them
  ServeStreams(const ServeStreams&) = delete;
  ServeStreams& operator=(const ServeStreams&) = delete;

  // Asks for a completion, whose stream is the next one by number.
  void Ask(const nlohmann::json& request);
  // Takes what comes until `is_so`, asked after everything that comes; false after `limit`.
  bool ReadUntil(const std::function<bool()>& is_so, std::chrono::milliseconds limit);
  bool ReadToEnd(std::chrono::milliseconds limit) {
    return ReadUntil([this] { return open_ == 0; }, limit);
  }
  void ReadFor(std::chrono::milliseconds time) {
    ReadUntil([] { return false; }, time);
  }

  size_t size() const { return streams_.size(); }
  size_t begun() const { return begun_; }  // streams whose head has come
  StreamAnswer At(size_t stream) const;

 private:
  struct Stream {
    int fd = -1;
    std::string got;
    std::vector<std::pair<size_t, Clock::time_point>> came;  // so many bytes had come by then
  };
  void Read(Stream& stream);

  int port_ = 0, poll_ = -1;
  size_t open_ = 0, begun_ = 0;
  std::vector<Stream> streams_;
};

}  // namespace omni::bench
