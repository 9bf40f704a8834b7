#include "cluster/session_log.h"

#include <cstring>
#include <mutex>
#include <optional>
#include <utility>

#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

#include "cluster/cluster_records.h"
#include "engine/base/simulated.h"

namespace omni {
namespace {

// session/<id>/request, session/<id>/tokens/<number of the first, 12 digits>, session/<id>/finished;
// kept/sessions/<id>, empty or the milliseconds of kept/now at which it was found idle.
constexpr char kKept[] = "kept/", kNowKey[] = "kept/now", kKeptSession[] = "kept/sessions/";
std::string Prefix(const std::string& id) { return absl::StrCat("session/", id, "/"); }
std::string RequestKey(const std::string& id) { return Prefix(id) + "request"; }
std::string FinishedKey(const std::string& id) { return Prefix(id) + "finished"; }
std::string TokensKey(const std::string& id, int64_t first) {
  return absl::StrFormat("%stokens/%012d", Prefix(id), first);
}

std::string KeptKey(const std::string& id) { return kKeptSession + id; }
std::string KeptValue(const LoggedTimes::Session& session) {
  return session.idle_since.has_value() ? absl::StrCat(session.idle_since->count()) : "";
}
std::optional<std::chrono::milliseconds> Milliseconds(std::string_view text) {
  int64_t count = 0;
  if (!absl::SimpleAtoi(std::string(text), &count) || count < 0) return std::nullopt;
  return std::chrono::milliseconds(count);
}
// A record under kKept. One that cannot be read is of a session that is not idle, or of no time.
void Take(std::string_view key, std::string_view value, LoggedTimes& times) {
  const std::string_view prefix = kKeptSession;
  if (key == kNowKey) {
    times.now = Milliseconds(value).value_or(std::chrono::milliseconds(0));
  } else if (key.starts_with(prefix)) {
    times.sessions.push_back({std::string(key.substr(prefix.size())), Milliseconds(value)});
  }
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
    batch.Delete(KeptKey(id));
    done(read.ok() ? database_.Write(batch) : read);
  }
  void Times(std::function<void(absl::StatusOr<LoggedTimes>)> done) override {
    LoggedTimes times;
    const absl::Status read = database_.ForEach(kKept, [&](std::string_view key, std::string_view value) {
      Take(key, value, times);
      return absl::OkStatus();
    });
    if (!read.ok()) return done(read);
    done(std::move(times));
  }
  void Touch(const std::string& id, Done done) override { done(database_.Put(KeptKey(id), "")); }
  void SetTimes(const LoggedTimes& times, Done done) override {
    DatabaseBatch batch;
    batch.Put(kNowKey, absl::StrCat(times.now.count()));
    for (const LoggedTimes::Session& session : times.sessions)
      batch.Put(KeptKey(session.id), KeptValue(session));
    done(database_.Write(batch));
  }

 private:
  absl::Status BeginNow(const std::string& id, std::string request) {
    std::lock_guard lock(mutex_);  // between looking and writing
    const auto there = database_.Get(RequestKey(id));
    if (!there.ok()) return there.status();
    if (there->has_value()) return absl::AlreadyExistsError("there is a session of this name");
    DatabaseBatch batch;
    batch.Put(RequestKey(id), request);
    batch.Put(KeptKey(id), "");
    return database_.Write(batch);
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
    transaction.changes.push_back({KeptKey(id), ""});
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
    Commit(std::move(transaction), std::move(done));
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
    store_.Read(Prefix(id), [this, id, done = std::move(done)](absl::StatusOr<Records> records) {
      if (!records.ok()) return done(records.status());
      // From the back: the end, so that what is left by a crash does not pass for a whole answer; the tokens,
      // the last first; what it is found by.
      auto keys = std::make_shared<std::vector<std::string>>();
      keys->push_back(KeptKey(id));
      for (Record& record : records->records) {
        if (record.key != FinishedKey(id)) keys->push_back(std::move(record.key));
      }
      if (keys->size() < records->records.size() + 1) keys->push_back(FinishedKey(id));
      Delete(keys, done);
    });
  }
  void Times(std::function<void(absl::StatusOr<LoggedTimes>)> done) override {
    store_.Read(kKept, [done = std::move(done)](absl::StatusOr<Records> records) {
      if (!records.ok()) return done(records.status());
      LoggedTimes times;
      for (const Record& record : records->records) Take(record.key, record.value, times);
      done(std::move(times));
    });
  }
  void Touch(const std::string& id, Done done) override {
    Transaction transaction = Led();
    transaction.changes.push_back({KeptKey(id), ""});
    Commit(std::move(transaction), std::move(done));
  }
  void SetTimes(const LoggedTimes& times, Done done) override {
    Transaction transaction = Led();
    transaction.changes.push_back({kNowKey, absl::StrCat(times.now.count())});
    for (const LoggedTimes::Session& session : times.sessions)
      transaction.changes.push_back({KeptKey(session.id), KeptValue(session)});
    Commit(std::move(transaction), std::move(done));
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
  void Commit(Transaction transaction, Done done) {
    store_.Commit(std::move(transaction), [done = std::move(done)](absl::StatusOr<Committed> committed) {
      if (!committed.ok()) return done(committed.status());
      if (!committed->applied) OMNI_REACHED(kLogDeposed);
      done(committed->applied ? absl::OkStatus() : Deposed());
    });
  }
  // As many at a time as go in a transaction, from the back.
  void Delete(std::shared_ptr<std::vector<std::string>> keys, Done done) {
    constexpr size_t kMost = 100;
    Transaction transaction = Led();
    while (!keys->empty() && transaction.changes.size() < kMost) {
      transaction.changes.push_back({std::move(keys->back()), std::nullopt});
      keys->pop_back();
    }
    if (transaction.changes.empty()) return done(absl::OkStatus());
    Commit(std::move(transaction), [this, keys, done](const absl::Status& deleted) {
      if (!deleted.ok()) return done(deleted);
      Delete(keys, done);
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
