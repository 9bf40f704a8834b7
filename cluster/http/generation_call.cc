#include "cluster/http/generation_call.h"

#include <chrono>
#include <deque>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <utility>

#include "cluster/http/openai_answer.h"
#include "cluster/named_submit.h"

namespace omni {
namespace {

constexpr size_t kMostUnsent = 64 << 10;  // bytes: a client so far behind pauses its sessions
constexpr size_t kMostAtOnce = 16;        // sessions of one call

// One choice of the answer.
struct Part {
  std::unique_ptr<SessionHandle> handle;  // while it runs
  int64_t prompt_tokens = 0;
  bool counted = false;                              // its prompt
  bool told = false;                                 // something of it has been sent, or has come
  std::chrono::steady_clock::time_point last_token;  // when it came; none has: the clock's beginning
  std::vector<AnswerToken> unsent;                   // of a stream, if tokens were asked for
  AnswerChoice all;
};

// Read from the disk here, if it has to be; the same for all choices.
absl::Status HoldMemory(InferenceBackend& backend, const std::string& caller, Asked& asked) {
  const MemoryChoice choice = asked.choices.front().memory;
  if (choice.scope.empty()) return absl::OkStatus();
  absl::StatusOr<HeldMemory> held = backend.HoldMemory(caller, choice);
  if (!held.ok()) return held.status();
  asked.memory = *std::move(held);
  for (GenerateRequest& request : asked.choices) request.memory.version = asked.memory.version;
  return absl::OkStatus();
}

class Generation final : public HttpCall, public std::enable_shared_from_this<Generation> {
 public:
  Generation(const GenerationContext& context, std::shared_ptr<RequestRecord> record,
             std::shared_ptr<HttpExchange> exchange)
      : context_(context),
        record_(std::move(record)),
        exchange_(std::move(exchange)),
        started_(std::chrono::steady_clock::now()) {}
  ~Generation() override {
    if (running_ > 0 && !over_) context_.metrics->OnClientGone();
  }

  void Read(RoutedRequest request, ReadAsked read) {
    caller_ = request.caller;
    permit_ = request.permit;
    at_readers_ = context_.readers->Post(
        caller_, [weak = weak_from_this(), exchange = exchange_, backend = context_.backend,
                  request = std::move(request), read = std::move(read)] {
          std::shared_ptr<absl::StatusOr<Asked>> asked;
          try {
            asked = std::make_shared<absl::StatusOr<Asked>>(read(request));
            if (asked->ok()) {
              if (absl::Status s = HoldMemory(*backend, request.caller, **asked); !s.ok()) *asked = s;
            }
          } catch (const std::bad_alloc&) {
          }
          exchange->Post([weak, asked] {
            const auto self = weak.lock();
            if (self == nullptr) return;
            if (asked == nullptr) return self->Fail(NoMemory());
            self->Ask(std::move(*asked));
          });
        });
  }

  void OnSent() override {
    if (!std::exchange(behind_, false)) return;
    for (size_t i = 0; i < parts_.size(); ++i) Poll(i);
  }
  void OnQuiet() override {
    if (parts_.empty() || over_) return;
    if (running_ > 0 && IsLate()) return;
    if (!asked_.stream) return;
    BeginStream();
    exchange_->Write(": waiting\n\n");
  }

 private:
  void Ask(absl::StatusOr<Asked> asked);
  void StartMore();
  absl::Status Start(size_t choice);
  void Poll(size_t choice);
  void CountPrompt(Part& part);
  void Take(size_t choice, const GenerateEvent& event);
  void End(size_t choice, absl::StatusOr<GenerateResult> result);
  void Refused(size_t choice, const absl::Status& status);
  void Finish();
  void OnWorded(const std::string* words);  // of the whole answer or of a stream's end; null: no memory
  void Fail(const absl::Status& status);
  // Of an answer that is over: until it has been sent nothing else of it is needed.
  void Forget() {
    parts_.clear();
    asked_ = {};
  }
  void BeginStream();
  bool IsLate();  // then it has failed
  static absl::Status NoMemory() {
    return absl::ResourceExhaustedError("there is no memory for this request; come back in a moment");
  }
  AnswerToken Token(TokenId token, float probability) const {
    return {std::string(context_.model->tokenizer->Bytes(token)), probability, {}};
  }

  const GenerationContext& context_;
  const std::shared_ptr<RequestRecord> record_;
  const std::shared_ptr<HttpExchange> exchange_;
  const std::chrono::steady_clock::time_point started_;
  std::string caller_;
  std::shared_ptr<CallerLimits::Permit> permit_;
  Asked asked_;
  std::vector<Part> parts_;         // [choices], once it was asked
  std::deque<size_t> waiting_;      // choices that are not running yet
  size_t running_ = 0, ended_ = 0;  // choices
  AnswerUsage usage_;
  bool begun_ = false, behind_ = false, over_ = false;
  FairExecutor::Ticket at_readers_;
};

void Generation::Ask(absl::StatusOr<Asked> asked) {
  if (!asked.ok()) return Fail(asked.status());
  if (absl::Status s = context_.backend->Serving(); !s.ok()) return Fail(s);
  asked_ = *std::move(asked);
  usage_.prompt_tokens = record_->prompt_tokens = asked_.prompt_tokens;
  parts_.resize(asked_.choices.size());
  for (size_t i = 0; i < parts_.size(); ++i) waiting_.push_back(i);
  StartMore();
}

void Generation::StartMore() {
  while (!over_ && !waiting_.empty() && running_ < kMostAtOnce) {
    const size_t choice = waiting_.front();
    waiting_.pop_front();
    if (absl::Status s = Start(choice); !s.ok()) return Refused(choice, s);
  }
}

absl::Status Generation::Start(size_t choice) {
  SubmitOptions options;
  options.notify = [weak = weak_from_this(), exchange = exchange_, choice] {
    exchange->Post([weak, choice] {
      if (const auto self = weak.lock()) self->Poll(choice);
    });
  };
  // Of several one may have to be asked for again.
  GenerateRequest request = parts_.size() == 1 ? std::move(asked_.choices[choice]) : asked_.choices[choice];
  request.caller = caller_;
  parts_[choice].prompt_tokens = static_cast<int64_t>(request.prompt.size());
  auto* named = dynamic_cast<NamedSubmit*>(context_.backend);
  absl::StatusOr<std::unique_ptr<SessionHandle>> handle =
      named != nullptr ? named->SubmitNamed(std::move(request), std::move(options), record_->ids)
                       : context_.backend->Submit(std::move(request), std::move(options));
  if (!handle.ok()) return handle.status();
  parts_[choice].handle = *std::move(handle);
  if (record_->session == 0) record_->session = static_cast<int64_t>(parts_[choice].handle->id().value);
  ++running_;
  return absl::OkStatus();
}

// No place for it: if others of this call have one, it waits for theirs.
void Generation::Refused(size_t choice, const absl::Status& status) {
  if (!absl::IsResourceExhausted(status) || running_ == 0 || parts_[choice].told) return Fail(status);
  waiting_.push_front(choice);
}

void Generation::Poll(size_t choice) {
  if (over_ || behind_ || parts_[choice].handle == nullptr || IsLate()) return;
  if (exchange_->unsent() > kMostUnsent) {
    behind_ = true;  // until OnSent
    return;
  }
  SessionChannel::Taken taken = parts_[choice].handle->Poll();
  for (const GenerateEvent& event : taken.events) Take(choice, event);
  if (taken.result.has_value()) End(choice, *std::move(taken.result));
}

// What has begun to be computed is the caller's to pay for; what was refused before is not.
void Generation::CountPrompt(Part& part) {
  if (std::exchange(part.counted, true)) return;
  context_.metrics->OnPrompt(part.prompt_tokens);
  if (permit_ != nullptr) permit_->OnTokens(part.prompt_tokens);
}

void Generation::Take(size_t choice, const GenerateEvent& event) {
  CountPrompt(parts_[choice]);
  if (!event.is_token && event.text.empty()) return;  // progress of the prompt
  Part& part = parts_[choice];
  part.told = true;
  if (event.is_token) {
    const auto now = std::chrono::steady_clock::now();
    if (usage_.completion_tokens++ == 0) {
      record_->first_token = now - started_;
      context_.metrics->OnFirstToken(record_->first_token);
    } else if (part.last_token != std::chrono::steady_clock::time_point()) {
      context_.metrics->OnNextToken(now - part.last_token);
    }
    part.last_token = now;
    record_->tokens = usage_.completion_tokens;
    context_.metrics->OnTokens(1);
    if (permit_ != nullptr) permit_->OnTokens(1);
    part.all.notes.Add(event.notes);
    if (event.confidence.has_value()) {
      if (!part.all.confidence.has_value()) part.all.confidence.emplace();
      part.all.confidence->Add(*event.confidence);
    }
    if (asked_.tokens) {
      AnswerToken token = Token(event.token, event.probability);
      token.confidence = event.confidence;
      token.notes = event.notes;
      for (const Sampled& other : event.alternatives)
        token.alternatives.push_back(Token(other.token, other.probability));
      if (!asked_.stream || asked_.said_again) part.all.tokens.push_back(token);
      if (asked_.stream) part.unsent.push_back(std::move(token));
    }
  }
  part.all.text += event.text;
  if (!asked_.stream) return;
  BeginStream();
  if (event.text.empty()) return;
  exchange_->Write(asked_.form->Piece(choice, event.text, part.unsent));
  part.unsent.clear();
}

void Generation::End(size_t choice, absl::StatusOr<GenerateResult> result) {
  Part& part = parts_[choice];
  part.handle = nullptr;
  --running_;
  if (!result.ok()) return Refused(choice, result.status());
  // Nobody but a swarm that ends cancels a session whose client is there.
  if (result->reason == StopReason::kCancelled)
    return Fail(absl::UnavailableError("the server is shutting down"));
  CountPrompt(part);
  part.all.reason = result->reason;
  part.all.adapter = std::move(result->adapter);
  part.all.embedding = std::move(result->embedding);
  asked_.choices[choice] = {};  // its prompt is not needed any more
  if (asked_.stream) {
    BeginStream();
    if (!part.unsent.empty()) exchange_->Write(asked_.form->Piece(choice, "", part.unsent));
    if (!asked_.said_again) {
      exchange_->Write(asked_.form->EndOfChoice(choice, part.all));
      part = {};
    }
  }
  if (++ended_ == parts_.size()) return Finish();
  StartMore();
}

void Generation::Finish() {
  if (asked_.stream && !asked_.said_again) {
    over_ = true;
    exchange_->Write(asked_.form->End(usage_));
    exchange_->End();
    return Forget();
  }
  const auto choices = std::make_shared<std::vector<AnswerChoice>>();
  for (Part& part : parts_) choices->push_back(std::move(part.all));
  at_readers_ = context_.readers->Post(caller_, [weak = weak_from_this(), exchange = exchange_, choices,
                                                 form = asked_.form, usage = usage_, stream = asked_.stream] {
    std::shared_ptr<std::string> words;
    try {
      words = std::make_shared<std::string>();
      for (size_t i = 0; stream && i < choices->size(); ++i) *words += form->EndOfChoice(i, (*choices)[i]);
      *words += stream ? form->End(usage) : form->Whole(*choices, usage);
    } catch (const std::bad_alloc&) {
      words = nullptr;
    }
    exchange->Post([weak, words] {
      if (const auto self = weak.lock()) self->OnWorded(words.get());
    });
  });
}

void Generation::OnWorded(const std::string* words) {
  if (over_) return;
  if (words == nullptr) return Fail(NoMemory());
  over_ = true;
  if (asked_.stream) {
    exchange_->Write(*words);
    exchange_->End();
  } else {
    HttpAnswer answer;
    answer.body = *words;
    exchange_->Answer(answer);
  }
  Forget();
}

void Generation::Fail(const absl::Status& status) {
  over_ = true;
  if (begun_) {
    exchange_->Write(asked_.form->Failed(status));
    exchange_->End();
  } else {
    exchange_->Answer(ErrorAnswer(status));
  }
  Forget();
}

bool Generation::IsLate() {
  const absl::Status in_time = permit_ == nullptr ? absl::OkStatus() : permit_->InTime();
  if (!in_time.ok()) Fail(in_time);
  return !in_time.ok();
}

void Generation::BeginStream() {
  if (std::exchange(begun_, true)) return;
  HttpAnswer head;
  head.content_type = "text/event-stream";
  head.headers = {{"Cache-Control", "no-cache"}};
  exchange_->Begin(head);
  exchange_->Write(asked_.form->Begin());
}

}  // namespace

std::shared_ptr<HttpCall> StartGeneration(const GenerationContext& context, RoutedRequest request,
                                          ReadAsked read, std::shared_ptr<HttpExchange> exchange) {
  auto call = std::make_shared<Generation>(context, request.http.record, std::move(exchange));
  call->Read(std::move(request), std::move(read));
  return call;
}

}  // namespace omni
