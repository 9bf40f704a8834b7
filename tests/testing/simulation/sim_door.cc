#include "tests/testing/simulation/sim_door.h"

#include <utility>

#include "engine/base/simulated.h"

namespace omni::simulation {

void SimDoor::Generate(Client& client, int64_t attempt, ClientRequest request) {
  auto stream = std::make_shared<Stream>();
  stream->client = &client;
  stream->attempt = attempt;
  stream->request = std::move(request);
  Post([this, stream] {
    streams_.push_back(stream);
    Begin(stream);
  });
}

void SimDoor::Leave(Client& client, int64_t attempt) {
  Post([this, &client, attempt] {
    for (const StreamPtr& stream : std::list<StreamPtr>(streams_)) {
      if (stream->client == &client && stream->attempt == attempt)
        Finish(stream, absl::CancelledError("the client has gone"));
    }
  });
}

void SimDoor::EndAll(const absl::Status& status) {
  Post([this, status] {
    for (const StreamPtr& stream : std::list<StreamPtr>(streams_)) Finish(stream, status);
  });
}

void SimDoor::Begin(const StreamPtr& stream) {
  if (!serving_()) return Finish(stream, absl::UnavailableError("this node does not coordinate"));
  for (const StreamPtr& other : std::list<StreamPtr>(streams_)) {
    if (other != stream && other->request.id == stream->request.id)
      Finish(other, absl::AbortedError("the request was taken up by another stream"));
  }
  if (log_busy_) {
    after_log_.push_back([this, stream] { BeginNamed(stream); });
  } else {
    BeginNamed(stream);
  }
}

void SimDoor::BeginNamed(const StreamPtr& stream) {
  log_.Find(stream->request.id, [this, stream](absl::StatusOr<LoggedSession> logged) {
    Post([this, stream, logged = std::move(logged)] {
      if (stream->finishing) return;
      if (logged.ok()) {
        ClientRequest kept = ParseRequest(logged->request);
        kept.id = stream->request.id;
        kept.have = stream->request.have;
        stream->request = std::move(kept);
        if (stream->request.have > logged->tokens.size()) {
          return Finish(stream, absl::OutOfRangeError(absl::StrCat(
                                    "the answer has ", logged->tokens.size(),
                                    " tokens so far, and the client says it has ", stream->request.have)));
        }
        log_.Touch(stream->request.id, [this, stream, logged = *logged](absl::Status touched) {
          Post([this, stream, logged, touched = std::move(touched)] {
            if (stream->finishing) return;
            if (!touched.ok()) return Finish(stream, touched);
            Go(stream, logged.tokens, logged.finished);
          });
        });
        return;
      }
      if (!absl::IsNotFound(logged.status())) return Finish(stream, logged.status());
      if (stream->request.have > 0)
        return Finish(stream, absl::NotFoundError("there is no request that could be taken up"));
      log_.Begin(stream->request.id, ToText(stream->request), [this, stream](absl::Status begun) {
        Post([this, stream, begun = std::move(begun)] {
          if (!begun.ok()) return Finish(stream, begun);
          Go(stream, {}, "");
        });
      });
    });
  });
}

void SimDoor::Go(const StreamPtr& stream, std::vector<TokenId> known, const std::string& finished) {
  if (stream->finishing) return;
  for (TokenId token : known) ShowToken(stream, token, stream->tokens >= stream->request.have);
  const bool whole = static_cast<int64_t>(known.size()) >= stream->request.max_tokens;
  if (!finished.empty() || whole) return ShowEnd(stream);
  GenerateRequest request;
  request.prompt = stream->request.prompt;
  request.max_tokens = stream->request.max_tokens;
  request.stop_at_end_of_text = false;
  request.generated = std::move(known);
  absl::StatusOr<std::unique_ptr<Answer>> answer =
      submit_(std::move(request), [this, weak = std::weak_ptr(stream)] {
        Post([this, weak] {
          if (const StreamPtr s = weak.lock()) Poll(s);
        });
      });
  if (!answer.ok()) return Finish(stream, answer.status());
  stream->answer = *std::move(answer);
  Poll(stream);
}

void SimDoor::Poll(const StreamPtr& stream) {
  if (stream->answer == nullptr || stream->finishing || stream->result.has_value()) return;
  SessionChannel::Taken taken = stream->answer->Poll();
  for (const GenerateEvent& event : taken.events) {
    if (event.is_token) stream->drawn.push_back(event.token);
  }
  if (taken.result.has_value()) {
    if (!taken.result->ok()) return Finish(stream, taken.result->status());
    if ((*taken.result)->reason == StopReason::kCancelled)
      return Finish(stream, absl::UnavailableError("the coordinator is shutting down"));
    stream->result = **std::move(taken.result);
  }
  if (OMNI_PLANTED(kShownBeforeLogged)) {
    for (size_t i = 0; i < stream->drawn.size(); ++i) {
      ToClient(stream,
               [number = stream->tokens + i + 1, token = stream->drawn[i]](Client& c, int64_t attempt) {
                 if (number == c.have() + 1) c.OnToken(attempt, number, token);
               });
    }
  }
  Log();
}

void SimDoor::Log() {
  if (log_busy_) return;
  std::vector<LoggedTokens> batch;
  std::vector<std::pair<StreamPtr, size_t>> logged;
  for (const StreamPtr& stream : streams_) {
    if (stream->finishing || stream->end_told) continue;
    if (stream->drawn.empty() && !stream->result.has_value()) continue;
    LoggedTokens tokens{stream->request.id, static_cast<int64_t>(stream->tokens), stream->drawn, ""};
    if (stream->result.has_value()) tokens.finished = StopReasonName(stream->result->reason);
    batch.push_back(std::move(tokens));
    logged.emplace_back(stream, stream->drawn.size());
    stream->logging = stream->result.has_value();
  }
  if (batch.empty()) return;
  log_busy_ = true;
  log_.Append(std::move(batch), [this, logged = std::move(logged)](absl::Status status) {
    Post([this, logged, status = std::move(status)] { OnLogged(logged, status); });
  });
}

void SimDoor::OnLogged(const std::vector<std::pair<StreamPtr, size_t>>& logged, const absl::Status& status) {
  for (const auto& [stream, tokens] : logged) {
    if (status.ok()) {
      Show(stream, tokens);
    } else {
      Finish(stream, status);
    }
  }
  log_busy_ = false;
  for (auto& deed : std::exchange(after_log_, {})) deed();
  for (const auto& [stream, tokens] : logged) Poll(stream);
  Log();
}

void SimDoor::Show(const StreamPtr& stream, size_t tokens) {
  const bool all = tokens == stream->drawn.size();
  for (size_t i = 0; i < tokens; ++i) ShowToken(stream, stream->drawn[i], true);
  stream->drawn.erase(stream->drawn.begin(), stream->drawn.begin() + static_cast<std::ptrdiff_t>(tokens));
  if (all && stream->result.has_value() && stream->logging) ShowEnd(stream);
}

void SimDoor::ShowToken(const StreamPtr& stream, TokenId token, bool tell) {
  ++stream->tokens;
  if (!tell || stream->finishing) return;
  ToClient(stream, [number = stream->tokens, token](Client& client, int64_t attempt) {
    if (OMNI_PLANTED(kShownBeforeLogged) && number <= client.have()) return;
    client.OnToken(attempt, number, token);
  });
}

void SimDoor::ShowEnd(const StreamPtr& stream) {
  stream->end_told = true;
  if (!stream->finishing) {
    ToClient(stream, [tokens = stream->tokens](Client& client, int64_t attempt) {
      client.OnFinished(attempt, tokens);
    });
  }
  Finish(stream, absl::OkStatus());
}

void SimDoor::Finish(const StreamPtr& stream, const absl::Status& status) {
  if (std::exchange(stream->finishing, true)) return;
  stream->answer = nullptr;
  if (!status.ok()) {
    ToClient(stream, [status](Client& client, int64_t attempt) { client.OnError(attempt, status); });
  }
  Post([this, stream] { streams_.remove(stream); });
}

// In order, as on a stream; a process that is killed has sent what it has sent.
void SimDoor::ToClient(const StreamPtr& stream, std::function<void(Client&, int64_t)> what) {
  World& world = home_.world;
  *last_ = std::max(*last_ + Duration(1),
                    world.now() + microseconds(50) + Duration(world.chance().Below(300'000)));
  Client* client = stream->client;
  client->At(*last_ - world.now(),
             [client, attempt = stream->attempt, what = std::move(what)] { what(*client, attempt); });
}

}  // namespace omni::simulation
