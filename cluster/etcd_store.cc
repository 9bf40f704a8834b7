#include "cluster/etcd_store.h"

#include <atomic>
#include <list>
#include <utility>

#include <absl/strings/str_cat.h>

#include "cluster/etcd_calls.h"
#include "cluster/etcd_loop.h"
#include "cluster/etcd_members.h"
#include "cluster/etcd_messages.h"
#include "cluster/etcd_watch.h"
#include "cluster/watch_delivery.h"
#include "engine/base/quoted.h"

namespace omni {
namespace {

using Repeat = EtcdCalls::Repeat;
using std::chrono::milliseconds;

constexpr int64_t kPageRecords = 500;
constexpr int kLeastAnswerBytes = 4 << 20;
// Compactions that may fall between the pages of one read.
constexpr int kMaxFreshReads = 3;

absl::Status Closed() { return absl::CancelledError("the coordination store was closed meanwhile"); }

absl::Status CheckOptions(const EtcdOptions& options) {
  if (options.endpoints.empty())
    return absl::InvalidArgumentError("etcd: give at least one member as HOST:PORT");
  for (const std::string& endpoint : options.endpoints) {
    if (endpoint.rfind(':') == std::string::npos || endpoint.find("://") != std::string::npos)
      return absl::InvalidArgumentError(absl::StrCat("etcd: ", Quoted(endpoint), " is not HOST:PORT"));
  }
  if (options.call_timeout < milliseconds(1) || options.attempt_timeout < milliseconds(1) ||
      options.probe_interval < milliseconds(1)) {
    return absl::InvalidArgumentError("etcd: times must be at least 1 ms");
  }
  if (options.max_answer_bytes < kLeastAnswerBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("etcd: answers must be allowed ", kLeastAnswerBytes, " bytes at least"));
  }
  return absl::OkStatus();
}

}  // namespace

struct EtcdStore::Impl {
  Impl(EtcdOptions given, std::vector<std::unique_ptr<EtcdMember>> connected)
      : options(std::move(given)),
        members(loop, std::move(connected), [this] { OnMembersChange(); }),
        calls(loop, members, options) {}

  const EtcdOptions options;
  EtcdLoop loop;
  EtcdMembers members;  // this and the rest: the loop's
  EtcdCalls calls;
  std::list<std::shared_ptr<EtcdWatch>> watches;
  std::atomic<size_t> under_way = 0;

  void OnMembersChange() {
    calls.OnMembersChange();
    const std::list<std::shared_ptr<EtcdWatch>> now = watches;
    for (const auto& watch : now) watch->OnMembersChange();
  }

  // Counts the call and has `begin` run on the loop, with the callback that ends it.
  template <typename T, typename Begin>
  void Ask(Callback<T> done, Begin begin) {
    if (++under_way > options.max_calls) {
      --under_way;
      return done(absl::ResourceExhaustedError(
          absl::StrCat("more than ", options.max_calls, " calls of the coordination store are under way")));
    }
    const bool posted = loop.Post([this, done, begin = std::move(begin)] {
      begin([this, done](absl::StatusOr<T> result) {
        --under_way;
        done(std::move(result));
      });
    });
    if (posted) return;
    --under_way;
    done(Closed());
  }

  // One request, one answer.
  template <typename T, typename Response, typename Request, typename Begin, typename Result>
  void AskOnce(std::string what, Repeat repeat, Request request, Callback<T> done, Begin begin,
               Result result) {
    Ask<T>(std::move(done), [this, what = std::move(what), repeat, request = std::move(request), begin,
                             result](Callback<T> told) {
      auto response = std::make_shared<Response>();
      calls.Run(what, repeat, UnaryAttempt(loop, request, response, begin),
                [response, result, told = std::move(told)](const absl::Status& status) {
                  if (!status.ok() && status.code() != absl::StatusCode::kNotFound) return told(status);
                  told(result(status, *response));
                });
    });
  }

  // A read that goes on page by page.
  struct Reading {
    std::string prefix;
    EtcdRange range;
    int64_t limit = kPageRecords;
    int fresh = 0;  // times it was begun again
    Records records;
    Callback<Records> told;
  };
  void ReadPage(const std::shared_ptr<Reading>& reading);
  void OnPage(const std::shared_ptr<Reading>& reading, const absl::Status& status,
              const etcdserverpb::RangeResponse& page);
};

void EtcdStore::Impl::ReadPage(const std::shared_ptr<Reading>& reading) {
  etcdserverpb::RangeRequest request;
  request.set_key(reading->range.key);
  request.set_range_end(reading->range.end);
  request.set_limit(reading->limit);
  request.set_revision(reading->records.revision);
  auto response = std::make_shared<etcdserverpb::RangeResponse>();
  auto attempt = UnaryAttempt(
      loop, std::move(request), response,
      [](EtcdMember& member, const auto&... arguments) { return member.kv->AsyncRange(arguments...); });
  calls.Run("read", Repeat::kSafe, std::move(attempt),
            [this, reading, response](const absl::Status& status) { OnPage(reading, status, *response); });
}

void EtcdStore::Impl::OnPage(const std::shared_ptr<Reading>& reading, const absl::Status& status,
                             const etcdserverpb::RangeResponse& page) {
  if (absl::IsResourceExhausted(status) && reading->limit > 1) {  // larger than an answer may be
    reading->limit = (reading->limit + 7) / 8;
    return ReadPage(reading);
  }
  if (absl::IsOutOfRange(status) && reading->fresh < kMaxFreshReads) {  // compacted meanwhile
    ++reading->fresh;
    reading->range = PrefixRange(options.prefix + reading->prefix);
    reading->records = {};
    return ReadPage(reading);
  }
  if (!status.ok()) return reading->told(status);
  Records& records = reading->records;
  if (records.revision == 0) records.revision = page.header().revision();
  for (const mvccpb::KeyValue& kv : page.kvs()) {
    std::optional<Record> record = ToRecord(options.prefix, kv);
    if (record.has_value()) records.records.push_back(*std::move(record));
  }
  if (!page.more() || page.kvs().empty()) return reading->told(std::move(records));
  reading->range.key = page.kvs().rbegin()->key() + '\0';
  ReadPage(reading);
}

EtcdStore::EtcdStore(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

EtcdStore::~EtcdStore() {
  impl_->loop.Stop([impl = impl_.get()] {
    impl->calls.CancelAll();
    for (const auto& watch : impl->watches) watch->Stop();
    impl->members.Close();
  });
}

absl::StatusOr<std::unique_ptr<EtcdStore>> EtcdStore::Open(EtcdOptions options) {
  if (absl::Status s = CheckOptions(options); !s.ok()) return s;
  auto members = EtcdMembers::Connect(options);
  if (!members.ok()) return members.status();
  auto impl = std::make_unique<Impl>(std::move(options), *std::move(members));
  if (absl::Status s = impl->loop.Start(); !s.ok()) return s;
  return std::unique_ptr<EtcdStore>(new EtcdStore(std::move(impl)));
}

void EtcdStore::Read(std::string prefix, Callback<Records> done) {
  impl_->Ask<Records>(std::move(done),
                      [impl = impl_.get(), prefix = std::move(prefix)](Callback<Records> told) {
                        auto reading = std::make_shared<Impl::Reading>();
                        reading->prefix = prefix;
                        reading->range = PrefixRange(impl->options.prefix + prefix);
                        reading->told = std::move(told);
                        impl->ReadPage(reading);
                      });
}

void EtcdStore::Commit(Transaction transaction, Callback<Committed> done) {
  if (absl::Status s = CheckTransaction(transaction); !s.ok()) return done(s);
  impl_->AskOnce<Committed, etcdserverpb::TxnResponse>(
      "commit", Repeat::kNever, ToTxn(impl_->options.prefix, transaction), std::move(done),
      [](EtcdMember& member, const auto&... arguments) { return member.kv->AsyncTxn(arguments...); },
      [](const absl::Status& status, const etcdserverpb::TxnResponse& txn) -> absl::StatusOr<Committed> {
        if (!status.ok()) return status;
        return Committed{.applied = txn.succeeded(), .revision = txn.header().revision()};
      });
}

void EtcdStore::GrantLease(milliseconds ttl, Callback<LeaseId> done) {
  if (absl::Status s = CheckLeaseTtl(ttl); !s.ok()) return done(s);
  etcdserverpb::LeaseGrantRequest request;
  request.set_ttl(std::chrono::ceil<std::chrono::seconds>(ttl).count());
  impl_->AskOnce<LeaseId, etcdserverpb::LeaseGrantResponse>(
      "lease", Repeat::kNever, std::move(request), std::move(done),
      [](EtcdMember& member, const auto&... arguments) {
        return member.lease->AsyncLeaseGrant(arguments...);
      },
      [](const absl::Status& status,
         const etcdserverpb::LeaseGrantResponse& granted) -> absl::StatusOr<LeaseId> {
        if (!status.ok()) return status;
        if (!granted.error().empty() || granted.id() == 0)
          return absl::UnavailableError(absl::StrCat("etcd: lease: ", granted.error()));
        return granted.id();
      });
}

void EtcdStore::KeepAlive(LeaseId lease, Callback<milliseconds> done) {
  impl_->Ask<milliseconds>(std::move(done), [impl = impl_.get(), lease](Callback<milliseconds> told) {
    auto response = std::make_shared<etcdserverpb::LeaseKeepAliveResponse>();
    impl->calls.Run(
        "keeping a lease", Repeat::kSafe, KeepAliveAttempt(impl->loop, lease, response),
        [lease, response, told = std::move(told)](const absl::Status& status) {
          if (!status.ok()) return told(status);
          if (response->ttl() <= 0) {
            return told(absl::NotFoundError(absl::StrCat("lease ", lease, " is over, or never was")));
          }
          told(std::chrono::seconds(response->ttl()));
        });
  });
}

void EtcdStore::RevokeLease(LeaseId lease, Callback<bool> done) {
  etcdserverpb::LeaseRevokeRequest request;
  request.set_id(lease);
  impl_->AskOnce<bool, etcdserverpb::LeaseRevokeResponse>(
      "revoking a lease", Repeat::kNever, std::move(request), std::move(done),
      [](EtcdMember& member, const auto&... arguments) {
        return member.lease->AsyncLeaseRevoke(arguments...);
      },
      [](const absl::Status& status, const etcdserverpb::LeaseRevokeResponse&) -> absl::StatusOr<bool> {
        return status.ok();
      });
}

std::unique_ptr<CoordinationStore::Watcher> EtcdStore::Watch(std::string prefix, Revision from,
                                                             Callback<Changes> on_changes) {
  class Closing : public Watcher {
   public:
    Closing(Impl& impl, std::shared_ptr<WatchDelivery> delivery, std::shared_ptr<EtcdWatch> watch)
        : impl_(impl), delivery_(std::move(delivery)), watch_(std::move(watch)) {}
    ~Closing() override {
      delivery_->Close();
      (void)impl_.loop.Post([&impl = impl_, watch = watch_] {
        watch->Stop();
        impl.watches.remove(watch);
      });
    }

   private:
    Impl& impl_;
    const std::shared_ptr<WatchDelivery> delivery_;
    const std::shared_ptr<EtcdWatch> watch_;
  };
  auto delivery = std::make_shared<WatchDelivery>(std::move(on_changes));
  auto watch =
      std::make_shared<EtcdWatch>(impl_->loop, impl_->members, impl_->options, prefix, from, delivery);
  const bool posted = impl_->loop.Post([impl = impl_.get(), watch] {
    impl->watches.push_back(watch);
    watch->Begin();
  });
  if (!posted) delivery->Tell(Closed());
  return std::make_unique<Closing>(*impl_, std::move(delivery), std::move(watch));
}

}  // namespace omni
