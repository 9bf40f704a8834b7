#include "cli/chat/local_model.h"

#include <span>
#include <utility>

#include <absl/strings/str_cat.h>

#include "engine/text/prompt.h"

namespace omni::cli {
namespace {

constexpr size_t kMostKept = 2;

}  // namespace

// The last token of an answer has been drawn and not been computed. Where the text goes on otherwise than it
// says (it ended the answer, or overshot a stop), the state goes on without it.
SnapshotPtr LocalModel::Longest(std::string_view text, size_t& bytes) const {
  SnapshotPtr longest;
  bytes = 0;
  for (const Kept& kept : kept_) {
    const SessionSnapshot& snapshot = *kept.snapshot;
    if (text.size() > kept.text.size() && kept.text.size() >= bytes && text.starts_with(kept.text) &&
        snapshot.tokens.back() != Tokenizer::kEndOfText) {
      longest = kept.snapshot;
      bytes = kept.text.size();
      continue;
    }
    const auto seen = static_cast<size_t>(snapshot.state.position());
    const std::string computed = node_.model().tokenizer().Decode(std::span(snapshot.tokens).first(seen));
    if (seen == 0 || text.size() <= computed.size() || computed.size() < bytes || !text.starts_with(computed))
      continue;
    SessionSnapshot cut = snapshot.Clone();
    cut.tokens.resize(seen);
    cut.generated = 0;
    longest = std::make_shared<const SessionSnapshot>(std::move(cut));
    bytes = computed.size();
  }
  return longest;
}

void LocalModel::Keep(SnapshotPtr snapshot) {
  if (snapshot == nullptr) return;
  std::string text = node_.model().tokenizer().Decode(snapshot->tokens);
  kept_.push_back({std::move(snapshot), std::move(text)});
  if (kept_.size() > kMostKept) kept_.pop_front();
}

absl::Status LocalModel::Answer(const std::vector<ChatMessage>& messages, const ChatSettings& settings,
                                const OnText& on_text, ChatReply& reply) {
  const std::string text = chat_.Render(messages);
  const Tokenizer& tokenizer = node_.model().tokenizer();
  size_t known = 0;
  const SnapshotPtr from = Longest(text, known);
  GenerateRequest request;
  request.prompt = from == nullptr ? PromptTokens(tokenizer, text) : tokenizer.Encode(text.substr(known));
  request.max_tokens = settings.max_tokens;
  request.sampler = settings.sampler;
  request.stops = chat_.stops();
  request.stops.insert(request.stops.end(), settings.stops.begin(), settings.stops.end());
  request.keep = true;
  reply.message = {"assistant", "", true};
  reply.kept = from == nullptr ? 0 : from->state.position();
  absl::StatusOr<GenerateResult> result = node_.swarm().Generate(
      std::move(request),
      [&](const GenerateEvent& event) {
        reply.message.content += event.text;
        return on_text(event.text);
      },
      from);
  if (!result.ok()) return result.status();
  reply.reason = StopReasonName(result->reason);
  reply.computed = result->timings.prompt_tokens;
  reply.generated = result->timings.generated_tokens;
  reply.first = result->timings.prefill;
  reply.rest = result->timings.decode;
  Keep(std::move(result->snapshot));
  return absl::OkStatus();
}

std::string LocalModel::SaveState() {
  return kept_.empty() ? std::string() : kept_.back().snapshot->Save(node_.model().hash());
}

absl::Status LocalModel::RestoreState(std::string_view bytes) {
  absl::StatusOr<SessionSnapshot> snapshot =
      SessionSnapshot::Restore(node_.model().config(), node_.model().hash(), bytes);
  if (!snapshot.ok()) return snapshot.status();
  kept_.clear();
  Keep(std::make_shared<const SessionSnapshot>(*std::move(snapshot)));
  return absl::OkStatus();
}

}  // namespace omni::cli
