#include "cluster/http/generation_call.h"

#include <chrono>
#include <optional>
#include <random>
#include <utility>
#include <vector>

#include <absl/strings/str_cat.h>

#include "cluster/http/openai_answer.h"

namespace omni {
namespace {

constexpr size_t kMostUnsent = 64 << 10;  // bytes: a client so far behind pauses its session

class Generation final : public HttpCall, public std::enable_shared_from_this<Generation> {
 public:
  Generation(const GenerationContext& context, std::string id, std::shared_ptr<HttpExchange> exchange)
      : context_(context), exchange_(std::move(exchange)), started_(std::chrono::steady_clock::now()) {
    head_.id = std::move(id);
    head_.model = context.model->name;
    head_.created =
        std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch())
            .count();
  }
  ~Generation() override {
    if (handle_ != nullptr && !over_) context_.metrics->OnClientGone();
  }

  void Read(bool chat, std::string body) {
    context_.readers->Post([weak = weak_from_this(), exchange = exchange_, model = context_.model, chat,
                            body = std::move(body)] {
      if (weak.expired()) return;
      const uint64_t seed = std::random_device()();
      auto request = std::make_shared<absl::StatusOr<CompletionRequest>>(
          chat ? ReadChat(body, *model, seed) : ReadCompletion(body, *model, seed));
      exchange->Post([weak, request] {
        if (const auto self = weak.lock()) self->Ask(std::move(*request));
      });
    });
  }

  void OnSent() override {
    if (std::exchange(behind_, false)) Poll();
  }
  void OnQuiet() override {
    if (!asked_ || !stream_ || over_) return;
    BeginStream();
    exchange_->Write(": waiting\n\n");
  }

 private:
  void Ask(absl::StatusOr<CompletionRequest> read);
  void Poll();
  void Take(const GenerateEvent& event);
  void Finish(const absl::StatusOr<GenerateResult>& result);
  void Fail(const absl::Status& status);
  void BeginStream();

  const GenerationContext& context_;
  const std::shared_ptr<HttpExchange> exchange_;
  const std::chrono::steady_clock::time_point started_;
  AnswerHead head_;
  bool asked_ = false, stream_ = false, include_usage_ = false, logprobs_ = false;
  AnswerUsage usage_;
  std::unique_ptr<SessionHandle> handle_;
  bool begun_ = false, behind_ = false, over_ = false;
  std::string text_;                 // of a whole answer
  std::vector<AnswerToken> tokens_;  // if they were asked for: of a stream, those not sent yet
};

void Generation::Ask(absl::StatusOr<CompletionRequest> read) {
  if (!read.ok()) return Fail(read.status());
  if (absl::Status s = context_.backend->Serving(); !s.ok()) return Fail(s);
  asked_ = true;
  stream_ = read->stream;
  head_.chat = read->chat;
  head_.include_usage = include_usage_ = read->include_usage;
  logprobs_ = read->logprobs;
  usage_.prompt_tokens = static_cast<int64_t>(read->generate.prompt.size());
  SubmitOptions options;
  options.notify = [weak = weak_from_this(), exchange = exchange_] {
    exchange->Post([weak] {
      if (const auto self = weak.lock()) self->Poll();
    });
  };
  absl::StatusOr<std::unique_ptr<SessionHandle>> handle =
      context_.backend->Submit(std::move(read->generate), std::move(options));
  if (!handle.ok()) return Fail(handle.status());
  context_.metrics->OnPrompt(usage_.prompt_tokens);
  handle_ = *std::move(handle);
}

void Generation::Poll() {
  if (handle_ == nullptr || over_ || behind_) return;
  if (exchange_->unsent() > kMostUnsent) {
    behind_ = true;  // until OnSent
    return;
  }
  const SessionChannel::Taken taken = handle_->Poll();
  for (const GenerateEvent& event : taken.events) Take(event);
  if (taken.result.has_value()) Finish(*taken.result);
}

void Generation::Take(const GenerateEvent& event) {
  if (!event.is_token && event.text.empty()) return;  // progress of the prompt
  if (event.is_token) {
    if (usage_.completion_tokens++ == 0)
      context_.metrics->OnFirstToken(std::chrono::steady_clock::now() - started_);
    context_.metrics->OnTokens(1);
    if (logprobs_)
      tokens_.push_back({std::string(context_.model->tokenizer->Bytes(event.token)), event.probability});
  }
  if (!stream_) {
    text_ += event.text;
    return;
  }
  BeginStream();
  if (event.text.empty()) return;
  exchange_->Write(TextEvent(head_, event.text, logprobs_ ? &tokens_ : nullptr));
  tokens_.clear();
}

void Generation::Finish(const absl::StatusOr<GenerateResult>& result) {
  if (!result.ok()) return Fail(result.status());
  // Nobody but a swarm that ends cancels a session whose client is there.
  if (result->reason == StopReason::kCancelled)
    return Fail(absl::UnavailableError("the server is shutting down"));
  over_ = true;
  if (!stream_) {
    HttpAnswer answer;
    answer.headers.emplace_back("X-Request-Id", head_.id);
    answer.body = WholeAnswer(head_, text_, logprobs_ ? &tokens_ : nullptr, result->reason, usage_);
    return exchange_->Answer(answer);
  }
  BeginStream();
  if (!tokens_.empty()) exchange_->Write(TextEvent(head_, "", &tokens_));
  std::string last = LastEvent(head_, result->reason);
  if (include_usage_) last += UsageEvent(head_, usage_);
  exchange_->Write(last + kDoneEvent);
  exchange_->End();
}

void Generation::Fail(const absl::Status& status) {
  over_ = true;
  if (!begun_) {
    HttpAnswer answer = ErrorAnswer(status);
    answer.headers.emplace_back("X-Request-Id", head_.id);
    return exchange_->Answer(answer);
  }
  exchange_->Write(ErrorEvent(status));
  exchange_->End();
}

void Generation::BeginStream() {
  if (std::exchange(begun_, true)) return;
  HttpAnswer head;
  head.content_type = "text/event-stream";
  head.headers = {{"Cache-Control", "no-cache"}, {"X-Request-Id", head_.id}};
  exchange_->Begin(head);
  if (head_.chat) exchange_->Write(FirstEvent(head_));
}

}  // namespace

std::shared_ptr<HttpCall> StartGeneration(const GenerationContext& context, bool chat, std::string body,
                                          std::string id, std::shared_ptr<HttpExchange> exchange) {
  auto call = std::make_shared<Generation>(context, std::move(id), std::move(exchange));
  call->Read(chat, std::move(body));
  return call;
}

}  // namespace omni
