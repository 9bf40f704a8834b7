#include "cluster/session_log.h"

#include <cstring>
#include <mutex>
#include <optional>
#include <utility>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

#include "cluster/cluster_records.h"
#include "engine/base/simulated.h"

namespace omni {
namespace {

// session/<id>/request, session/<id>/tokens/<number of the first, 12 digits>, session/<id>/finished.
std::string Prefix(const std::string& id) { return absl::StrCat("session/", id, "/"); }
std::string RequestKey(const std::string& id) { return Prefix(id) + "request"; }
std::string FinishedKey(const std::string& id) { return Prefix(id) + "finished"; }
std::string TokensKey(const std::string& id, int64_t first) {
  return absl::StrFormat("%stokens/%012d", Prefix(id), first);
}

std::string TokenBytes(const std::vector<TokenId>& tokens) {
  std::string bytes;
  for (TokenId t : tokens) {
    const auto v = static_cast<uint32_t>(t.value);
    for (int shift = 0; shift < 32; shift += 8) bytes.push_back(static_cast<char>(v >> shift & 255));
  }
  return bytes;
}

absl::Status Damaged(const std::string& key) {
  return absl::DataLossError(
      absl::StrCat("the session log's record ", key, " does not follow those before it"));
}

// Records of one session in the order of their keys: "finished" < "request" < "tokens/...".
class Reader {
 public:
  explicit Reader(std::string id) : prefix_(Prefix(id)) {}
  absl::Status Take(std::string_view key, std::string_view value) {
    const std::string_view name = key.substr(prefix_.size());
    if (name == "finished") {
      session_.finished = value;
    } else if (name == "request") {
      found_ = true;
      session_.request = value;
    } else {
      const int64_t first = std::atoll(std::string(name.substr(name.find('/') + 1)).c_str());
      if (first != static_cast<int64_t>(session_.tokens.size()) || value.size() % 4 != 0 || value.empty())
        return Damaged(std::string(key));
      for (size_t i = 0; i < value.size(); i += 4) {
        uint32_t v = 0;
        for (size_t b = 0; b < 4; ++b)
          v |= static_cast<uint32_t>(static_cast<uint8_t>(value[i + b])) << (8 * b);
        session_.tokens.push_back(TokenId(static_cast<int32_t>(v)));
      }
    }
    return absl::OkStatus();
  }
  absl::StatusOr<LoggedSession> Result() {
    if (!found_) return absl::NotFoundError("there is no session of this name");
    if (OMNI_PLANTED(kLogForgetsLastRecord) && !session_.tokens.empty() && session_.finished.empty())
      session_.tokens.pop_back();
    return std::move(session_);
  }

 private:
  const std::string prefix_;
  LoggedSession session_;
  bool found_ = false;
};

class DatabaseSessionLog : public SessionLog {
 public:
  explicit DatabaseSessionLog(Database& database) : database_(database) {}

  void Begin(const std::string& id, std::string request, Done done) override {
    done(BeginNow(id, std::move(request)));
  }
  void Append(std::vector<LoggedTokens> tokens, Done done) override {
    DatabaseBatch batch;
    for (const LoggedTokens& t : tokens) {
      if (!t.tokens.empty()) batch.Put(TokensKey(t.id, t.first), TokenBytes(t.tokens));
      if (!t.finished.empty()) batch.Put(FinishedKey(t.id), t.finished);
    }
    done(database_.Write(batch));
  }
  void Find(const std::string& id, std::function<void(absl::StatusOr<LoggedSession>)> done) override {
    Reader reader(id);
    const absl::Status read = database_.ForEach(
        Prefix(id), [&](std::string_view key, std::string_view value) { return reader.Take(key, value); });
    done(read.ok() ? reader.Result() : read);
  }
  void Forget(const std::string& id, Done done) override {
    DatabaseBatch batch;
    const absl::Status read = database_.ForEach(Prefix(id), [&](std::string_view key, std::string_view) {
      batch.Delete(key);
      return absl::OkStatus();
    });
    done(read.ok() ? database_.Write(batch) : read);
  }

 private:
  absl::Status BeginNow(const std::string& id, std::string request) {
    std::lock_guard lock(mutex_);  // between looking and writing
    const auto there = database_.Get(RequestKey(id));
    if (!there.ok()) return there.status();
    if (there->has_value()) return absl::AlreadyExistsError("there is a session of this name");
    return database_.Put(RequestKey(id), request);
  }

  Database& database_;
  std::mutex mutex_;
};

class StoreSessionLog : public SessionLog {
 public:
  StoreSessionLog(CoordinationStore& store, std::function<uint64_t()> term)
      : store_(store), term_(std::move(term)) {}

  void Begin(const std::string& id, std::string request, Done done) override {
    Transaction transaction = Led();
    transaction.conditions.push_back({RequestKey(id), 0});
    transaction.changes.push_back({RequestKey(id), std::move(request)});
    store_.Commit(std::move(transaction),
                  [this, id, done = std::move(done)](absl::StatusOr<Committed> committed) {
                    if (!committed.ok()) return done(committed.status());
                    if (committed->applied) return done(absl::OkStatus());
                    OMNI_REACHED(kLogBegunBefore);
                    Find(id, [done](absl::StatusOr<LoggedSession> there) {
                      if (there.ok())
                        return done(absl::AlreadyExistsError("there is a session of this name"));
                      done(absl::IsNotFound(there.status()) ? Deposed() : there.status());
                    });
                  });
  }
  void Append(std::vector<LoggedTokens> tokens, Done done) override {
    Transaction transaction = Led();
    for (LoggedTokens& t : tokens) {
      if (!t.tokens.empty()) {
        // A write that was given up may still come, after others that began where it did.
        transaction.conditions.push_back({TokensKey(t.id, t.first), 0});
        transaction.changes.push_back({TokensKey(t.id, t.first), TokenBytes(t.tokens)});
      }
      if (!t.finished.empty()) transaction.changes.push_back({FinishedKey(t.id), std::move(t.finished)});
    }
    store_.Commit(std::move(transaction), [done = std::move(done)](absl::StatusOr<Committed> committed) {
      if (!committed.ok()) return done(committed.status());
      if (!committed->applied) OMNI_REACHED(kLogDeposed);
      done(committed->applied ? absl::OkStatus() : Deposed());
    });
  }
  void Find(const std::string& id, std::function<void(absl::StatusOr<LoggedSession>)> done) override {
    store_.Read(Prefix(id), [id, done = std::move(done)](absl::StatusOr<Records> records) {
      if (!records.ok()) return done(records.status());
      Reader reader(id);
      for (const Record& record : records->records) {
        if (absl::Status s = reader.Take(record.key, record.value); !s.ok()) return done(s);
      }
      done(reader.Result());
    });
  }
  void Forget(const std::string& id, Done done) override {
    store_.Read(Prefix(id), [this, done = std::move(done)](absl::StatusOr<Records> records) {
      if (!records.ok()) return done(records.status());
      Delete(std::make_shared<std::vector<Record>>(std::move(records->records)), done);
    });
  }

 private:
  static absl::Status Deposed() {
    return absl::AbortedError("this coordinator does not lead any more; what it computes is not kept");
  }
  Transaction Led() const {
    Transaction transaction;
    transaction.conditions.push_back({kLeaderKey, static_cast<Revision>(term_())});
    return transaction;
  }
  // The last first, so that what is left of it by a crash is still a session.
  void Delete(std::shared_ptr<std::vector<Record>> records, Done done) {
    constexpr size_t kMost = 100;
    Transaction transaction = Led();
    while (!records->empty() && transaction.changes.size() < kMost) {
      transaction.changes.push_back({std::move(records->back().key), std::nullopt});
      records->pop_back();
    }
    if (transaction.changes.empty()) return done(absl::OkStatus());
    store_.Commit(std::move(transaction), [this, records, done](absl::StatusOr<Committed> committed) {
      if (!committed.ok()) return done(committed.status());
      if (!committed->applied) return done(Deposed());
      Delete(records, done);
    });
  }

  CoordinationStore& store_;
  const std::function<uint64_t()> term_;
};

}  // namespace

std::unique_ptr<SessionLog> MakeDatabaseSessionLog(Database& database) {
  return std::make_unique<DatabaseSessionLog>(database);
}
std::unique_ptr<SessionLog> MakeStoreSessionLog(CoordinationStore& store, std::function<uint64_t()> term) {
  return std::make_unique<StoreSessionLog>(store, std::move(term));
}

}  // namespace omni
