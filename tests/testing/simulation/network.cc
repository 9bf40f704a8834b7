#include "tests/testing/simulation/network.h"

#include <algorithm>

namespace omni::simulation {

class Network::Stream : public FrameStream {
 public:
  Stream(Network& network, ConnectionPtr connection) : network_(network), c_(std::move(connection)) {}
  ~Stream() override {
    c_->events = nullptr;
    if (c_->dead || c_->client->incarnation() != c_->client_life) return;
    network_.ToServer(c_, [](StreamServer& server, uint64_t stream) {
      server.OnClosed(stream, absl::CancelledError("the coordinator closed the stream"));
    });
  }
  void Write(std::string frame) override {
    network_.ToServer(c_, [frame = std::move(frame)](StreamServer& server, uint64_t stream) {
      server.OnFrame(stream, frame);
    });
  }
  int64_t unsent_bytes() const override { return 0; }

 private:
  Network& network_;
  const ConnectionPtr c_;
};

void Network::Listen(std::string address, Process& process, StreamServer& server) {
  listeners_[std::move(address)] = {&process, &server};
}

Duration Network::Latency(const Connection& c, int direction) {
  const Process &from = direction == 0 ? *c.client : *c.server, &to = direction == 0 ? *c.server : *c.client;
  return microseconds(60) + Duration(world_.chance().Below(150'000)) + At(from, to).extra + c.lag;
}

bool Network::Cut(const Connection& c, int direction) {
  return direction == 0 ? At(*c.client, *c.server).cut : At(*c.server, *c.client).cut;
}

void Network::Send(const ConnectionPtr& c, int direction, std::function<void()> deliver) {
  if (c->dead) return;
  const Link& link = direction == 0 ? At(*c->client, *c->server) : At(*c->server, *c->client);
  if (link.cut) {
    c->held[direction].push_back(std::move(deliver));
    return;
  }
  if (link.losing > 0 && world_.chance().Of(link.losing)) {
    world_.Count(FaultKind::drop);
    Break(c, "a frame was lost for good");
    return;
  }
  const Time time = std::max(world_.now() + Latency(*c, direction), c->last[direction] + Duration(1));
  c->last[direction] = time;
  Process* to = direction == 0 ? c->server : c->client;
  world_.At(time - world_.now(), to, std::move(deliver));
}

void Network::ToServer(const ConnectionPtr& c, std::function<void(StreamServer&, uint64_t)> what) {
  Send(c, 0, [this, c, what = std::move(what)] {
    if (!c->accepted || c->server->incarnation() != c->server_life) return;
    what(*c->listener, c->number);
    if (c->ghost == 0) return;
    const Time now = world_.now();
    c->ghost_last = std::max(now + c->ghost_lag, c->ghost_last + Duration(1));
    world_.At(c->ghost_last - now, c->server, [c, what] { what(*c->listener, c->ghost); });
  });
}

void Network::ToClient(const ConnectionPtr& c, std::function<void(FrameStreamEvents&)> what, bool last) {
  Send(c, 1, [c, last, what = std::move(what)] {
    if (c->events == nullptr || c->told || c->client->incarnation() != c->client_life) return;
    c->told = last;
    what(*c->events);
  });
}

// Both ends learn of it, each in its time.
void Network::Break(const ConnectionPtr& c, const char* why) {
  c->dead = true;
  const absl::Status status = absl::UnavailableError(why);
  world_.At(Latency(*c, 1), c->client, [c, status] {
    if (c->events == nullptr || std::exchange(c->told, true)) return;
    if (c->client->incarnation() == c->client_life) c->events->OnClosed(status);
  });
  if (!c->accepted) return;
  world_.At(Latency(*c, 0), c->server, [c, status] {
    if (c->server->incarnation() != c->server_life) return;
    c->listener->OnClosed(c->number, status);
  });
}

std::unique_ptr<FrameStream> Network::Open(Process& from, const std::string& address,
                                           FrameStreamEvents& events) {
  Sweep();
  const Listener& listener = listeners_.at(address);
  auto c = std::make_shared<Connection>();
  c->number = next_++;
  c->client = &from;
  c->server = listener.process;
  c->client_life = from.incarnation();
  c->server_life = listener.process->incarnation();
  c->events = &events;
  c->listener = listener.server;
  if (world_.chance().Of(twice)) {
    world_.Count(FaultKind::duplicate);
    c->ghost = next_++;
    c->ghost_lag = Duration(world_.chance().Below(world_.chance().Of(0.5) ? 5'000'000 : 1'500'000'000));
  }
  if (world_.chance().Of(overtaken)) {
    world_.Count(FaultKind::reorder);
    c->lag = Duration(world_.chance().Below(30'000'000));
  }
  open_[c->number] = c;
  if (c->ghost != 0) open_[c->ghost] = c;
  auto stream = std::make_unique<Stream>(*this, c);
  if (!c->server->up()) {
    if (!Cut(*c, 0) && !Cut(*c, 1)) {
      Break(c, "connection refused");
    } else {
      c->dead = true;  // nobody says anything
    }
    return stream;
  }
  c->accepted = true;
  ToServer(c, [](StreamServer& server, uint64_t number) { server.OnOpened(number); });
  return stream;
}

void Network::Write(uint64_t stream, std::string frame) {
  const auto found = open_.find(stream);
  if (found == open_.end() || found->second->ghost == stream) return;
  ToClient(
      found->second,
      [frame = std::move(frame)](FrameStreamEvents& events) { events.OnFrame(FrameBytesOf(frame)); }, false);
}

void Network::Close(uint64_t stream, absl::Status status) {
  const auto found = open_.find(stream);
  if (found == open_.end() || found->second->ghost == stream) return;
  ToClient(
      found->second, [status = std::move(status)](FrameStreamEvents& events) { events.OnClosed(status); },
      true);
}

void Network::OnGone(const Process& process, bool told) {
  for (auto& [number, c] : open_) {
    if (c->dead || number != c->number || (c->client != &process && c->server != &process)) continue;
    const bool cut = Cut(*c, 0) || Cut(*c, 1);
    if (told && !cut) {
      Break(c, "connection reset");
    } else {
      c->dead = true;
    }
  }
  Sweep();
}

void Network::Sweep() {
  std::erase_if(open_, [](const auto& at) { return at.second->dead; });
}

void Network::HalfOpen(const Process& a, const Process& b) {
  for (auto& [number, c] : open_) {
    const bool theirs = (c->client == &a && c->server == &b) || (c->client == &b && c->server == &a);
    if (theirs) c->dead = true;
  }
}

void Network::Heal(const Process& a, const Process& b) {
  At(a, b) = At(b, a) = {};
  for (auto& [number, c] : open_) {
    if (number != c->number || c->dead) continue;
    for (int direction : {0, 1}) {
      if (c->held[direction].empty() || Cut(*c, direction)) continue;
      if (world_.chance().Of(0.3)) {
        Break(c, "the connection timed out");
        break;
      }
      for (auto& deliver : std::exchange(c->held[direction], {})) Send(c, direction, std::move(deliver));
    }
  }
}

void Network::Heal() {
  for (auto& [ends, link] : links_) link = {};
  for (auto& [number, c] : open_) {
    if (number != c->number || c->dead) continue;
    for (int direction : {0, 1})
      for (auto& deliver : std::exchange(c->held[direction], {})) Send(c, direction, std::move(deliver));
  }
  twice = overtaken = 0;
}

}  // namespace omni::simulation
