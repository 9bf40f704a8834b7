#include "tests/testing/task_simulation/executor_node.h"

#include <utility>

namespace omni::simulation {
namespace {

constexpr int kMostTries = 20;

}  // namespace

ExecutorNode::ExecutorNode(TaskWorld& world, TaskServer& server, std::string name)
    : world_(world), server_(server), name_(std::move(name)) {
  server.listeners.push_back({.on_ended = [this](const std::vector<std::string>& tokens) {
    for (const std::string& token : tokens) {
      const auto at = attempts_.find(token);
      const auto attempt = at == attempts_.end() ? nullptr : at->second.lock();
      if (attempt != nullptr && !world_.Chance(0.3)) attempt->cancel = true;
    }
  }});
}

void ExecutorNode::Start() {
  life_ = std::make_shared<Life>(Life{.worker = absl::StrCat(name_, "-", ++lives_)});
  if (lives_ > 1 && !world_.Chance(0.3)) {
    const std::string worker = life_->worker;
    server_.Call<bool>(
        [this, worker](TaskLedger& ledger, TaskTime now, TaskStep&) {
          ledger.EndLeases(name_, worker, now);
          return true;
        },
        [this, worker](const bool&, TaskTime at) { server_.oracle().OnLeasesEnded(name_, worker, at); },
        [](const absl::StatusOr<bool>&) {});
  }
  for (int slot = 0; slot < kSlots; ++slot)
    In(life_, world_.Between(10, 1000), [this, life = life_] { Ask(life); });
}

void ExecutorNode::In(const std::shared_ptr<Life>& life, milliseconds delay, std::function<void()> f) {
  world_.After(delay, [this, life, f = std::move(f)] {
    if (life->dead) return;
    if (life->paused_until > world_.world.now())
      return In(life, std::chrono::ceil<milliseconds>(life->paused_until - world_.world.now()), f);
    f();
  });
}

void ExecutorNode::Die() {
  life_->dead = true;
  world_.After(world_.Between(200, 20'000), [this] { Start(); });
}

void ExecutorNode::Ask(const std::shared_ptr<Life>& life) {
  if (life->replaced) return;
  auto answered = std::make_shared<bool>(false);
  // An answer that was lost is given up; its task runs out of its lease.
  const milliseconds patience(32'000);
  In(life, patience, [this, life, answered] {
    if (!std::exchange(*answered, true)) Ask(life);
  });
  const auto done = [this, life, answered](absl::StatusOr<std::optional<TaskAssignment>> given) {
    if (std::exchange(*answered, true) || life->dead) return;
    if (!given.ok() || !given->has_value())
      return In(life, world_.Between(10, 2000), [this, life] { Ask(life); });
    auto attempt = std::make_shared<Attempt>();
    attempt->life = life;
    attempt->task = **given;
    attempt->step = attempt->task.points;
    attempt->steps = attempt->step + world_.Below(4);
    attempts_[attempt->task.token] = attempt;
    In(life, world_.Between(10, 3000), [this, attempt] { Step(attempt); });
  };
  const std::vector<TaskOffer> offers = {{"command", "*"}, {"model", "mini"}};
  if (world_.Chance(0.7)) {
    server_.Await(life->worker, name_, offers, TaskDuration(world_.Between(1000, 30'000)), done);
  } else {
    server_.Call<std::optional<TaskAssignment>>(
        [this, worker = life->worker, offers](TaskLedger& ledger, TaskTime now, TaskStep& step) {
          return ledger.Take(worker, name_, offers, now, step);
        },
        [this](const std::optional<TaskAssignment>& given, TaskTime) {
          if (given.has_value()) server_.oracle().OnTaken(*given);
        },
        done);
  }
}

void ExecutorNode::Step(const std::shared_ptr<Attempt>& attempt) {
  const std::shared_ptr<Life>& life = attempt->life;
  if (life == life_ && world_.Chance(world_.trouble.die)) {
    world_.Count(TaskFault::node_died);
    return Die();
  }
  if (life == life_ && world_.Chance(world_.trouble.die)) {
    // Another process takes its place while it goes on.
    world_.Count(TaskFault::node_replaced);
    life->replaced = true;
    Start();
  }
  if (world_.Chance(world_.trouble.pause)) {
    world_.Count(TaskFault::node_paused);
    life->paused_until = world_.world.now() + world_.Between(1000, 40'000);
    return In(life, milliseconds(0), [this, attempt] { Step(attempt); });
  }
  // Some do not look.
  if (attempt->cancel && world_.Chance(0.7)) return End(attempt, 2, kMostTries);
  if (attempt->step >= attempt->steps) {
    const int64_t how = world_.Below(20);
    return End(attempt, how < 14 ? 0 : how < 19 ? 1 : 3, kMostTries);
  }
  TaskReport report;
  report.number = ++attempt->report;
  if (world_.Chance(0.7)) {
    const int64_t outputs = world_.Chance(0.05) ? 47 : world_.Below(3);
    for (int64_t n = 0; n < outputs; ++n)
      report.items.push_back({TaskEventKind::kOutput, "stdout", absl::StrCat(name_, "/", ++outputs_)});
    report.items.push_back({TaskEventKind::kProgress, "", absl::StrCat("step ", ++attempt->step)});
    report.checkpoint = absl::StrCat(attempt->step, ";");
  }
  Send(attempt, report, kMostTries);
}

void ExecutorNode::Send(const std::shared_ptr<Attempt>& attempt, const TaskReport& report, int tries) {
  const std::shared_ptr<Life>& life = attempt->life;
  const std::string token = attempt->task.token;
  auto answered = std::make_shared<bool>(false);
  const auto again = [this, attempt, report, tries, answered] {
    if (std::exchange(*answered, true)) return;
    if (tries > 0) Send(attempt, report, tries - 1);
    if (tries == 0) Ask(attempt->life);
  };
  In(life, milliseconds(2000), again);
  server_.Call<TaskLedger::Told>(
      [token, report](TaskLedger& ledger, TaskTime now, TaskStep& step) {
        return ledger.Report(token, report, now, step);
      },
      [this, token](const TaskLedger::Told&, TaskTime at) { server_.oracle().OnAccepted(token, false, at); },
      [this, attempt, answered](absl::StatusOr<TaskLedger::Told> told) {
        if (absl::IsUnavailable(told.status()) || absl::IsResourceExhausted(told.status())) return;
        if (std::exchange(*answered, true) || attempt->life->dead) return;
        if (!told.ok()) return In(attempt->life, milliseconds(50), [this, attempt] { Ask(attempt->life); });
        attempt->cancel = attempt->cancel || told->cancel;
        In(attempt->life, world_.Between(500, 7000), [this, attempt] { Step(attempt); });
      });
}

void ExecutorNode::End(const std::shared_ptr<Attempt>& attempt, int how, int tries) {
  const std::string token = attempt->task.token;
  auto answered = std::make_shared<bool>(false);
  const auto next = [this, attempt] { Ask(attempt->life); };
  In(attempt->life, milliseconds(2000), [this, attempt, how, tries, answered, next] {
    if (std::exchange(*answered, true)) return;
    if (tries == 0) return next();
    End(attempt, how, tries - 1);
  });
  server_.Call<bool>(
      [this, token, how](TaskLedger& ledger, TaskTime now, TaskStep& step) -> absl::StatusOr<bool> {
        absl::Status s;
        if (how == 0) s = ledger.Succeed(token, {}, "done", now, step);
        if (how == 1)
          s = ledger.Fail(token, {}, world_.Chance(0.1) ? kErrorInvalid : "exit", "status 1", now, step);
        if (how == 2) s = ledger.Fail(token, {}, kErrorCancelled, "", now, step);
        if (how == 3) s = ledger.Return(token, now, step);
        if (!s.ok()) return s;
        return true;
      },
      [this, token](const bool&, TaskTime at) { server_.oracle().OnAccepted(token, true, at); },
      [this, attempt, answered, next](const absl::StatusOr<bool>& told) {
        if (absl::IsUnavailable(told.status()) || absl::IsResourceExhausted(told.status())) return;
        if (std::exchange(*answered, true)) return;
        In(attempt->life, milliseconds(20), next);
      });
}

}  // namespace omni::simulation
