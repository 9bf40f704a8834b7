#include "actors/session.h"

#include <utility>

#include <absl/strings/str_cat.h>

namespace omni {

Session::Session(uint64_t id, GenerateRequest request, const Tokenizer& tokenizer, int64_t max_context,
                 std::shared_ptr<SessionChannel> channel)
    : id_(id),
      request_(std::move(request)),
      tokenizer_(tokenizer),
      max_context_(max_context),
      channel_(std::move(channel)),
      matcher_(request_.stops),
      tokens_(request_.prompt),
      prompt_size_(static_cast<int64_t>(request_.prompt.size())),
      created_(Clock::now()) {
  result_.timings.prompt_tokens = prompt_size_;
}

void Session::Activate(const ModelConfig& config, Clock::time_point now) {
  state_ = std::make_unique<SessionState>(config);
  started_ = now;
  result_.timings.queued = now - created_;
}

std::span<const TokenId> Session::pending() const {
  return std::span(tokens_).subspan(static_cast<size_t>(computed_));
}

void Session::OnComputed(int64_t rows) {
  computed_ += rows;
  if (over_ || computed_ >= prompt_size_) return;
  GenerateEvent event;
  event.position = computed_;
  if (!channel_->Push(std::move(event))) Pause();
}

Sampled Session::Draw(std::span<const float> logits) const {
  return Sample(logits, tokens_, tokens_.size(), request_.sampler);
}

void Session::OnToken(const Sampled& sampled, Clock::time_point now) {
  if (over_) return;
  Timings& timings = result_.timings;
  if (timings.generated_tokens == 0) {
    first_token_ = now;
    timings.prefill = now - started_;
  }
  timings.decode = now - first_token_;
  ++timings.generated_tokens;
  tokens_.push_back(sampled.token);
  result_.tokens.push_back(sampled.token);

  const bool end = request_.stop_at_end_of_text && sampled.token == Tokenizer::kEndOfText;
  GenerateEvent event;
  event.is_token = true;
  event.position = static_cast<int64_t>(tokens_.size());
  event.token = sampled.token;
  event.probability = sampled.probability;
  if (!end && sampled.token != Tokenizer::kEndOfText)
    event.text = matcher_.Push(tokenizer_.Bytes(sampled.token));
  result_.text += event.text;
  if (!channel_->Push(std::move(event))) Pause();

  if (end) {
    Finish(StopReason::kEndOfText);
  } else if (matcher_.stopped()) {
    Finish(StopReason::kStop);
  } else if (timings.generated_tokens >= request_.max_tokens) {
    Finish(StopReason::kLength);
  } else if (static_cast<int64_t>(tokens_.size()) >= max_context_) {
    Finish(StopReason::kContext);
  }
}

void Session::Finish(StopReason reason) {
  if (over_) return;
  over_ = true;
  result_.reason = reason;
  if (!matcher_.stopped()) {
    GenerateEvent rest;
    rest.position = static_cast<int64_t>(tokens_.size());
    rest.text = matcher_.Flush();
    result_.text += rest.text;
    if (!rest.text.empty()) channel_->Push(std::move(rest));
  }
  channel_->Close(std::move(result_));
}

void Session::Fail(const absl::Status& status) {
  if (over_) return;
  over_ = true;
  channel_->Close(status);
}

void Session::Cancel() { Finish(StopReason::kCancelled); }

absl::Status CheckRequest(const GenerateRequest& request, int64_t vocab, int64_t max_context) {
  if (request.prompt.empty())
    return absl::InvalidArgumentError("the prompt is empty; give at least one token");
  const auto size = static_cast<int64_t>(request.prompt.size());
  if (size >= max_context) {
    return absl::InvalidArgumentError(absl::StrCat("the prompt has ", size,
                                                   " tokens, but the context limit is ", max_context,
                                                   " tokens, prompt and answer together; "
                                                   "shorten the prompt or raise the limit"));
  }
  for (TokenId token : request.prompt) {
    if (token.value < 0 || token.value >= vocab) {
      return absl::InvalidArgumentError(
          absl::StrCat("prompt token ", token.value, " is outside the vocabulary 0 to ", vocab - 1));
    }
  }
  if (request.max_tokens < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_tokens is ", request.max_tokens, ", but must be at least 1"));
  }
  for (const std::string& stop : request.stops) {
    if (stop.empty()) return absl::InvalidArgumentError("a stop string is empty; leave it out");
  }
  return Validate(request.sampler);
}

}  // namespace omni
