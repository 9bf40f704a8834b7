#include "tests/testing/simulation/mischief.h"

#include <utility>

namespace omni::simulation {
namespace {
constexpr milliseconds kFirst{20}, kLast{2200}, kEnd{2600};
}

Duration Mischief::Drawn(int64_t least_ms, int64_t most_ms) {
  return milliseconds(least_ms) + Duration(world_.chance().Below((most_ms - least_ms) * 1'000'000 + 1));
}

Coordinator& Mischief::AnyCoordinator() {
  auto& all = cluster_.coordinators;
  return *all[static_cast<size_t>(world_.chance().Below(static_cast<int64_t>(all.size())))];
}
Worker& Mischief::AnyWorker() {
  auto& all = cluster_.workers;
  return *all[static_cast<size_t>(world_.chance().Below(static_cast<int64_t>(all.size())))];
}
Process& Mischief::AnyProcess() {
  if (world_.chance().Of(0.5)) return AnyCoordinator();
  return AnyWorker();
}

void Mischief::Plan() {
  Chance& chance = world_.chance();
  const int64_t faults = chance.Below(12);
  for (int64_t i = 0; i < faults; ++i) {
    const auto kind = static_cast<FaultKind>(chance.Below(static_cast<int64_t>(FaultKind::kCount)));
    After(kFirst + Duration(chance.Below(Duration(kLast - kFirst).count())), [this, kind] { Do(kind); });
  }
  After(kEnd, [this] { End(); });
}

void Mischief::KillAndRestart(Process& process, bool power, Duration down) {
  cluster_.Kill(process, power);
  After(down, [&process] {
    if (!process.up()) process.Start();
  });
}

// Their stream breaks, and a new one is opened.
void Mischief::Reconnect(Process& a, Process& b) {
  cluster_.network.At(a, b).losing = 1;
  After(Drawn(100, 200), [this, &a, &b] { cluster_.network.Heal(a, b); });
}

void Mischief::Do(FaultKind kind) {
  if (over_) return;
  Network& network = cluster_.network;
  StoreProcess* store = cluster_.store.get();
  Chance& chance = world_.chance();
  Coordinator& c = AnyCoordinator();
  Worker& w = AnyWorker();
  const auto heal = [this, &c, &w] { cluster_.network.Heal(c, w); };
  world_.Trace("fault: ", NameOf(kind));
  switch (kind) {
    case FaultKind::drop:
      network.At(c, w).losing = network.At(w, c).losing = 0.02 + 0.02 * static_cast<double>(chance.Below(10));
      return After(Drawn(50, 500), heal);
    case FaultKind::half_open:
      world_.Count(kind);
      return network.HalfOpen(c, w);
    case FaultKind::delay:
      world_.Count(kind);
      network.At(c, w).extra = Drawn(1, 80);
      network.At(w, c).extra = Drawn(1, 80);
      if (chance.Of(0.4) && c.up()) {
        world_.Count(FaultKind::operator_act);
        c.DrainAndBack(w.name, Drawn(1, 10));
      }
      return After(Drawn(50, 800), heal);
    case FaultKind::reorder:
      network.overtaken = 0.5;
      return Reconnect(c, w);
    case FaultKind::duplicate:
      network.twice = 0.5;
      return Reconnect(c, w);
    case FaultKind::cut:
      world_.Count(kind);
      network.At(c, w).cut = network.At(w, c).cut = true;
      return After(Drawn(20, 1500), heal);
    case FaultKind::one_way_cut:
      world_.Count(kind);
      (chance.Of(0.5) ? network.At(c, w) : network.At(w, c)).cut = true;
      return After(Drawn(20, 1500), heal);
    case FaultKind::kill:
      world_.Count(kind);
      return KillAndRestart(AnyProcess(), false, Drawn(5, 1000));
    case FaultKind::kill_in_recovery: {
      world_.Count(kind);
      const Duration down = Drawn(5, 500);
      Process &first = AnyProcess(), &second = chance.Of(0.5) ? first : AnyProcess();
      KillAndRestart(first, false, down);
      return After((&first == &second ? down : Duration(0)) + Drawn(1, 120), [this, &second] {
        if (!over_) KillAndRestart(second, false, Drawn(5, 500));
      });
    }
    case FaultKind::power_cut:
    case FaultKind::unsynced_write_lost:
      world_.Count(FaultKind::power_cut);
      return KillAndRestart(kind == FaultKind::power_cut ? AnyProcess() : c, true, Drawn(50, 1000));
    case FaultKind::pause: {
      world_.Count(kind);
      Process& p = AnyProcess();
      p.Pause();
      return After(Drawn(20, 1500), [&p] { p.Wake(); });
    }
    case FaultKind::clock_jump:
      world_.Count(kind);
      return AnyProcess().JumpClock(Drawn(20, 1500));
    case FaultKind::clock_drift:
      return;  // drawn when the cluster is made
    case FaultKind::slow_node: {
      world_.Count(kind);
      Process& p = AnyProcess();
      p.slow = static_cast<double>(2 + chance.Below(30));
      return After(Drawn(50, 1500), [&p] { p.slow = 1; });
    }
    case FaultKind::disk_error: {
      if (chance.Of(0.4)) {
        w.failing_fills = 0.5;
        return After(Drawn(100, 800), [&w] { w.failing_fills = 0; });
      }
      std::vector<Disk*> disks = {&Disks::Of(c.DiskOfSessions()), &Disks::Of(c.DiskOfStore())};
      if (store != nullptr) disks = {&Disks::Of("store")};
      for (Disk* disk : disks) disk->failing = 0.4;
      return After(Drawn(20, 500), [disks] {
        for (Disk* disk : disks) disk->failing = 0;
      });
    }
    case FaultKind::expert_error:
      w.failing = 0.3;
      return After(Drawn(20, 500), [&w] { w.failing = 0; });
    case FaultKind::store_unavailable:
      if (store == nullptr) return;
      world_.Count(kind);
      if (chance.Of(0.5)) {
        store->server.available = false;
        return After(Drawn(50, 1200), [store] { store->server.available = true; });
      }
      // One of the coordinators alone, which may then lead no more while its frames are still on their way.
      store->server.cut_off = c.name;
      if (chance.Of(0.8)) {
        for (const auto& worker : cluster_.workers) network.At(c, *worker).cut = chance.Of(0.7);
      }
      return After(Drawn(300, 1500), [this, store, &c] {
        store->server.cut_off.clear();
        for (const auto& worker : cluster_.workers) cluster_.network.Heal(c, *worker);
      });
    case FaultKind::store_call_lost:
      if (store == nullptr) return;
      store->server.losing = 0.4;
      return After(Drawn(100, 800), [store] { store->server.losing = 0; });
    case FaultKind::store_answer_lost:
      if (store == nullptr) return;
      store->server.silent = 0.4;
      return After(Drawn(100, 800), [store] { store->server.silent = 0; });
    case FaultKind::store_call_late:
      if (store == nullptr) return;
      store->server.late = 0.3;
      return After(Drawn(100, 800), [store] { store->server.late = 0; });
    case FaultKind::store_restart:
      if (store == nullptr) return;
      world_.Count(kind);
      if (chance.Of(0.5)) return KillAndRestart(*store, true, Drawn(5, 800));
      store->Pause();
      return After(Drawn(20, 800), [store] { store->Wake(); });
    case FaultKind::client_gone: {
      world_.Count(kind);
      auto& clients = cluster_.clients;
      Client& client = *clients[static_cast<size_t>(chance.Below(static_cast<int64_t>(clients.size())))];
      if (client.up()) client.GoAway(Drawn(1, 300));
      return;
    }
    case FaultKind::records_lost:
      // The cluster is made anew; answers are kept elsewhere.
      if (store != nullptr) return;
      world_.Count(kind);
      KillAndRestart(c, chance.Of(0.5), Drawn(5, 1000));
      return Disks::Of(c.DiskOfStore()).Erase();
    case FaultKind::operator_act:
      for (int64_t acts = 1 + chance.Below(6); acts > 0; --acts) {
        After(Drawn(0, chance.Of(0.5) ? 5 : 150), [this, &c] {
          if (over_ || !c.up()) return;
          world_.Count(FaultKind::operator_act);
          c.Operate();
        });
      }
      return;
    case FaultKind::kCount:
      return;
  }
}

void Mischief::End() {
  world_.Trace("all faults end");
  over_ = true;
  cluster_.network.Heal();
  std::vector<Process*> all;
  if (StoreProcess* store = cluster_.store.get()) {
    all.push_back(store);
    Disks::Of("store").failing = 0;
    store->server.available = true;
    store->server.cut_off.clear();
    store->server.losing = store->server.silent = store->server.late = 0;
  }
  for (const auto& c : cluster_.coordinators) {
    all.push_back(c.get());
    Disks::Of(c->DiskOfSessions()).failing = Disks::Of(c->DiskOfStore()).failing = 0;
  }
  for (const auto& w : cluster_.workers) {
    all.push_back(w.get());
    w->failing = w->failing_fills = 0;
  }
  for (Process* process : all) {
    process->slow = 1;
    process->Wake();
    if (!process->up()) process->Start();
  }
}

}  // namespace omni::simulation
