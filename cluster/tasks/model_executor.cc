#include "cluster/tasks/model_executor.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string_view>
#include <utility>

#include <absl/strings/str_cat.h>

#include "engine/base/quoted.h"
#include "engine/text/prompt.h"
#include "engine/text/stop_limits.h"
#include "engine/text/stop_matcher.h"
#include "omni/tasks/v1/tasks.pb.h"

namespace omni {
namespace {

constexpr std::chrono::milliseconds kFirstWait{100}, kMostWait{5000};

// Pieces of a checkpoint: first a byte with the length of the model's hash and the hash, then four bytes a
// token, the lowest first.
std::string HeaderPiece(const std::string& hash) {
  const std::string shown = hash.substr(0, 255);
  return std::string(1, static_cast<char>(shown.size())) + shown;
}
std::string TokenPiece(TokenId token) {
  std::string piece(4, '\0');
  for (int i = 0; i < 4; ++i) piece[i] = static_cast<char>(static_cast<uint32_t>(token.value) >> (8 * i));
  return piece;
}
std::vector<TokenId> ReadTokens(std::string_view pieces) {
  std::vector<TokenId> tokens;
  for (; pieces.size() >= 4; pieces.remove_prefix(4)) {
    uint32_t value = 0;
    for (int i = 0; i < 4; ++i) value |= static_cast<uint32_t>(static_cast<uint8_t>(pieces[i])) << (8 * i);
    tokens.emplace_back(static_cast<int32_t>(value));
  }
  return tokens;
}

absl::StatusOr<GenerateRequest> ReadWork(const std::string& input, const ModelExecutorOptions& options,
                                         const Tokenizer& tokenizer) {
  omni::tasks::v1::Work work;
  if (!work.ParseFromString(input) || !work.has_model())
    return absl::InvalidArgumentError("the task's work is not a model's");
  const omni::tasks::v1::ModelWork& model = work.model();
  if (!model.model().empty() && model.model() != options.model_name)
    return absl::InvalidArgumentError(absl::StrCat("another model is asked for, ", Quoted(model.model()),
                                                   ", than the one that is served here"));
  const auto long_stop = [](const std::string& stop) { return stop.size() > kMostStopStringBytes; };
  if (model.stops_size() > static_cast<int>(kMostStopStrings) ||
      std::any_of(model.stops().begin(), model.stops().end(), long_stop))
    return absl::InvalidArgumentError(absl::StrCat("stops may be ", kMostStopStrings, " at most, of ",
                                                   kMostStopStringBytes, " bytes at most"));
  GenerateRequest request;
  if (model.max_tokens() > 0) {
    const auto most = static_cast<uint64_t>(options.most_tokens);
    request.max_tokens = static_cast<int64_t>(std::min<uint64_t>(model.max_tokens(), most));
  }
  if (model.has_temperature()) request.sampler.temperature = model.temperature();
  if (model.has_top_k()) request.sampler.top_k = model.top_k();
  if (model.has_top_p()) request.sampler.top_p = model.top_p();
  if (model.has_min_p()) request.sampler.min_p = model.min_p();
  request.sampler.seed = model.seed();
  request.stop_at_end_of_text = !model.ignore_end_of_text();
  request.stops.assign(model.stops().begin(), model.stops().end());
  request.prompt = PromptTokens(tokenizer, model.prompt());
  return request;
}

// A task's text, as far as its tokens say: what one attempt has told, the next one knows.
class Answer {
 public:
  Answer(const Tokenizer& tokenizer, const GenerateRequest& request, int64_t max_context, size_t most_bytes)
      : tokenizer_(tokenizer),
        matcher_(request.stops),
        stops_at_end_(request.stop_at_end_of_text),
        most_tokens_(std::min(request.max_tokens, max_context - static_cast<int64_t>(request.prompt.size()))),
        most_bytes_(most_bytes) {
    for (const std::string& stop : request.stops) held_ = std::max(held_, stop.size() + kMostOfToken);
  }

  // What may be shown with the token.
  std::string Push(TokenId token) {
    ++tokens_;
    ended_ = stops_at_end_ && token == Tokenizer::kEndOfText;
    std::string shown = ended_ ? "" : matcher_.Push(tokenizer_.Bytes(token));
    text_ += shown;
    return shown;
  }
  // No other token follows.
  bool over() const {
    if (tokens_ == 0) return false;
    return ended_ || matcher_.stopped() || tokens_ >= most_tokens_ || text_.size() + held_ > most_bytes_;
  }
  std::string Flush() {
    std::string rest = matcher_.stopped() ? "" : matcher_.Flush();
    text_ += rest;
    return rest;
  }
  const std::string& text() const { return text_; }

 private:
  static constexpr size_t kMostOfToken = 2 * 64;

  const Tokenizer& tokenizer_;
  StopMatcher matcher_;
  const bool stops_at_end_;
  const int64_t most_tokens_;
  const size_t most_bytes_;
  size_t held_ = kMostOfToken;  // that the matcher may hold back, and a token's
  int64_t tokens_ = 0;
  bool ended_ = false;
  std::string text_;
};

TaskOutcome FailedBy(const absl::Status& status) {
  const std::string message(status.message());
  if (absl::IsInvalidArgument(status)) return TaskOutcome::Failed(kErrorInvalid, message);
  if (absl::IsUnavailable(status)) return TaskOutcome::Failed("unavailable", message);
  if (absl::IsResourceExhausted(status)) return TaskOutcome::Failed("busy", message);
  return TaskOutcome::Failed("model", message);
}

// A session, once there is room for one; Cancelled: `stop` came before.
absl::StatusOr<std::unique_ptr<SessionHandle>> SubmitWhenFree(InferenceBackend& backend,
                                                              const GenerateRequest& request,
                                                              const std::stop_token& stop) {
  std::mutex mutex;
  std::condition_variable_any never;
  for (std::chrono::milliseconds wait = kFirstWait;; wait = std::min(2 * wait, kMostWait)) {
    absl::StatusOr<std::unique_ptr<SessionHandle>> handle = backend.Submit(request, {});
    if (!absl::IsResourceExhausted(handle.status())) return handle;
    std::unique_lock lock(mutex);
    never.wait_for(lock, stop, wait, [] { return false; });
    if (stop.stop_requested()) return absl::CancelledError("");
  }
}

}  // namespace

ModelExecutor::ModelExecutor(InferenceBackend& backend, ModelExecutorOptions options)
    : backend_(backend), options_(std::move(options)) {}

std::vector<TaskExecutor::Offer> ModelExecutor::offers() const {
  std::vector<Offer> offers = {{{"model", ""}, "the model that is served"}};
  if (!options_.model_name.empty())
    offers.push_back({{"model", options_.model_name}, "the model that is served"});
  return offers;
}

TaskOutcome ModelExecutor::Run(TaskAttempt& attempt) {
  const TaskAssignment& task = attempt.task();
  if (absl::Status s = backend_.Serving(); !s.ok()) return FailedBy(s);
  absl::StatusOr<GenerateRequest> read = ReadWork(task.work.input, options_, backend_.tokenizer());
  if (!read.ok()) return FailedBy(read.status());
  GenerateRequest request = *std::move(read);
  request.caller = task.state.caller;

  const std::string header = HeaderPiece(backend_.model_hash());
  if (task.checkpoint.empty()) {
    attempt.Checkpoint(header);
  } else if (std::string_view(task.checkpoint).substr(0, header.size()) != header) {
    return TaskOutcome::Failed("model-changed",
                               "the task was begun by another model than the one that is served now, which "
                               "cannot go on with its text");
  } else {
    request.generated = ReadTokens(std::string_view(task.checkpoint).substr(header.size()));
  }
  Answer answer(backend_.tokenizer(), request, backend_.max_context(), options_.limits.result_bytes);
  for (TokenId token : request.generated) answer.Push(token);

  if (!answer.over()) {
    std::stop_source stopping;
    const std::stop_token stop = stopping.get_token();
    attempt.SetOnStop([&stopping] { stopping.request_stop(); });
    absl::StatusOr<std::unique_ptr<SessionHandle>> handle = SubmitWhenFree(backend_, request, stop);
    const bool begun = handle.ok();
    absl::StatusOr<GenerateResult> result =
        handle.ok() ? absl::UnknownError("the session has no end") : handle.status();
    for (bool more = handle.ok(); more;) {
      SessionChannel::Taken taken = (*handle)->Wait(stop);
      for (const GenerateEvent& event : taken.events) {
        if (!event.is_token || answer.over()) continue;
        attempt.Output("text", answer.Push(event.token));
        attempt.Checkpoint(TokenPiece(event.token));
      }
      if (taken.result.has_value()) result = *std::move(taken.result);
      // A session ends with its handle.
      more = !taken.result.has_value() && !answer.over() && !stop.stop_requested();
    }
    attempt.SetOnStop(nullptr);
    if (!answer.over()) {
      if (attempt.stop() != TaskAttempt::Stop::kNo) return StoppedOutcome(attempt.stop());
      // It was served here when it began: another node leads now, and goes on with it.
      if (begun && !result.ok() && !backend_.Serving().ok()) return TaskOutcome::Returned();
      if (!result.ok()) return FailedBy(result.status());
      // The swarm is shut down; whoever takes the task next goes on with it.
      if (result->reason == StopReason::kCancelled) return TaskOutcome::Returned();
    }
  }
  attempt.Output("text", answer.Flush());
  return TaskOutcome::Succeeded(answer.text());
}

}  // namespace omni
