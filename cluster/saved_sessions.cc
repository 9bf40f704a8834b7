#include "cluster/saved_sessions.h"

#include <mutex>
#include <optional>
#include <utility>

#include <absl/strings/str_cat.h>

#include "cluster/cluster_records.h"
#include "engine/base/random.h"

namespace omni {
namespace {

// Of a database saved/about/<id>: eight bytes of the revision, then what there is to say of it; and
// saved/tokens/<id>. Of a store, which reads all that begins with a key, saved/about/<id>/ without the
// revision and saved/tokens/<id>/: nobody's id ends another's with what follows.
constexpr char kAbout[] = "saved/about/", kTokens[] = "saved/tokens/";
constexpr size_t kRevisionBytes = 8;

std::string AboutKey(const std::string& id) { return kAbout + id; }
std::string TokensKey(const std::string& id) { return kTokens + id; }
std::string StoreKey(const std::string& key) { return key + "/"; }
std::string OwnersPrefix(const std::string& id) {
  const size_t dot = id.rfind('.');
  return dot == std::string::npos ? "" : id.substr(0, dot + 1);
}

absl::Status NoSession() { return absl::NotFoundError("no session of this id is saved"); }
absl::Status Exists() { return absl::AlreadyExistsError("a session of this id is saved already"); }
absl::Status Changed() { return absl::AbortedError("the session has been changed or deleted meanwhile"); }
absl::Status TooMany() {
  return absl::ResourceExhaustedError(
      absl::StrCat("there are ", SavedSessions::kMost, " saved sessions already; delete some"));
}

std::string RevisionBytes(uint64_t revision) {
  std::string bytes;
  for (size_t i = 0; i < kRevisionBytes; ++i) bytes.push_back(static_cast<char>(revision >> (8 * i) & 255));
  return bytes;
}

// Of what a database keeps under AboutKey.
absl::StatusOr<SavedSession> Parse(std::string id, std::string_view about) {
  if (about.size() < kRevisionBytes)
    return absl::DataLossError(absl::StrCat("the record of the saved session ", id, " is cut"));
  SavedSession session;
  session.id = std::move(id);
  for (size_t i = 0; i < kRevisionBytes; ++i)
    session.revision |= uint64_t{static_cast<uint8_t>(about[i])} << (8 * i);
  session.about = about.substr(kRevisionBytes);
  return session;
}

class DatabaseSavedSessions final : public SavedSessions {
 public:
  explicit DatabaseSavedSessions(Database& database) : database_(database) {}

  void Put(const SavedSession& session, uint64_t expected,
           std::function<void(absl::StatusOr<uint64_t>)> done) override {
    done(PutNow(session, expected));
  }
  void Find(const std::string& id, std::function<void(absl::StatusOr<SavedSession>)> done) override {
    const Database::Snapshot now = database_.TakeSnapshot();
    const auto about = now.Get(AboutKey(id));
    if (!about.ok()) return done(about.status());
    if (!about->has_value()) return done(NoSession());
    absl::StatusOr<SavedSession> session = Parse(id, **about);
    auto tokens = now.Get(TokensKey(id));
    if (!tokens.ok()) return done(tokens.status());
    if (session.ok()) session->tokens = std::move(*tokens).value_or("");
    done(std::move(session));
  }
  void List(const std::string& prefix,
            std::function<void(absl::StatusOr<std::vector<SavedSession>>)> done) override {
    std::vector<SavedSession> sessions;
    const absl::Status read =
        database_.ForEach(AboutKey(prefix), [&](std::string_view key, std::string_view value) {
          absl::StatusOr<SavedSession> session =
              Parse(std::string(key.substr(std::string_view(kAbout).size())), value);
          if (!session.ok()) return session.status();
          sessions.push_back(*std::move(session));
          return absl::OkStatus();
        });
    if (!read.ok()) return done(read);
    done(std::move(sessions));
  }
  void Delete(const std::string& id, Done done) override { done(DeleteNow(id)); }

 private:
  absl::StatusOr<uint64_t> PutNow(const SavedSession& session, uint64_t expected) {
    std::lock_guard lock(mutex_);  // between looking and writing
    const auto there = database_.Get(AboutKey(session.id));
    if (!there.ok()) return there.status();
    if (there->has_value()) {
      const absl::StatusOr<SavedSession> before = Parse(session.id, **there);
      if (!before.ok()) return before.status();
      if (expected == 0) return Exists();
      if (before->revision != expected) return Changed();
    } else if (expected != 0) {
      return Changed();
    } else {
      size_t others = 0;
      const absl::Status counted =
          database_.ForEach(AboutKey(OwnersPrefix(session.id)), [&](std::string_view, std::string_view) {
            return ++others < kMost ? absl::OkStatus() : TooMany();
          });
      if (!counted.ok()) return counted;
    }
    const uint64_t revision = SystemRandom() | 1;
    DatabaseBatch batch;
    batch.Put(AboutKey(session.id), RevisionBytes(revision) + session.about);
    batch.Put(TokensKey(session.id), session.tokens);
    if (absl::Status s = database_.Write(batch); !s.ok()) return s;
    return revision;
  }
  absl::Status DeleteNow(const std::string& id) {
    std::lock_guard lock(mutex_);
    const auto there = database_.Get(AboutKey(id));
    if (!there.ok()) return there.status();
    if (!there->has_value()) return NoSession();
    DatabaseBatch batch;
    batch.Delete(AboutKey(id));
    batch.Delete(TokensKey(id));
    return database_.Write(batch);
  }

  Database& database_;
  std::mutex mutex_;
};

class StoreSavedSessions final : public SavedSessions {
 public:
  StoreSavedSessions(CoordinationStore& store, std::function<uint64_t()> term)
      : store_(store), term_(std::move(term)) {}

  void Put(const SavedSession& session, uint64_t expected,
           std::function<void(absl::StatusOr<uint64_t>)> done) override {
    if (expected != 0) return PutNow(session, expected, std::move(done));
    List(OwnersPrefix(session.id),
         [this, session, done = std::move(done)](absl::StatusOr<std::vector<SavedSession>> others) {
           if (!others.ok()) return done(others.status());
           if (others->size() >= kMost) return done(TooMany());
           PutNow(session, 0, done);
         });
  }
  void Find(const std::string& id, std::function<void(absl::StatusOr<SavedSession>)> done) override {
    // The tokens first: if what is said of them is of the same revision, the two belong together.
    Get(StoreKey(TokensKey(id)), [this, id, done = std::move(done)](absl::StatusOr<Record> tokens) {
      if (!tokens.ok()) return done(tokens.status());
      Get(StoreKey(AboutKey(id)),
          [id, done, tokens = *std::move(tokens)](absl::StatusOr<Record> about) mutable {
            if (!about.ok()) return done(about.status());
            if (about->changed != tokens.changed) return done(Changed());
            done(SavedSession{id, static_cast<uint64_t>(about->changed), std::move(about->value),
                              std::move(tokens.value)});
          });
    });
  }
  void List(const std::string& prefix,
            std::function<void(absl::StatusOr<std::vector<SavedSession>>)> done) override {
    store_.Read(AboutKey(prefix), [done = std::move(done)](absl::StatusOr<Records> records) {
      if (!records.ok()) return done(records.status());
      std::vector<SavedSession> sessions;
      for (Record& record : records->records) {
        std::string id = record.key.substr(std::string_view(kAbout).size());
        if (!id.empty()) id.pop_back();
        sessions.push_back(
            {std::move(id), static_cast<uint64_t>(record.changed), std::move(record.value), ""});
      }
      done(std::move(sessions));
    });
  }
  void Delete(const std::string& id, Done done) override {
    Get(StoreKey(AboutKey(id)), [this, id, done = std::move(done)](absl::StatusOr<Record> about) {
      if (!about.ok()) return done(about.status());
      Transaction transaction = Led();
      transaction.conditions.push_back({StoreKey(AboutKey(id)), about->changed});
      transaction.changes.push_back({StoreKey(AboutKey(id)), std::nullopt});
      transaction.changes.push_back({StoreKey(TokensKey(id)), std::nullopt});
      store_.Commit(std::move(transaction), [this, done](absl::StatusOr<Committed> committed) {
        if (!committed.ok()) return done(committed.status());
        if (committed->applied) return done(absl::OkStatus());
        Refuse(Changed(), done);
      });
    });
  }

 private:
  Transaction Led() const {
    Transaction transaction;
    transaction.conditions.push_back({kLeaderKey, static_cast<Revision>(term_())});
    return transaction;
  }
  void Get(const std::string& key, std::function<void(absl::StatusOr<Record>)> done) {
    store_.Read(key, [key, done = std::move(done)](absl::StatusOr<Records> records) {
      if (!records.ok()) return done(records.status());
      for (Record& record : records->records) {
        if (record.key == key) return done(std::move(record));
      }
      done(NoSession());
    });
  }
  void PutNow(const SavedSession& session, uint64_t expected,
              std::function<void(absl::StatusOr<uint64_t>)> done) {
    Transaction transaction = Led();
    transaction.conditions.push_back({StoreKey(AboutKey(session.id)), static_cast<Revision>(expected)});
    transaction.changes.push_back({StoreKey(AboutKey(session.id)), session.about});
    transaction.changes.push_back({StoreKey(TokensKey(session.id)), session.tokens});
    store_.Commit(std::move(transaction),
                  [this, expected, done = std::move(done)](absl::StatusOr<Committed> committed) {
                    if (!committed.ok()) return done(committed.status());
                    if (committed->applied) return done(static_cast<uint64_t>(committed->revision));
                    Refuse(expected == 0 ? Exists() : Changed(), done);
                  });
  }
  // Either somebody else leads, or the session is another, as `why` says.
  void Refuse(const absl::Status& why, Done done) {
    Get(kLeaderKey, [this, why, done = std::move(done)](absl::StatusOr<Record> leader) {
      if (!leader.ok() && !absl::IsNotFound(leader.status())) return done(leader.status());
      if (!leader.ok() || static_cast<uint64_t>(leader->changed) != term_()) {
        return done(
            absl::UnavailableError("this coordinator does not lead any more; nothing is saved or deleted"));
      }
      done(why);
    });
  }

  CoordinationStore& store_;
  const std::function<uint64_t()> term_;
};

}  // namespace

std::unique_ptr<SavedSessions> MakeDatabaseSavedSessions(Database& database) {
  return std::make_unique<DatabaseSavedSessions>(database);
}
std::unique_ptr<SavedSessions> MakeStoreSavedSessions(CoordinationStore& store,
                                                      std::function<uint64_t()> term) {
  return std::make_unique<StoreSavedSessions>(store, std::move(term));
}

}  // namespace omni
