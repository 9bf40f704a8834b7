#include "tests/testing/simulation/store.h"

#include <utility>

#include "cluster/cluster_records.h"

namespace omni::simulation {

namespace {
constexpr milliseconds kPatience{300};  // of a call
}

void StoreServer::Open() {
  absl::StatusOr<std::unique_ptr<StoreDatabase>> database = StoreDatabase::Open(folder_, Durability::kSynced);
  if (!database.ok()) {  // the disk failed just then
    home_.At(milliseconds(50), [this] { Open(); });
    return;
  }
  database_ = *std::move(database);
  state_ = std::make_unique<StoreState>(database_->TakeContents(), *database_, StoreState::Options(), now());
  for (auto& [number, weak] : watches) {
    if (const auto watch = weak.lock()) watch->id = state_->Watch(watch->prefix, watch->next);
  }
  Tell();
}

void StoreServer::Close() {
  state_ = nullptr;
  database_ = nullptr;
  timer_.reset();
}

absl::StatusOr<Committed> StoreServer::Commit(const std::string& caller, const Transaction& transaction) {
  if (absl::Status s = state_->Settle(now()); !s.ok()) return s;
  std::optional<Record> leader;
  const auto found = state_->contents().records.find(kLeaderKey);
  if (found != state_->contents().records.end()) leader = found->second;
  absl::StatusOr<Committed> committed = state_->Commit(transaction, now());
  if (committed.ok() && committed->applied)
    on_commit_(caller, transaction, leader.has_value() ? &*leader : nullptr);
  return committed;
}

void StoreServer::Tell() {
  std::erase_if(watches, [](const auto& at) { return at.second.expired(); });
  for (auto& [number, weak] : watches) {
    const auto watch = weak.lock();
    while (watch != nullptr && watch->id.has_value()) {
      absl::StatusOr<std::optional<Changes>> changes = state_->Take(*watch->id);
      if (changes.ok() && !changes->has_value()) break;
      if (!changes.ok()) {
        watch->id.reset();
        watch->tell(changes.status());
        break;
      }
      watch->next = (*changes)->revision + 1;
      watch->tell(*std::move(*changes));
    }
  }
  SetTimer();
}

// Leases end whether or not somebody calls.
void StoreServer::SetTimer() {
  const std::optional<Time> next = state_->next_deadline();
  if (!next.has_value() || (timer_.has_value() && *timer_ <= *next && *timer_ > now())) return;
  timer_ = *next;
  home_.AtOwn(std::max(Duration(0), *next - now()), [this] {
    timer_.reset();
    if (state_ == nullptr) return;
    if (!state_->Settle(now()).ok()) {
      home_.At(milliseconds(20), [this] {
        if (state_ != nullptr) Tell();
      });
      return;
    }
    Tell();
  });
}

// Calls of a process's own store are not lost, and take no way.
Duration StoreClient::Way() {
  Chance& chance = home_.world.chance();
  if (&server_.home() == &home_) return microseconds(2) + Duration(chance.Below(100'000));
  return microseconds(100) + Duration(chance.Below(2'000'000));
}

template <typename T>
void StoreClient::Call(std::function<absl::StatusOr<T>(StoreState&, Time)> what, Callback<T> done) {
  World& world = home_.world;
  // Told once: by the answer, or when patience is over.
  auto told = std::make_shared<Callback<T>>(std::move(done));
  const auto tell = [told, alive = alive_](absl::StatusOr<T> result) {
    if (!*alive || *told == nullptr) return;
    std::exchange(*told, nullptr)(std::move(result));
  };
  home_.AtOwn(kPatience, [tell] { tell(absl::UnavailableError("the store did not answer in time")); });
  const bool near = &server_.home() == &home_;
  if (!near && world.chance().Of(server_.losing)) {
    world.Count(FaultKind::store_call_lost);
    return;
  }
  if (!near && (!server_.available || server_.cut_off == home_.name)) return;
  if (!server_.home().up()) return;
  StoreServer& server = server_;
  Process& home = home_;
  const int64_t life = home_.incarnation();
  Duration way = Way();
  if (!near && world.chance().Of(server_.late)) {
    world.Count(FaultKind::store_call_late);
    way += Duration(world.chance().Below(800'000'000));
  }
  server_.home().At(way, [&server, &home, life, near, tell, what = std::move(what), back = Way()] {
    if (!server.open()) return;
    World& w = home.world;
    absl::StatusOr<T> result = what(server.state(), server.now());
    server.Tell();
    if (!near && (w.chance().Of(server.silent) || !server.available || server.cut_off == home.name)) {
      w.Count(FaultKind::store_answer_lost);
      return;
    }
    if (home.incarnation() != life) return;
    home.At(back, [tell, result = std::move(result)] { tell(result); });
  });
}

void StoreClient::Read(std::string prefix, Callback<Records> done) {
  Call<Records>([prefix](StoreState& state, Time now) { return state.Read(prefix, now); }, std::move(done));
}
void StoreClient::Commit(Transaction transaction, Callback<Committed> done) {
  Call<Committed>([&server = server_, caller = home_.name, transaction](
                      StoreState&, Time) { return server.Commit(caller, transaction); },
                  std::move(done));
}
void StoreClient::GrantLease(milliseconds ttl, Callback<LeaseId> done) {
  Call<LeaseId>([ttl](StoreState& state, Time now) { return state.GrantLease(ttl, now); }, std::move(done));
}
void StoreClient::KeepAlive(LeaseId lease, Callback<milliseconds> done) {
  Call<milliseconds>([lease](StoreState& state, Time now) { return state.KeepAlive(lease, now); },
                     std::move(done));
}
void StoreClient::RevokeLease(LeaseId lease, Callback<bool> done) {
  Call<bool>([lease](StoreState& state, Time now) { return state.RevokeLease(lease, now); }, std::move(done));
}

namespace {
struct SharedWatcher : CoordinationStore::Watcher {
  std::shared_ptr<StoreServer::Watch> watch;
};
}  // namespace

std::unique_ptr<CoordinationStore::Watcher> StoreClient::Watch(std::string prefix, Revision from,
                                                               Callback<Changes> on_changes) {
  auto watcher = std::make_unique<SharedWatcher>();
  auto watch = std::make_shared<StoreServer::Watch>();
  watch->prefix = std::move(prefix);
  watch->next = from;
  // In order, as on a stream.
  auto last = std::make_shared<Time>();
  watch->tell = [this, last, alive = alive_, life = home_.incarnation(),
                 weak = std::weak_ptr<StoreServer::Watch>(watch),
                 on_changes = std::move(on_changes)](absl::StatusOr<Changes> changes) {
    if (!*alive || home_.incarnation() != life) return;
    const Time now = home_.world.now();
    *last = std::max(*last + Duration(1), now + Way());
    home_.At(*last - now, [alive, weak, on_changes, changes = std::move(changes)] {
      if (*alive && weak.lock() != nullptr) on_changes(changes);
    });
  };
  server_.watches[server_.next_watch++] = watch;
  if (server_.open()) {
    watch->id = server_.state().Watch(watch->prefix, watch->next);
    server_.home().At(Way(), [&server = server_] {
      if (server.open()) server.Tell();
    });
  }
  watcher->watch = std::move(watch);
  return watcher;
}

}  // namespace omni::simulation
