#include "cluster/mcp/mcp_stdio.h"

#include <map>
#include <mutex>
#include <utility>
#include <variant>

#include <absl/strings/ascii.h>
#include <absl/strings/str_cat.h>

#include "engine/base/json.h"

namespace omni {

using Json = nlohmann::json;

struct McpStdio::Shared {
  void Write(const Json& message) {
    const std::lock_guard lock(writing);
    if (write != nullptr) write(JsonText(message));
  }

  std::mutex writing;
  std::function<void(const std::string&)> write;
  std::mutex mutex;
  // By their ids, which a client may use again; the number is of one request alone.
  struct Place {
    uint64_t number;
    McpServer::Call call;
  };
  std::map<std::string, Place> calls;
  size_t ending = 0;  // no longer among the calls, and their last line is still to be written
};

McpStdio::McpStdio(McpServer& server, std::function<void(const std::string&)> write)
    : server_(server), shared_(std::make_shared<Shared>()) {
  shared_->write = std::move(write);
}

McpStdio::~McpStdio() {
  std::map<std::string, Shared::Place> calls;
  {
    const std::lock_guard lock(shared_->mutex);
    calls.swap(shared_->calls);
  }
  calls.clear();
  const std::lock_guard lock(shared_->writing);
  shared_->write = nullptr;
}

size_t McpStdio::under_way() const {
  const std::lock_guard lock(shared_->mutex);
  return shared_->calls.size() + shared_->ending;
}

void McpStdio::OnLongLine() {
  shared_->Write(
      McpError{McpError::kParse, absl::StrCat("a message has more than ", kMostLine, " bytes")}.ToJson());
}

void McpStdio::OnLine(std::string_view line) {
  if (absl::StripAsciiWhitespace({line.data(), line.size()}).empty()) return;
  const std::variant<McpMessage, McpError> read = ReadMcp(line);
  if (const auto* error = std::get_if<McpError>(&read)) return shared_->Write(error->ToJson());
  const auto& message = std::get<McpMessage>(read);
  if (message.kind == McpMessage::Kind::kResponse) return;  // nothing was asked
  if (message.kind == McpMessage::Kind::kNotification) {
    if (message.method == "notifications/cancelled") Cancel(message);
    return;
  }
  const bool stateless = message.version().has_value() || message.method == "server/discover";
  const auto refuse = [&](const std::string& what) {
    shared_->Write(McpError{McpError::kInvalidRequest, what, nullptr, message.id}.ToJson());
  };
  if (!stateless && !introduced_ && message.method != "initialize" && message.method != "ping")
    return refuse("initialize comes first, or params._meta says the protocol's version");
  const std::string id = message.id.dump();
  const uint64_t number = ++requests_;
  {
    const std::lock_guard lock(shared_->mutex);
    if (!shared_->calls.try_emplace(id, Shared::Place{number, nullptr}).second)
      return refuse("a request with this id is under way");
  }
  // While it is the one that is under way.
  const auto find = [shared = shared_.get(), id, number] {
    const auto found = shared->calls.find(id);
    return found == shared->calls.end() || found->second.number != number ? shared->calls.end() : found;
  };
  McpServer::Call call =
      server_.Answer(message, stateless, {}, [shared = shared_, find](const Json& told, bool last) {
        McpServer::Call over;
        {
          const std::lock_guard lock(shared->mutex);
          const auto found = find();
          if (found == shared->calls.end()) return;  // it was cancelled
          if (last) {                                // whoever reads this may use the id again at once
            over = std::move(found->second.call);
            shared->calls.erase(found);
            ++shared->ending;
          }
        }
        shared->Write(told);
        if (!last) return;
        const std::lock_guard lock(shared->mutex);
        --shared->ending;
      });
  if (!stateless && message.method == "initialize") introduced_ = true;
  const std::lock_guard lock(shared_->mutex);
  const auto found = find();
  if (found != shared_->calls.end()) found->second.call.swap(call);
}

void McpStdio::Cancel(const McpMessage& message) {
  const auto id = message.params.find("requestId");
  if (id == message.params.end()) return;
  McpServer::Call call;
  const std::lock_guard lock(shared_->mutex);
  const auto found = shared_->calls.find(id->dump());
  if (found == shared_->calls.end()) return;
  call = std::move(found->second.call);
  shared_->calls.erase(found);
}

}  // namespace omni
