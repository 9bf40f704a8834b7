#include "actors/session.h"

#include <algorithm>
#include <new>
#include <utility>

#include <absl/strings/str_cat.h>

#include "actors/swarm_log.h"
#include "engine/base/simulated.h"

namespace omni {
namespace {

absl::Status NoMemory(const ModelConfig& config) {
  return absl::ResourceExhaustedError(absl::StrCat("no memory for the session's state of ",
                                                   SessionState::BytesFor(config) >> 20,
                                                   " MiB; end other sessions or use a machine with more"));
}

}  // namespace

Session::Session(SessionId id, GenerateRequest request, const Tokenizer& tokenizer, int64_t max_context,
                 std::shared_ptr<SessionChannel> channel, SnapshotPtr from, SessionExtras extras)
    : id_(id),
      request_(std::move(request)),
      tokenizer_(tokenizer),
      max_context_(max_context),
      channel_(std::move(channel)),
      extras_(std::move(extras)),
      from_(std::move(from)),
      matcher_(request_.stops),
      created_(Clock::now()) {
  if (from_ != nullptr) {
    tokens_ = from_->tokens;
    const bool remembers = from_->contexts != nullptr && from_->contexts->polytope() == request_.safety.hash;
    const bool adapted_otherwise = from_->request.adapter.hash != request_.adapter.hash;
    computed_ = adapted_otherwise || (request_.context_memory && !remembers) ? 0 : from_->state.position();
    if (request_.prompt.empty()) {
      generated_ = from_->generated;
      for (size_t i = tokens_.size() - static_cast<size_t>(generated_); i < tokens_.size(); ++i) {
        if (tokens_[i] != Tokenizer::kEndOfText) matcher_.Push(tokenizer_.Bytes(tokens_[i]));
      }
      if (matcher_.stopped()) matcher_ = StopMatcher(request_.stops);  // the session goes on beyond that stop
    }
  }
  tokens_.insert(tokens_.end(), request_.prompt.begin(), request_.prompt.end());
  if (!request_.generated.empty()) OMNI_REACHED(kSessionResumed);
  for (TokenId token : request_.generated) {
    if (OMNI_PLANTED(kResumedFromWrongPosition) && generated_ + 1 == std::ssize(request_.generated)) continue;
    tokens_.push_back(token);
    ++generated_;
    if (token != Tokenizer::kEndOfText) matcher_.Push(tokenizer_.Bytes(token));
  }
  prompt_size_ = static_cast<int64_t>(tokens_.size());
  result_.timings.prompt_tokens = prompt_size_ - computed_;
  result_.adapter = request_.adapter;
  if (request_.context_memory) {
    context_bytes_ = SessionContexts::MostBytes(
        std::min(max_context_, prompt_size_ + std::min(request_.max_tokens, max_context_)));
  }
}

absl::Status Session::Activate(const ModelConfig& config, Clock::time_point now) {
  try {
    const bool copied = from_ != nullptr && computed_ > 0;
    if (copied) {
      state_.emplace(from_->state.Clone());
    } else {
      state_.emplace(config);
    }
    if (request_.context_memory) {
      contexts_ = copied ? std::make_unique<SessionContexts>(*from_->contexts)
                         : std::make_unique<SessionContexts>(extras_.code, request_.safety.hash);
    }
  } catch (const std::bad_alloc&) {
    return NoMemory(config);
  }
  from_ = nullptr;
  started_ = now;
  result_.timings.queued = now - created_;
  return absl::OkStatus();
}

std::span<const TokenId> Session::pending() const {
  return std::span(tokens_).subspan(static_cast<size_t>(computed_));
}

void Session::OnHidden(std::span<const float> y) {
  hidden_sum_.resize(y.size());
  for (size_t i = 0; i < y.size(); ++i) hidden_sum_[i] += static_cast<double>(y[i]);
}

void Session::OnComputed(int64_t rows) {
  stepping_ = false;
  computed_ += rows;
  if (over_) return;
  if (cancelled_) {
    Finish(StopReason::kCancelled);
    return;
  }
  if (computed_ >= prompt_size_) {
    if (request_.embed) FinishEmbedding();
    return;
  }
  if (result_.timings.generated_tokens > 0) return;  // a lost state is computed again: no news
  GenerateEvent event;
  event.position = computed_;
  if (!channel_->Push(std::move(event))) Pause();
}

void Session::EndStep() {
  if (!std::exchange(stepping_, false)) return;
  if (cancelled_ && !over_) Finish(StopReason::kCancelled);
}

absl::Status Session::Recompute(const ModelConfig& config) {
  try {
    state_.emplace(config);
    if (contexts_ != nullptr)
      contexts_ = std::make_unique<SessionContexts>(extras_.code, request_.safety.hash);
  } catch (const std::bad_alloc&) {
    return NoMemory(config);
  }
  computed_ = 0;
  prompt_size_ = static_cast<int64_t>(tokens_.size());
  hidden_sum_.clear();
  return absl::OkStatus();
}

void Session::OnToken(const Sampled& sampled, Clock::time_point now, std::vector<Sampled> alternatives,
                      std::vector<ExpertId> routes, std::optional<TokenConfidence> confidence,
                      const TokenNotes& notes) {
  if (over_) return;
  Timings& timings = result_.timings;
  if (timings.generated_tokens == 0) {
    first_token_ = now;
    timings.prefill = now - started_;
  }
  timings.decode = now - first_token_;
  ++timings.generated_tokens;
  ++generated_;
  tokens_.push_back(sampled.token);
  result_.tokens.push_back(sampled.token);

  const bool end = request_.stop_at_end_of_text && sampled.token == Tokenizer::kEndOfText;
  GenerateEvent event;
  event.is_token = true;
  event.position = static_cast<int64_t>(tokens_.size());
  event.token = sampled.token;
  event.probability = sampled.probability;
  event.alternatives = std::move(alternatives);
  event.routes = std::move(routes);
  event.confidence = std::move(confidence);
  event.notes = notes;
  if (!end && sampled.token != Tokenizer::kEndOfText)
    event.text = matcher_.Push(tokenizer_.Bytes(sampled.token));
  result_.text += event.text;
  if (!channel_->Push(std::move(event))) Pause();

  if (end) {
    Finish(StopReason::kEndOfText);
  } else if (matcher_.stopped()) {
    Finish(StopReason::kStop);
  } else if (generated_ >= request_.max_tokens) {
    Finish(StopReason::kLength);
  } else if (static_cast<int64_t>(tokens_.size()) >= max_context_) {
    Finish(StopReason::kContext);
  }
}

void Session::FinishEmbedding() {
  result_.timings.prefill = Clock::now() - started_;
  result_.embedding.reserve(hidden_sum_.size());
  for (double sum : hidden_sum_)
    result_.embedding.push_back(static_cast<float>(sum / static_cast<double>(prompt_size_)));
  Finish(StopReason::kLength);
}

void Session::Finish(StopReason reason) {
  if (over_) return;
  if (request_.keep && state_.has_value()) {
    // Whoever goes on from position 0 computes the tokens again.
    if (!state_->BringHome().ok()) state_->Reset();
  }
  over_ = true;
  result_.reason = reason;
  if (request_.keep && state_.has_value()) {
    result_.snapshot =
        std::make_shared<const SessionSnapshot>(Describe(*std::move(state_), std::move(contexts_)));
  }
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
  if (state_.has_value()) {
    LogSessionFailed(id_, result_.timings.generated_tokens, status);
  } else {
    LogSessionRefused(id_, status);
  }
  channel_->Close(status);
}

void Session::Cancel() {
  // In a step the state is on its way from one token to the next.
  if (stepping_ && request_.keep) {
    cancelled_ = true;
  } else {
    Finish(StopReason::kCancelled);
  }
}

absl::StatusOr<SnapshotPtr> Session::Snapshot() {
  if (!state_.has_value()) {
    return absl::FailedPreconditionError(
        absl::StrCat("session ", id_.value, " has not begun: it waits its turn"));
  }
  if (request_.embed) {
    return absl::FailedPreconditionError(
        absl::StrCat("session ", id_.value, " computes an embedding: there is nothing to go on with"));
  }
  if (absl::Status s = state_->BringHome(); !s.ok()) return s;
  try {
    std::shared_ptr<const SessionContexts> contexts;
    if (contexts_ != nullptr) contexts = std::make_shared<SessionContexts>(*contexts_);
    return std::make_shared<const SessionSnapshot>(Describe(state_->Clone(), std::move(contexts)));
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(absl::StrCat("no memory for a copy of session ", id_.value,
                                                     "'s state, ", state_->bytes() >> 20, " MiB"));
  }
}

SessionSnapshot Session::Describe(SessionState state, std::shared_ptr<const SessionContexts> contexts) const {
  SessionSnapshot snapshot{request_, tokens_, generated_, std::move(state), std::move(contexts)};
  snapshot.request.prompt.clear();
  snapshot.request.generated.clear();
  snapshot.request.caller.clear();
  snapshot.request.cancel = {};
  snapshot.request.route_policy = nullptr;
  return snapshot;
}

namespace {

absl::Status CheckExtras(const GenerateRequest& request, const SessionSnapshot* from) {
  if (request.alternatives < 0 || request.alternatives > kMostAlternatives) {
    return absl::InvalidArgumentError(
        absl::StrCat("alternatives is ", request.alternatives, ", but must be 0 to ", kMostAlternatives));
  }
  const bool majority =
      request.perspectives.has_value() && request.perspectives->use == PerspectiveUse::kMajority;
  if (!request.memory.scope.empty() && !majority && !request.embed) {
    return absl::InvalidArgumentError(
        "a memory is asked where perspectives disagree and no two name the same token; ask with perspectives "
        "of use=majority, or without a memory");
  }
  if (!request.embed) return absl::OkStatus();
  const char* with = from != nullptr                    ? "going on from a snapshot"
                     : request.keep                     ? "keeping the session"
                     : !request.generated.empty()       ? "tokens that are known already"
                     : request.alternatives > 0         ? "alternatives"
                     : request.routes                   ? "routes"
                     : request.perspectives             ? "perspectives"
                     : !request.safety.polytope.empty() ? "a polytope"
                     : request.context_memory           ? "a memory of contexts"
                     : !request.memory.scope.empty()    ? "a memory"
                     : !request.adapter.name.empty()    ? "an adapter"
                                                        : nullptr;
  if (with == nullptr) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "an embedding draws no token and ends with its prompt, so it cannot be asked for together with ", with,
      "; leave one of the two out"));
}

}  // namespace

absl::Status CheckRequest(const GenerateRequest& request, int64_t vocab, int64_t max_context,
                          const SessionSnapshot* from) {
  if (request.prompt.empty() && from == nullptr)
    return absl::InvalidArgumentError("the prompt is empty; give at least one token");
  if (from != nullptr && request.prompt.empty() && from->generated >= request.max_tokens) {
    return absl::InvalidArgumentError(absl::StrCat("the session has generated ", from->generated,
                                                   " tokens already, and max_tokens is ", request.max_tokens,
                                                   "; raise it to go on"));
  }
  if (static_cast<int64_t>(request.generated.size()) >= request.max_tokens) {
    return absl::InvalidArgumentError(absl::StrCat("the answer has ", request.generated.size(),
                                                   " tokens already, and max_tokens is ",
                                                   request.max_tokens));
  }
  const auto size = static_cast<int64_t>(request.prompt.size() + request.generated.size() +
                                         (from == nullptr ? 0 : from->tokens.size()));
  if (request.embed ? size > max_context : size >= max_context) {
    return absl::InvalidArgumentError(absl::StrCat(from == nullptr ? "the prompt has " : "the session has ",
                                                   size, " tokens, but the context limit is ", max_context,
                                                   " tokens, prompt and answer together; "
                                                   "shorten the prompt or raise the limit"));
  }
  for (const std::vector<TokenId>* tokens : {&request.prompt, &request.generated}) {
    for (TokenId token : *tokens) {
      if (token.value >= 0 && token.value < vocab) continue;
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
  if (absl::Status s = CheckExtras(request, from); !s.ok()) return s;
  return Validate(request.sampler);
}

}  // namespace omni
