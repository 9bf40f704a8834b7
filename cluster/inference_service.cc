#include "cluster/inference_service.h"

#include <algorithm>
#include <utility>
#include <vector>

#include <absl/strings/str_cat.h>

#include "cluster/grpc_status.h"
#include "cluster/inference_impl.h"
#include "engine/base/log.h"
#include "engine/text/prompt.h"

namespace omni {
namespace {

constexpr size_t kMostUnsent = 64;        // messages: a client that is further behind pauses its session
constexpr size_t kLongPrompt = 16 << 10;  // bytes; it is read elsewhere, so that the others need not wait

// Of the session log: who does not lead any more says Aborted, and the client is to ask whoever does.
absl::Status Passing(const absl::Status& status) {
  return absl::IsAborted(status) ? absl::UnavailableError(status.message()) : status;
}

absl::Status BeyondItsEnd(size_t tokens, uint64_t have) {
  return absl::OutOfRangeError(
      absl::StrCat("the answer has ", tokens, " tokens, and the client says it has ", have));
}

absl::Status Gone() { return absl::CancelledError("the client has gone"); }

}  // namespace

InferenceService::Impl::Impl(InferenceOptions o, Backend& b, SessionLog& l, SavedSessions& s)
    : options(std::move(o)),
      backend(b),
      log(l),
      saved(s),
      states(options.state_bytes),
      retention({options.keep}, l, counters.forgotten, *this),
      rpc(MakeInferenceCalls(*this)) {}
InferenceService::Impl::~Impl() = default;

bool InferenceService::Impl::InUse(const std::string& id) {
  return std::any_of(streams.begin(), streams.end(), [&](const StreamPtr& s) { return s->log_id() == id; });
}

void InferenceService::Impl::Ask(const StreamPtr& stream, const absl::Status& allowed) {
  {
    std::lock_guard lock(open_mutex);
    ++open;
  }
  executor.Post([this, stream, allowed] {
    streams.push_back(stream);
    if (!allowed.ok()) return Finish(stream, allowed);
    Begin(stream);
  });
}

void InferenceService::Impl::Forget(const StreamPtr& stream) {
  executor.Post([this, stream] {
    stream->handle = nullptr;
    streams.remove(stream);
    std::lock_guard lock(open_mutex);
    if (--open == 0) none_open.notify_all();
  });
}

absl::Status InferenceService::Impl::CheckModel(const std::string& name) const {
  if (name.empty() || name == options.model_name) return absl::OkStatus();
  return absl::NotFoundError(absl::StrCat("another model is asked for than the one that is served here, '",
                                          options.model_name, "'"));
}

void InferenceService::Impl::Begin(const StreamPtr& stream) {
  counters.streams.Add(1);
  if (absl::Status s = backend.Serving(); !s.ok()) {
    if (const std::string other = backend.Elsewhere(); !other.empty())
      stream->context->AddTrailingMetadata(kCoordinatorMetadata, other);
    return Finish(stream, s, NotLeading(backend));
  }
  if (absl::Status s = CheckGenerate(stream->request); !s.ok()) return Finish(stream, s);
  if (absl::Status s = CheckModel(stream->request.model()); !s.ok())
    return Finish(stream, s, {.reason = "MODEL_NOT_FOUND", .metadata = {}, .retry = {}});
  if (!stream->named()) {
    if (stream->request.have() > 0)
      return Finish(stream, absl::InvalidArgumentError("only a request with an id can be taken up again"));
    return FindSession(stream);
  }
  if (stream->whole && stream->request.have() > 0)
    return Finish(stream, absl::InvalidArgumentError("a whole answer is told from its first token on"));
  // Whoever had this answer before has it no more.
  for (const StreamPtr& other : std::list<StreamPtr>(streams)) {
    if (other != stream && other->log_id() == stream->log_id())
      Finish(other, absl::AbortedError("the request was taken up by another stream"),
             {.reason = "TAKEN_UP_ELSEWHERE", .metadata = {}, .retry = {}});
  }
  if (log_busy) {
    after_log.push_back([this, stream] { BeginNamed(stream); });
  } else {
    BeginNamed(stream);
  }
}

void InferenceService::Impl::BeginNamed(const StreamPtr& stream) {
  const std::string id = stream->log_id();
  if (!retention.MayBegin(id, [this, stream] { BeginNamed(stream); })) return;
  log.Find(id, [this, stream](absl::StatusOr<LoggedSession> logged) {
    executor.Post([this, stream, logged = std::move(logged)] {
      if (stream->finishing) return;
      if (logged.ok()) return TakeUp(stream, *logged);
      if (!absl::IsNotFound(logged.status())) return Finish(stream, logged.status());
      if (stream->request.have() > 0) {
        return Finish(stream,
                      absl::NotFoundError(absl::StrCat("there is no request ", stream->request.request_id(),
                                                       " that could be taken up")));
      }
      FindSession(stream);
    });
  });
}

void InferenceService::Impl::TakeUp(const StreamPtr& stream, const LoggedSession& logged) {
  const uint64_t have = stream->request.have();
  const std::string name = stream->request.request_id();
  pb::KeptRequest kept;
  if (!stream->request.ParseFromString(logged.request) || !kept.ParseFromString(logged.request))
    return Finish(stream, absl::DataLossError("the session log's request cannot be read"));
  stream->request.set_request_id(name);
  stream->request.set_have(have);
  stream->revision = kept.revision();
  for (int32_t token : kept.context()) stream->session.emplace_back(token);
  // What was kept is older than what was told: it was brought back from a copy, or a power cut took its end.
  // The same tokens follow again, and are not told twice.
  if (have > logged.tokens.size()) {
    if (!logged.finished.empty()) return Finish(stream, BeyondItsEnd(logged.tokens.size(), have));
    LogWarning("answer_behind",
               "{request}: {tokens} tokens are kept of an answer of which its client has {told}",
               {{"request", name}, {"tokens", logged.tokens.size()}, {"told", have}});
  }
  counters.resumed.Add(1);
  // What a write has left that failed is found too. It lasts when a later write does.
  log.Touch(stream->log_id(), [this, stream, logged](absl::Status touched) {
    executor.Post([this, stream, logged, touched = std::move(touched)] {
      if (stream->finishing) return;
      if (!touched.ok()) return Finish(stream, touched);
      // What is over needs no memory any more.
      if (!logged.finished.empty()) return ReadPrompt(stream, logged.tokens, logged.finished);
      HoldMemory(stream, [this, stream, logged] { ReadPrompt(stream, logged.tokens, logged.finished); });
    });
  });
}

void InferenceService::Impl::FindSession(const StreamPtr& stream) {
  if (stream->request.session().empty()) return CheckFree(stream);
  saved.Find(stream->owner + stream->request.session(), [this, stream](absl::StatusOr<SavedSession> found) {
    executor.Post([this, stream, found = std::move(found)] {
      if (stream->finishing) return;
      if (absl::IsNotFound(found.status())) {
        return Finish(
            stream, absl::NotFoundError(absl::StrCat("no session ", stream->request.session(), " is saved")),
            {.reason = "SESSION_NOT_FOUND", .metadata = {}, .retry = {}});
      }
      if (!found.ok()) return Finish(stream, found.status());
      pb::KeptSession about;
      const absl::StatusOr<std::vector<TokenId>> tokens = ReadTokens(*found);
      if (!tokens.ok()) return Finish(stream, tokens.status());
      if (!about.ParseFromString(found->about) || about.model_hash() != backend.model_hash()) {
        return Finish(stream,
                      absl::FailedPreconditionError(absl::StrCat("session ", stream->request.session(),
                                                                 " is of another model than the one served")),
                      {.reason = "SESSION_OF_ANOTHER_MODEL", .metadata = {}, .retry = {}});
      }
      stream->session = *tokens;
      stream->revision = found->revision;
      counters.sessions_resumed.Add(1);
      CheckFree(stream);
    });
  });
}

// What it is to be saved as must not be there yet. It is looked at again when it is saved.
void InferenceService::Impl::CheckFree(const StreamPtr& stream) {
  const std::string& name = stream->request.save_as();
  if (name.empty() || name == stream->request.session()) return BeginNew(stream);
  saved.Find(stream->owner + name, [this, stream, name](absl::StatusOr<SavedSession> found) {
    executor.Post([this, stream, name, found = found.status()] {
      if (stream->finishing) return;
      if (absl::IsNotFound(found)) return BeginNew(stream);
      if (!found.ok()) return Finish(stream, found);
      Finish(stream, absl::AlreadyExistsError(absl::StrCat("a session ", name, " is saved already")),
             {.reason = "SESSION_EXISTS", .metadata = {}, .retry = {}});
    });
  });
}

void InferenceService::Impl::BeginNew(const StreamPtr& stream) {
  // The answer is one of this very polytope and adapter, also where it is taken up again.
  if (const SafetyChoice safety = ToSafety(stream->request); !safety.polytope.empty()) {
    const absl::StatusOr<std::string> hash = backend.PolytopeHash(safety);
    if (!hash.ok()) return Finish(stream, hash.status());
    stream->request.set_safety_hash(*hash);
  }
  if (const AdapterChoice adapter = ToAdapter(stream->request); !adapter.name.empty()) {
    const absl::StatusOr<std::string> hash = backend.AdapterHash(adapter);
    if (!hash.ok()) return Finish(stream, hash.status());
    stream->request.set_adapter_hash(*hash);
  }
  // And with this very memory.
  HoldMemory(stream, [this, stream] {
    stream->request.set_memory_version(stream->memory.version);
    BeginLog(stream);
  });
}

// At once if it asks for none; a scope that is not in memory yet is read elsewhere.
void InferenceService::Impl::HoldMemory(const StreamPtr& stream, std::function<void()> then) {
  const MemoryChoice choice = ToMemory(stream->request);
  if (choice.scope.empty()) return then();
  readers.Post([this, stream, choice, then = std::move(then)] {
    executor.Post([this, stream, then, held = backend.HoldMemory(stream->caller, choice)] {
      if (stream->finishing) return;
      if (!held.ok()) return Finish(stream, held.status());
      stream->memory = *held;
      then();
    });
  });
}

void InferenceService::Impl::BeginLog(const StreamPtr& stream) {
  if (!stream->named()) return ReadPrompt(stream, {}, "");
  pb::KeptRequest kept;
  kept.set_revision(stream->revision);
  for (TokenId token : stream->session) kept.add_context(token.value);
  log.Begin(stream->log_id(), stream->request.SerializeAsString() + kept.SerializeAsString(),
            [this, stream](absl::Status begun) {
              executor.Post([this, stream, begun] {
                if (stream->finishing) return;
                // Another stream of the same name was faster: what it has begun is gone on with.
                if (absl::IsAlreadyExists(begun)) return BeginNamed(stream);
                if (!begun.ok()) return Finish(stream, Passing(begun));
                ReadPrompt(stream, {}, "");
              });
            });
}

// `known`: the answer's tokens so far; the client has the first of them.
void InferenceService::Impl::ReadPrompt(const StreamPtr& stream, std::vector<TokenId> known,
                                        const std::string& finished) {
  if (stream->finishing) return;
  const pb::GenerateRequest& request = stream->request;
  const auto read = [this, stream] {
    const pb::GenerateRequest& request = stream->request;
    std::vector<TokenId> tokens;
    if (request.tokens_size() > 0) {
      for (int32_t token : request.tokens()) tokens.emplace_back(token);
    } else if (stream->session.empty()) {
      tokens = PromptTokens(backend.tokenizer(), request.prompt());
    } else {
      tokens = backend.tokenizer().Encode(request.prompt());
    }
    return tokens;
  };
  if (request.prompt().size() <= kLongPrompt) {
    stream->prompt = read();
    return Go(stream, std::move(known), finished);
  }
  readers.Post([this, stream, read, known = std::move(known), finished] {
    executor.Post([this, stream, tokens = read(), known, finished] {
      stream->prompt = tokens;
      Go(stream, known, finished);
    });
  });
}

void InferenceService::Impl::Go(const StreamPtr& stream, std::vector<TokenId> known,
                                const std::string& finished) {
  if (stream->finishing) return;
  GenerateRequest request = ToRequest(stream->request);
  request.caller = stream->caller;
  request.max_tokens = std::min(request.max_tokens, options.most_tokens);
  const size_t before = stream->session.size() + stream->prompt.size();
  stream->matcher = std::make_unique<StopMatcher>(request.stops);
  pb::GenerateResponse begun;
  begun.mutable_begun()->set_request_id(stream->request.request_id());
  begun.mutable_begun()->set_model_hash(backend.model_hash());
  begun.mutable_begun()->set_prompt_tokens(before);
  begun.mutable_begun()->set_safety_hash(stream->request.safety_hash());
  begun.mutable_begun()->set_memory_version(stream->request.memory_version());
  begun.mutable_begun()->set_adapter_hash(stream->request.adapter_hash());
  stream->call.record.prompt_tokens = static_cast<int64_t>(before);
  begun.mutable_begun()->set_coordinator(backend.node());
  stream->out.push_back(std::move(begun));
  for (TokenId token : known)
    ShowToken(stream, {.token = token}, stream->answer.size() >= stream->request.have());
  // It may have been logged to its last token, and not that it was the last.
  std::string over = finished;
  if (over.empty() && !known.empty()) {
    if (request.stop_at_end_of_text && known.back() == Tokenizer::kEndOfText) {
      over = StopReasonName(StopReason::kEndOfText);
    } else if (stream->matcher->stopped()) {
      over = StopReasonName(StopReason::kStop);
    } else if (static_cast<int64_t>(known.size()) >= request.max_tokens) {
      over = StopReasonName(StopReason::kLength);
    } else if (static_cast<int64_t>(before + known.size()) >= backend.max_context()) {
      over = StopReasonName(StopReason::kContext);
    }
  }
  if (!over.empty()) {
    End(stream, over, {});
    return Write(stream);
  }
  SubmitOptions with;
  if (!stream->session.empty()) {
    with.from = states.Find(stream->owner + stream->request.session(), stream->revision);
    if (with.from != nullptr) {
      counters.states_found.Add(1);
    } else {
      request.prompt = stream->session;
    }
  }
  request.prompt.insert(request.prompt.end(), stream->prompt.begin(), stream->prompt.end());
  request.generated = std::move(known);
  request.keep = !stream->request.save_as().empty() && states.keeps_any();
  with.notify = [this, weak = std::weak_ptr(stream)] {
    executor.Post([this, weak] {
      if (const StreamPtr stream = weak.lock()) Poll(stream);
    });
  };
  const auto prompt_tokens = static_cast<int64_t>(request.prompt.size());
  absl::StatusOr<std::unique_ptr<SessionHandle>> handle = backend.Submit(std::move(request), std::move(with));
  if (!handle.ok()) return Finish(stream, handle.status());
  stream->handle = *std::move(handle);
  stream->call.record.session = static_cast<int64_t>(stream->handle->id().value);
  if (stream->permit != nullptr) stream->permit->OnTokens(prompt_tokens);
  Write(stream);
  Poll(stream);
}

void InferenceService::Impl::Poll(const StreamPtr& stream) {
  if (stream->handle == nullptr || stream->finishing || stream->result.has_value() ||
      stream->out.size() + stream->drawn.size() >= kMostUnsent) {
    return;
  }
  if (stream->permit != nullptr) {
    if (const absl::Status in_time = stream->permit->InTime(); !in_time.ok()) return Finish(stream, in_time);
  }
  SessionChannel::Taken taken = stream->handle->Poll();
  for (GenerateEvent& event : taken.events) {
    if (event.is_token) {
      if (stream->permit != nullptr) stream->permit->OnTokens(1);
      RequestRecord& record = stream->call.record;
      if (record.first_token.count() == 0)
        record.first_token = std::chrono::steady_clock::now() - stream->call.asked;
      stream->drawn.push_back({event.token, event.probability, std::move(event.alternatives),
                               std::move(event.routes), std::move(event.confidence), event.notes});
    } else if (event.text.empty()) {
      pb::GenerateResponse progress;
      progress.mutable_progress()->set_prompt_tokens(static_cast<uint64_t>(event.position));
      stream->out.push_back(std::move(progress));
    }
  }
  if (taken.result.has_value()) {
    if (!taken.result->ok()) return Finish(stream, taken.result->status());
    if ((*taken.result)->reason == StopReason::kCancelled)
      return Finish(stream, absl::UnavailableError("the coordinator is shutting down"));
    stream->result = **std::move(taken.result);
  }
  if (stream->named()) {
    Log();
  } else {
    Show(stream, stream->drawn.size());
  }
  Write(stream);
}

// Whatever all streams have drawn goes into one write.
void InferenceService::Impl::Log() {
  if (log_busy) return;
  std::vector<LoggedTokens> batch;
  std::vector<std::pair<StreamPtr, size_t>> logged;
  constexpr size_t kMost = 60;  // of a transaction's changes, two each
  for (const StreamPtr& stream : streams) {
    if (!stream->named() || stream->finishing || stream->ending || batch.size() >= kMost) continue;
    if (stream->drawn.empty() && !stream->result.has_value()) continue;
    LoggedTokens tokens{stream->log_id(), static_cast<int64_t>(stream->answer.size()), {}, ""};
    for (const DrawnToken& drawn : stream->drawn) tokens.tokens.push_back(drawn.token);
    if (stream->result.has_value()) tokens.finished = StopReasonName(stream->result->reason);
    batch.push_back(std::move(tokens));
    logged.emplace_back(stream, stream->drawn.size());
    stream->logging = stream->result.has_value();
  }
  if (batch.empty()) return;
  log_busy = true;
  log.Append(std::move(batch), [this, logged = std::move(logged)](absl::Status status) {
    executor.Post([this, logged, status] { OnLogged(logged, status); });
  });
}

void InferenceService::Impl::OnLogged(const std::vector<std::pair<StreamPtr, size_t>>& logged,
                                      const absl::Status& status) {
  // Still busy: what is begun to be logged now would be, once more, what others here have not been shown yet.
  for (const auto& [stream, tokens] : logged) {
    if (status.ok()) {
      Show(stream, tokens);
      Write(stream);
    } else {
      counters.log_errors.Add(1);
      Finish(stream,
             Passing(absl::Status(status.code(),
                                  absl::StrCat("the answer's next tokens could not be made lasting, and "
                                               "are not shown: ",
                                               status.message()))));
    }
  }
  log_busy = false;
  for (auto& deed : std::exchange(after_log, {})) deed();
  for (const auto& [stream, tokens] : logged) Poll(stream);
  Log();
}

void InferenceService::Impl::Show(const StreamPtr& stream, size_t tokens) {
  const bool all = tokens == stream->drawn.size();
  for (size_t i = 0; i < tokens; ++i)
    ShowToken(stream, stream->drawn[i], stream->answer.size() >= stream->request.have());
  stream->drawn.erase(stream->drawn.begin(), stream->drawn.begin() + static_cast<std::ptrdiff_t>(tokens));
  const bool end = stream->result.has_value() && (!stream->named() || stream->logging);
  if (all && end) End(stream, StopReasonName(stream->result->reason), stream->result->timings);
}

void InferenceService::Impl::ShowToken(const StreamPtr& stream, const DrawnToken& drawn, bool tell) {
  stream->answer.push_back(drawn.token);
  std::string text;
  if (drawn.token != Tokenizer::kEndOfText)
    text = stream->matcher->Push(backend.tokenizer().Bytes(drawn.token));
  if (!tell) return;
  counters.tokens.Add(1);
  pb::GenerateResponse response;
  pb::Token& token = *response.mutable_token();
  token.set_number(stream->answer.size());
  token.set_text(std::move(text));
  TellToken(drawn, backend.tokenizer(), token);
  stream->out.push_back(std::move(response));
}

void InferenceService::Impl::End(const StreamPtr& stream, const std::string& reason, const Timings& timings) {
  if (std::exchange(stream->ending, true)) return;
  if (stream->request.have() > stream->answer.size())
    return Finish(stream, BeyondItsEnd(stream->answer.size(), stream->request.have()));
  if (stream->request.save_as().empty()) {
    ShowEnd(stream, reason, timings, nullptr);
  } else {
    Save(stream, reason, timings);
  }
}

void InferenceService::Impl::Save(const StreamPtr& stream, const std::string& reason,
                                  const Timings& timings) {
  std::vector<TokenId> all = stream->session;
  all.insert(all.end(), stream->prompt.begin(), stream->prompt.end());
  all.insert(all.end(), stream->answer.begin(), stream->answer.end());
  pb::KeptSession about;
  about.set_tokens(all.size());
  about.set_generated_tokens(stream->answer.size());
  about.set_model_hash(backend.model_hash());
  about.set_saved_unix_seconds(
      std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch())
          .count());
  about.set_request_id(stream->request.request_id());
  SavedSession session{stream->owner + stream->request.save_as(), 0, about.SerializeAsString(),
                       TokenBytes(all)};
  const uint64_t expected = stream->request.save_as() == stream->request.session() ? stream->revision : 0;
  saved.Put(session, expected, [this, stream, session, reason, timings](absl::StatusOr<uint64_t> done) {
    executor.Post([this, stream, session, reason, timings, done] {
      if (!stream->finishing) OnSaved(stream, session, done, reason, timings);
    });
  });
}

void InferenceService::Impl::OnSaved(const StreamPtr& stream, const SavedSession& session,
                                     const absl::StatusOr<uint64_t>& done, const std::string& reason,
                                     const Timings& timings) {
  if (done.ok()) {
    counters.sessions_saved.Add(1);
    if (stream->result.has_value() && stream->result->snapshot != nullptr) {
      // What is gone on from it begins an answer of its own, by another adapter not from this state.
      auto state = std::make_shared<SessionSnapshot>(stream->result->snapshot->Clone());
      state->request = GenerateRequest();
      state->request.adapter = stream->result->snapshot->request.adapter;
      state->generated = 0;
      states.Put(session.id, *done, std::move(state));
      stream->result->snapshot = nullptr;
    }
    ShowEnd(stream, reason, timings, &session);
    return Write(stream);
  }
  if (!absl::IsAlreadyExists(done.status()) && !absl::IsAborted(done.status()))
    return Finish(stream, done.status());
  // By this very answer, before a failure?
  saved.Find(session.id, [this, stream, session, reason, timings,
                          refused = done.status()](absl::StatusOr<SavedSession> found) {
    executor.Post([this, stream, session, reason, timings, refused, found = std::move(found)] {
      if (stream->finishing) return;
      pb::KeptSession there;
      const bool same = found.ok() && stream->named() && found->tokens == session.tokens &&
                        there.ParseFromString(found->about) &&
                        there.request_id() == stream->request.request_id();
      if (!same) {
        return Finish(stream, refused,
                      {.reason = absl::IsAborted(refused) ? "SESSION_CHANGED" : "SESSION_EXISTS",
                       .metadata = {},
                       .retry = {}});
      }
      ShowEnd(stream, reason, timings, &*found);
      Write(stream);
    });
  });
}

void InferenceService::Impl::ShowEnd(const StreamPtr& stream, const std::string& reason,
                                     const Timings& timings, const SavedSession* saved_as) {
  const auto seconds = [](std::chrono::nanoseconds t) { return std::chrono::duration<double>(t).count(); };
  pb::GenerateResponse response;
  pb::Finished& f = *response.mutable_finished();
  f.set_reason(reason);
  if (!stream->matcher->stopped()) f.set_text(stream->matcher->Flush());
  f.set_generated_tokens(stream->answer.size());
  f.set_prompt_tokens(static_cast<uint64_t>(timings.prompt_tokens));
  f.set_queued_seconds(seconds(timings.queued));
  f.set_prefill_seconds(seconds(timings.prefill));
  f.set_decode_seconds(seconds(timings.decode));
  if (saved_as != nullptr) *f.mutable_session() = ToSession(*saved_as, stream->owner);
  stream->out.push_back(std::move(response));
  stream->end_told = true;
}

void InferenceService::Impl::Write(const StreamPtr& stream) {
  if (stream->writing || stream->finishing || stream->sink == nullptr) return;
  if (stream->out.empty()) {
    if (stream->end_told) Finish(stream, absl::OkStatus());
    return;
  }
  stream->writing = true;
  stream->sink->Write(stream->out.front());
}

void InferenceService::Impl::OnWritten(const StreamPtr& stream, bool ok) {
  stream->writing = false;
  stream->out.pop_front();
  if (!ok) return Finish(stream, Gone());
  Write(stream);
  Poll(stream);
}

void InferenceService::Impl::Finish(const StreamPtr& stream, const absl::Status& status,
                                    const ErrorDetails& details) {
  if (std::exchange(stream->finishing, true)) return;
  stream->handle = nullptr;  // cancels what is under way
  stream->call.record.tokens = static_cast<int64_t>(stream->answer.size());
  if (options.log_requests) LogGrpcRequest(stream->call, status);
  if (stream->sink != nullptr) stream->sink->End(ToDetailedGrpc(status, details));
}

InferenceService::InferenceService(InferenceOptions options, Backend& backend, SessionLog& log,
                                   SavedSessions& saved)
    : impl_(std::make_unique<Impl>(std::move(options), backend, log, saved)) {}
InferenceService::~InferenceService() {
  impl_->executor.Post([impl = impl_.get()] { impl->retention.Stop(); });
}
grpc::Service* InferenceService::service() { return impl_->rpc.get(); }
void InferenceService::Tick() {
  impl_->executor.Post([impl = impl_.get()] { impl->retention.OnTick(SessionRetention::Clock::now()); });
}
void InferenceService::EndAll(absl::Status status) {
  impl_->executor.Post([impl = impl_.get(), status = std::move(status)] {
    for (const StreamPtr& stream : std::list<StreamPtr>(impl->streams)) impl->Finish(stream, status);
  });
}
bool InferenceService::WaitForNone(std::chrono::milliseconds most) {
  std::unique_lock lock(impl_->open_mutex);
  return impl_->none_open.wait_for(lock, most, [this] { return impl_->open == 0; });
}
const InferenceCounters& InferenceService::counters() const { return impl_->counters; }

}  // namespace omni
