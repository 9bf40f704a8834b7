#include "tests/testing/simulation/client.h"

#include <cstdlib>
#include <utility>

#include "tests/testing/simulation/toy_model.h"

namespace omni::simulation {
namespace {

std::vector<TokenId> Prompt(World& world, int64_t n) {
  std::vector<TokenId> prompt;
  for (int64_t i = 0; i < n; ++i)
    prompt.push_back(TokenId(static_cast<int32_t>(world.chance().Below(ToyConfig().vocab))));
  return prompt;
}

Duration Way(World& world) { return microseconds(100) + Duration(world.chance().Below(400'000)); }

}  // namespace

std::string ToText(const ClientRequest& request) {
  std::string text = absl::StrCat(request.max_tokens);
  for (TokenId token : request.prompt) absl::StrAppend(&text, " ", token.value);
  return text;
}

ClientRequest ParseRequest(const std::string& text) {
  ClientRequest request;
  char* at = nullptr;
  request.max_tokens = std::strtoll(text.c_str(), &at, 10);
  while (*at == ' ') request.prompt.push_back(TokenId(static_cast<int32_t>(std::strtol(at, &at, 10))));
  return request;
}

Client::Client(World& world, std::string name, std::vector<Place> places, int64_t prompt, int64_t tokens)
    : Process(world, std::move(name)),
      places_(std::move(places)),
      prompt_(Prompt(world, prompt)),
      whole_(ToyReference(prompt_, tokens)) {}

void Client::Ask() {
  if (done_) return;
  const int64_t attempt = ++attempt_;
  place_ = static_cast<size_t>(world.chance().Below(static_cast<int64_t>(places_.size())));
  const Place& place = places_[place_];
  if (!place.process->up()) return AskAgain(milliseconds(60));  // refused
  ClientRequest request{name, prompt_, static_cast<int64_t>(whole_.size()), shown_.size()};
  place.process->At(Way(world), [this, attempt, request = std::move(request), door = place.door] {
    if (Door* d = door()) d->Generate(*this, attempt, request);
  });
  Watch(attempt, shown_.size());
  if (impatient && world.chance().Of(0.15)) {
    world.Count(FaultKind::client_gone);
    At(microseconds(200) + Duration(world.chance().Below(4'000'000)), [this, attempt] {
      if (attempt == attempt_) GoAway(microseconds(500));
    });
  }
}

void Client::AskAgain(Duration wait) {
  At(wait + Duration(world.chance().Below(wait.count())), [this, attempt = attempt_] {
    if (attempt == attempt_) Ask();
  });
}

// Who hears nothing for long asks elsewhere.
void Client::Watch(int64_t attempt, size_t had) {
  At(milliseconds(1500), [this, attempt, had] {
    if (attempt != attempt_ || done_) return;
    if (shown_.size() > had) return Watch(attempt, shown_.size());
    world.Trace(name, " hears nothing and asks again");
    const Place& place = places_[place_];
    if (place.process->up()) {
      place.process->At(Way(world), [this, attempt, door = place.door] {
        if (Door* d = door()) d->Leave(*this, attempt);
      });
    }
    Ask();
  });
}

void Client::GoAway(Duration time) {
  if (done_) return;
  const int64_t attempt = attempt_++;  // nothing is heard any more
  const Place& place = places_[place_];
  if (place.process->up()) {
    place.process->At(Way(world), [this, attempt, door = place.door] {
      if (Door* d = door()) d->Leave(*this, attempt);
    });
  }
  AskAgain(time);
}

void Client::OnToken(int64_t attempt, uint64_t number, TokenId token) {
  if (attempt != attempt_ || done_) return;
  if (number != shown_.size() + 1) {
    world.Fail(absl::StrCat(name, " is shown token ", number, " and has ", shown_.size()));
    return;
  }
  if (number > whole_.size() || token != whole_[number - 1]) {
    world.Fail(
        absl::StrCat(name, " is shown another token ", number, " than a single node gives: ", token.value));
    return;
  }
  shown_.push_back(token);
  world.Trace(name, " is shown token ", number);
}

void Client::OnFinished(int64_t attempt, uint64_t tokens) {
  if (attempt != attempt_ || done_) return;
  if (tokens != whole_.size() || shown_.size() != whole_.size())
    world.Fail(absl::StrCat(name, " is told that its answer is over with ", shown_.size(), " tokens"));
  done_ = true;
  world.Trace(name, " has its answer");
}

void Client::OnError(int64_t attempt, const absl::Status& status) {
  if (attempt != attempt_ || done_) return;
  world.Trace(name, " gets an error: ", std::string(status.ToString()));
  if (may_lose && (absl::IsOutOfRange(status) || absl::IsNotFound(status))) {
    shown_.clear();
    return AskAgain(milliseconds(40));
  }
  switch (status.code()) {
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kDataLoss:
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kInternal:
      world.Fail(absl::StrCat(name, " with ", shown_.size(), " tokens: ", std::string(status.ToString())));
      return;
    default:
      AskAgain(milliseconds(40));
  }
}

void Client::OnProcessGone(const Process& process) {
  if (done_ || places_[place_].process != &process) return;
  At(Way(world), [this, attempt = attempt_] {
    if (attempt == attempt_ && !done_) AskAgain(milliseconds(30));
  });
}

}  // namespace omni::simulation
