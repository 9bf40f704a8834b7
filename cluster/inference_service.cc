#include "cluster/inference_service.h"

#include <algorithm>
#include <deque>
#include <list>
#include <map>
#include <utility>
#include <vector>

#include <absl/strings/str_cat.h>
#include <grpcpp/grpcpp.h>

#include "cluster/grpc_status.h"
#include "cluster/session_retention.h"
#include "engine/text/prompt.h"
#include "engine/text/stop_matcher.h"
#include "omni/inference/v1/inference.grpc.pb.h"

namespace omni {
namespace {

namespace pb = ::omni::inference::v1;

constexpr size_t kMostUnsent = 64;  // messages: a client that is further behind pauses its session

absl::Status CheckId(const std::string& id) {
  constexpr size_t kMost = 64;
  const bool fits = id.size() <= kMost && std::all_of(id.begin(), id.end(), [](char c) {
                      return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
                             c == '-' || c == '_';
                    });
  if (fits) return absl::OkStatus();
  return absl::InvalidArgumentError("request_id may have up to 64 characters of A-Z a-z 0-9 - _");
}

// Of the session log: who does not lead any more says Aborted, and the client is to ask whoever does.
absl::Status Passing(const absl::Status& status) {
  return absl::IsAborted(status) ? absl::UnavailableError(status.message()) : status;
}

GenerateRequest ToRequest(const pb::GenerateRequest& r, const Tokenizer& tokenizer) {
  GenerateRequest request;
  request.prompt = PromptTokens(tokenizer, r.prompt());
  if (r.max_tokens() > 0)
    request.max_tokens = static_cast<int64_t>(std::min<uint64_t>(r.max_tokens(), 1ull << 40));
  if (r.has_sampler()) {
    const pb::Sampler& s = r.sampler();
    request.sampler.temperature = s.temperature();
    request.sampler.top_k = s.top_k();
    request.sampler.top_p = s.top_p();
    request.sampler.min_p = s.min_p();
    request.sampler.repetition_penalty = s.repetition_penalty();
    request.sampler.repetition_window = s.repetition_window();
    request.sampler.seed = s.seed();
  }
  request.stops.assign(r.stops().begin(), r.stops().end());
  request.stop_at_end_of_text = !r.ignore_end_of_text();
  return request;
}

class Reactor;

}  // namespace

// A stream under way, on the executor's thread but for the reactor's own calls.
struct Stream {
  Reactor* reactor = nullptr;  // null: gRPC has done with it
  grpc::CallbackServerContext* context = nullptr;
  bool writing = false, finishing = false;
  pb::GenerateRequest request;
  bool named() const { return !request.request_id().empty(); }

  std::unique_ptr<StopMatcher> matcher;
  int64_t tokens = 0;  // of the answer, that have gone through the matcher
  bool end_told = false;
  std::unique_ptr<SessionHandle> handle;
  std::deque<pb::GenerateResponse> out;

  // What has been drawn and not been logged.
  std::vector<std::pair<TokenId, float>> drawn;
  std::optional<GenerateResult> result;
  bool logging = false;  // some of it is being logged
};
using StreamPtr = std::shared_ptr<Stream>;

struct InferenceService::Impl : public SessionRetention::Owner {
  Impl(const InferenceOptions& o, Backend& b, SessionLog& l)
      : backend(b), log(l), retention({o.keep}, l, counters.forgotten, *this), rpc(*this) {}

  bool InUse(const std::string& id) override {
    return std::any_of(streams.begin(), streams.end(),
                       [&](const StreamPtr& s) { return s->request.request_id() == id; });
  }
  void Post(std::function<void()> f) override { executor.Post(std::move(f)); }

  // --- All on the executor's thread

  void Begin(const StreamPtr& stream);
  void BeginNamed(const StreamPtr& stream);
  void Go(const StreamPtr& stream, std::vector<TokenId> known, const std::string& finished);
  void Poll(const StreamPtr& stream);
  void Log();
  void OnLogged(const std::vector<std::pair<StreamPtr, size_t>>& logged, const absl::Status& status);
  void Show(const StreamPtr& stream, size_t tokens);
  void ShowToken(const StreamPtr& stream, TokenId token, float probability, bool tell);
  void ShowEnd(const StreamPtr& stream, const std::string& reason, const Timings& timings);
  void Write(const StreamPtr& stream);
  void Finish(const StreamPtr& stream, const absl::Status& status);
  void Forget(const StreamPtr& stream);

  class Rpc final : public pb::Inference::CallbackService {
   public:
    explicit Rpc(Impl& impl) : impl_(impl) {}
    grpc::ServerWriteReactor<pb::GenerateResponse>* GenerateStream(
        grpc::CallbackServerContext* context, const pb::GenerateRequest* request) override;

   private:
    Impl& impl_;
  };

  Backend& backend;
  SessionLog& log;
  InferenceCounters counters;
  SessionRetention retention;
  std::list<StreamPtr> streams;
  bool log_busy = false;
  std::deque<std::function<void()>> after_log;  // waits until nothing is being logged
  Rpc rpc;
  Executor executor;  // goes first
};

namespace {

class Reactor final : public grpc::ServerWriteReactor<pb::GenerateResponse> {
 public:
  Reactor(InferenceService::Impl& impl, StreamPtr stream) : impl_(impl), stream_(std::move(stream)) {}
  void OnWriteDone(bool ok) override {
    impl_.executor.Post([&impl = impl_, stream = stream_, ok] {
      stream->writing = false;
      stream->out.pop_front();
      if (!ok) return impl.Finish(stream, absl::CancelledError("the client has gone"));
      impl.Write(stream);
      impl.Poll(stream);
    });
  }
  void OnCancel() override {
    impl_.executor.Post([&impl = impl_, stream = stream_] {
      impl.Finish(stream, absl::CancelledError("the client has gone"));
    });
  }
  void OnDone() override {
    impl_.executor.Post([&impl = impl_, stream = stream_, this] {
      stream->reactor = nullptr;
      impl.Forget(stream);
      delete this;
    });
  }

 private:
  InferenceService::Impl& impl_;
  StreamPtr stream_;
};

}  // namespace

grpc::ServerWriteReactor<pb::GenerateResponse>* InferenceService::Impl::Rpc::GenerateStream(
    grpc::CallbackServerContext* context, const pb::GenerateRequest* request) {
  auto stream = std::make_shared<Stream>();
  stream->context = context;
  stream->request = *request;
  auto* reactor = new Reactor(impl_, stream);
  stream->reactor = reactor;
  impl_.executor.Post([&impl = impl_, stream] {
    impl.streams.push_back(stream);
    impl.Begin(stream);
  });
  return reactor;
}

void InferenceService::Impl::Begin(const StreamPtr& stream) {
  counters.streams.Add(1);
  if (absl::Status s = backend.Serving(); !s.ok()) {
    if (const std::string other = backend.Elsewhere(); !other.empty())
      stream->context->AddTrailingMetadata(kCoordinatorMetadata, other);
    return Finish(stream, s);
  }
  if (absl::Status s = CheckId(stream->request.request_id()); !s.ok()) return Finish(stream, s);
  if (!stream->named()) {
    if (stream->request.have() > 0)
      return Finish(stream, absl::InvalidArgumentError("only a request with an id can be taken up again"));
    return Go(stream, {}, "");
  }
  // Whoever had this answer before has it no more.
  for (const StreamPtr& other : std::list<StreamPtr>(streams)) {
    if (other != stream && other->request.request_id() == stream->request.request_id())
      Finish(other, absl::AbortedError("the request was taken up by another stream"));
  }
  if (log_busy) {
    after_log.push_back([this, stream] { BeginNamed(stream); });
  } else {
    BeginNamed(stream);
  }
}

void InferenceService::Impl::BeginNamed(const StreamPtr& stream) {
  const std::string id = stream->request.request_id();
  if (!retention.MayBegin(id, [this, stream] { BeginNamed(stream); })) return;
  log.Find(id, [this, stream, id](absl::StatusOr<LoggedSession> logged) {
    executor.Post([this, stream, id, logged = std::move(logged)] {
      if (stream->finishing) return;
      if (logged.ok()) {
        const uint64_t have = stream->request.have();
        if (!stream->request.ParseFromString(logged->request))
          return Finish(stream, absl::DataLossError("the session log's request cannot be read"));
        stream->request.set_request_id(id);
        stream->request.set_have(have);
        if (have > logged->tokens.size()) {
          return Finish(stream, absl::OutOfRangeError(
                                    absl::StrCat("the answer has ", logged->tokens.size(),
                                                 " tokens so far, and the client says it has ", have)));
        }
        counters.resumed.Add(1);
        // What a write has left that failed is found too. It lasts when a later write does.
        log.Touch(id, [this, stream, logged = *logged](absl::Status touched) {
          executor.Post([this, stream, logged, touched = std::move(touched)] {
            if (stream->finishing) return;
            if (!touched.ok()) return Finish(stream, touched);
            Go(stream, logged.tokens, logged.finished);
          });
        });
        return;
      }
      if (!absl::IsNotFound(logged.status())) return Finish(stream, logged.status());
      if (stream->request.have() > 0) {
        return Finish(
            stream, absl::NotFoundError(absl::StrCat("there is no request ", id, " that could be taken up")));
      }
      pb::GenerateRequest kept = stream->request;
      log.Begin(id, kept.SerializeAsString(), [this, stream](absl::Status begun) {
        executor.Post([this, stream, begun] {
          // Another stream of the same name was faster: what it has begun is gone on with.
          if (absl::IsAlreadyExists(begun)) return BeginNamed(stream);
          if (!begun.ok()) return Finish(stream, Passing(begun));
          Go(stream, {}, "");
        });
      });
    });
  });
}

// `known`: the answer's tokens so far; the client has the first of them.
void InferenceService::Impl::Go(const StreamPtr& stream, std::vector<TokenId> known,
                                const std::string& finished) {
  if (stream->finishing) return;
  GenerateRequest request = ToRequest(stream->request, backend.tokenizer());
  stream->matcher = std::make_unique<StopMatcher>(request.stops);
  pb::GenerateResponse begun;
  begun.mutable_begun()->set_request_id(stream->request.request_id());
  begun.mutable_begun()->set_model_hash(backend.model_hash());
  begun.mutable_begun()->set_prompt_tokens(request.prompt.size());
  begun.mutable_begun()->set_coordinator(backend.node());
  stream->out.push_back(std::move(begun));
  for (TokenId token : known)
    ShowToken(stream, token, 0, static_cast<uint64_t>(stream->tokens) >= stream->request.have());
  // It may have been logged to its last token, and not that it was the last.
  std::string over = finished;
  if (over.empty() && !known.empty()) {
    if (request.stop_at_end_of_text && known.back() == Tokenizer::kEndOfText) {
      over = StopReasonName(StopReason::kEndOfText);
    } else if (stream->matcher->stopped()) {
      over = StopReasonName(StopReason::kStop);
    } else if (static_cast<int64_t>(known.size()) >= request.max_tokens) {
      over = StopReasonName(StopReason::kLength);
    } else if (static_cast<int64_t>(request.prompt.size() + known.size()) >= backend.max_context()) {
      over = StopReasonName(StopReason::kContext);
    }
  }
  if (!over.empty()) {
    ShowEnd(stream, over, {});
    return Write(stream);
  }
  request.generated = std::move(known);
  SubmitOptions options;
  options.notify = [this, weak = std::weak_ptr(stream)] {
    executor.Post([this, weak] {
      if (const StreamPtr stream = weak.lock()) Poll(stream);
    });
  };
  absl::StatusOr<std::unique_ptr<SessionHandle>> handle =
      backend.Submit(std::move(request), std::move(options));
  if (!handle.ok()) return Finish(stream, handle.status());
  stream->handle = *std::move(handle);
  Write(stream);
  Poll(stream);
}

void InferenceService::Impl::Poll(const StreamPtr& stream) {
  if (stream->handle == nullptr || stream->finishing || stream->result.has_value() ||
      stream->out.size() + stream->drawn.size() >= kMostUnsent) {
    return;
  }
  SessionChannel::Taken taken = stream->handle->Poll();
  for (const GenerateEvent& event : taken.events) {
    if (event.is_token) {
      stream->drawn.emplace_back(event.token, event.probability);
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
    if (!stream->named() || stream->finishing || stream->end_told || batch.size() >= kMost) continue;
    if (stream->drawn.empty() && !stream->result.has_value()) continue;
    LoggedTokens tokens{stream->request.request_id(), stream->tokens, {}, ""};
    for (const auto& [token, probability] : stream->drawn) tokens.tokens.push_back(token);
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
    ShowToken(stream, stream->drawn[i].first, stream->drawn[i].second, true);
  stream->drawn.erase(stream->drawn.begin(), stream->drawn.begin() + static_cast<std::ptrdiff_t>(tokens));
  const bool end = stream->result.has_value() && (!stream->named() || stream->logging);
  if (all && end) ShowEnd(stream, StopReasonName(stream->result->reason), stream->result->timings);
}

void InferenceService::Impl::ShowToken(const StreamPtr& stream, TokenId token, float probability, bool tell) {
  ++stream->tokens;
  std::string text;
  if (token != Tokenizer::kEndOfText) text = stream->matcher->Push(backend.tokenizer().Bytes(token));
  if (!tell) return;
  counters.tokens.Add(1);
  pb::GenerateResponse response;
  response.mutable_token()->set_number(static_cast<uint64_t>(stream->tokens));
  response.mutable_token()->set_id(token.value);
  response.mutable_token()->set_text(std::move(text));
  response.mutable_token()->set_probability(probability);
  stream->out.push_back(std::move(response));
}

void InferenceService::Impl::ShowEnd(const StreamPtr& stream, const std::string& reason,
                                     const Timings& timings) {
  const auto seconds = [](std::chrono::nanoseconds t) { return std::chrono::duration<double>(t).count(); };
  pb::GenerateResponse response;
  pb::Finished& f = *response.mutable_finished();
  f.set_reason(reason);
  if (!stream->matcher->stopped()) f.set_text(stream->matcher->Flush());
  f.set_generated_tokens(static_cast<uint64_t>(stream->tokens));
  f.set_prompt_tokens(static_cast<uint64_t>(timings.prompt_tokens));
  f.set_queued_seconds(seconds(timings.queued));
  f.set_prefill_seconds(seconds(timings.prefill));
  f.set_decode_seconds(seconds(timings.decode));
  stream->out.push_back(std::move(response));
  stream->end_told = true;
}

void InferenceService::Impl::Write(const StreamPtr& stream) {
  if (stream->writing || stream->finishing || stream->reactor == nullptr) return;
  if (stream->out.empty()) {
    if (stream->end_told) Finish(stream, absl::OkStatus());
    return;
  }
  stream->writing = true;
  stream->reactor->StartWrite(&stream->out.front());
}

void InferenceService::Impl::Finish(const StreamPtr& stream, const absl::Status& status) {
  if (std::exchange(stream->finishing, true)) return;
  stream->handle = nullptr;  // cancels what is under way
  if (stream->reactor != nullptr) stream->reactor->Finish(ToGrpc(status));
}

void InferenceService::Impl::Forget(const StreamPtr& stream) { streams.remove(stream); }

InferenceService::InferenceService(InferenceOptions options, Backend& backend, SessionLog& log)
    : impl_(std::make_unique<Impl>(options, backend, log)) {}
InferenceService::~InferenceService() {
  impl_->executor.Post([impl = impl_.get()] { impl->retention.Stop(); });
}
grpc::Service* InferenceService::service() { return &impl_->rpc; }
void InferenceService::Tick() {
  impl_->executor.Post([impl = impl_.get()] { impl->retention.OnTick(SessionRetention::Clock::now()); });
}
void InferenceService::EndAll(absl::Status status) {
  impl_->executor.Post([impl = impl_.get(), status = std::move(status)] {
    for (const StreamPtr& stream : std::list<StreamPtr>(impl->streams)) impl->Finish(stream, status);
  });
}
const InferenceCounters& InferenceService::counters() const { return impl_->counters; }

}  // namespace omni
