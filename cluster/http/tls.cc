#include "cluster/http/tls.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <mutex>
#include <utility>

#include <absl/strings/str_cat.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>

#include "cluster/openssl.h"
#include "engine/base/log.h"
#include "engine/base/open_file.h"
#include "engine/base/system_error.h"

namespace omni {
namespace {

constexpr size_t kMostPem = 1 << 20;
constexpr unsigned char kProtocol[] = {8, 'h', 't', 't', 'p', '/', '1', '.', '1'};

int SelectProtocol(SSL*, const unsigned char** out, unsigned char* out_size, const unsigned char* offered,
                   unsigned offered_size, void*) {
  unsigned char* chosen = nullptr;
  const int found =
      SSL_select_next_proto(&chosen, out_size, kProtocol, sizeof kProtocol, offered, offered_size);
  *out = chosen;
  return found == OPENSSL_NPN_NEGOTIATED ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_ALERT_FATAL;
}

// Null: as ParseCertificate.
X509Ptr NextCertificate(BIO* from) {
  const auto no_password = [](char*, int, int, void*) { return -1; };
  X509Ptr certificate(PEM_read_bio_X509(from, nullptr, no_password, nullptr));
  ERR_clear_error();
  return certificate;
}

// A file that is read whole, up to a mebibyte.
absl::StatusOr<std::string> ReadPem(const std::string& path) {
  const absl::StatusOr<FileDescriptor> file = OpenRegular(path);
  if (!file.ok()) return file.status();
  std::string text;
  while (text.size() <= kMostPem) {
    char buffer[8192];
    const ssize_t n = ::read(file->get(), buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return SystemError(path, "read", errno);
    if (n == 0) return text;
    text.append(buffer, static_cast<size_t>(n));
  }
  return absl::InvalidArgumentError(absl::StrCat(path, ": is too long for a PEM file"));
}

absl::StatusOr<PemPair> ReadPair(const std::string& certificate_file, const std::string& key_file) {
  absl::StatusOr<std::string> chain = ReadPem(certificate_file), key = ReadPem(key_file);
  if (!chain.ok()) return chain.status();
  if (!key.ok()) return key.status();
  return PemPair{*std::move(chain), *std::move(key)};
}

absl::StatusOr<SslContextPtr> ContextOf(const PemPair& pair, const std::string& certificate_file,
                                        const std::string& key_file) {
  const std::string &chain = pair.certificate, &key_text = pair.key;
  const BioPtr from(BIO_new_mem_buf(chain.data(), static_cast<int>(chain.size())));
  const X509Ptr own = NextCertificate(from.get());
  if (own == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(
        certificate_file, ": holds no certificate in PEM; name the one that your authority signed"));
  }
  const KeyPtr key = omni::ParseKey(key_text);
  if (key == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(
        key_file, ": holds no private key in PEM, or one that wants a password, which nobody is asked for"));
  }
  if (X509_check_private_key(own.get(), key.get()) != 1) {
    ERR_clear_error();
    return absl::InvalidArgumentError(absl::StrCat(key_file, ": is not the key of the certificate in ",
                                                   certificate_file, "; name the two that belong together"));
  }
  const std::string dates = absl::StrCat(TimeText(X509_get0_notBefore(own.get())), " until ",
                                         TimeText(X509_get0_notAfter(own.get())));
  if (X509_cmp_current_time(X509_get0_notAfter(own.get())) < 0) {
    return absl::FailedPreconditionError(
        absl::StrCat(certificate_file, ": the certificate is over: it was valid from ", dates, "; renew it"));
  }
  if (X509_cmp_current_time(X509_get0_notBefore(own.get())) > 0) {
    return absl::FailedPreconditionError(absl::StrCat(certificate_file,
                                                      ": the certificate is not valid yet, but from ", dates,
                                                      "; see this machine's clock"));
  }
  SslContextPtr context(SSL_CTX_new(TLS_server_method()));
  if (context == nullptr || SSL_CTX_set_min_proto_version(context.get(), TLS1_2_VERSION) != 1 ||
      SSL_CTX_set_cipher_list(context.get(), "ECDHE+AESGCM:ECDHE+CHACHA20") != 1 ||
      SSL_CTX_use_certificate(context.get(), own.get()) != 1 ||
      SSL_CTX_use_PrivateKey(context.get(), key.get()) != 1) {
    const absl::Status why = OpenSslError(absl::StrCat(certificate_file, ": cannot be used"));
    return absl::InvalidArgumentError(why.message());
  }
  while (X509Ptr more = NextCertificate(from.get())) {
    if (SSL_CTX_add0_chain_cert(context.get(), more.get()) != 1)
      return OpenSslError(absl::StrCat(certificate_file, ": cannot be used"));
    (void)more.release();  // the context's
  }
  // No tickets: their keys would stay in memory, and with them what was said before could be read.
  SSL_CTX_set_options(context.get(), SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_TICKET);
  SSL_CTX_set_num_tickets(context.get(), 0);
  SSL_CTX_set_session_cache_mode(context.get(), SSL_SESS_CACHE_OFF);
  SSL_CTX_set_mode(context.get(), SSL_MODE_RELEASE_BUFFERS);
  SSL_CTX_set_alpn_select_cb(context.get(), SelectProtocol, nullptr);
  return context;
}

}  // namespace

struct TlsSession::Impl {
  SslPtr ssl;
  BIO* in = nullptr;  // the session's
  BIO* out = nullptr;
  bool failed = false;

  void TakeOut(std::string& to) const {
    char* bytes = nullptr;
    const long n = BIO_get_mem_data(out, &bytes);
    if (n <= 0) return;
    to.append(bytes, static_cast<size_t>(n));
    (void)BIO_reset(out);
  }
};

TlsSession::TlsSession(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
TlsSession::~TlsSession() = default;

TlsSession::State TlsSession::Fail() {
  impl_->failed = true;
  int reason = 0;
  while (const unsigned long code = ERR_get_error()) {
    reason = ERR_GET_REASON(code);
    const char* text = ERR_reason_error_string(code);
    failure_ = text == nullptr ? absl::StrCat("error ", reason) : text;
  }
  if (failure_.empty()) failure_ = "no reason is given";
  return reason == SSL_R_HTTP_REQUEST ? State::kPlain : State::kFailed;
}

TlsSession::State TlsSession::Receive(std::string_view bytes, std::string& plain, std::string& out) {
  if (impl_->failed) return State::kFailed;
  ERR_clear_error();
  SSL* const ssl = impl_->ssl.get();
  if (BIO_write(impl_->in, bytes.data(), static_cast<int>(bytes.size())) != static_cast<int>(bytes.size()))
    return Fail();
  State state = State::kOpen;
  if (SSL_is_init_finished(ssl) != 1) {
    const int shaken = SSL_do_handshake(ssl);
    if (shaken != 1) state = SSL_get_error(ssl, shaken) == SSL_ERROR_WANT_READ ? State::kHandshake : Fail();
  }
  while (state == State::kOpen) {
    char buffer[16384];
    const int n = SSL_read(ssl, buffer, sizeof buffer);
    if (n > 0) {
      plain.append(buffer, static_cast<size_t>(n));
      continue;
    }
    const int error = SSL_get_error(ssl, n);
    if (error == SSL_ERROR_WANT_READ) break;
    state = error == SSL_ERROR_ZERO_RETURN ? State::kEnded : Fail();
  }
  impl_->TakeOut(out);
  return state;
}

bool TlsSession::Send(std::string_view plain, std::string& out) {
  if (impl_->failed) return false;
  ERR_clear_error();
  constexpr size_t kMost = 1 << 20;  // at a time: the library counts in int
  while (!plain.empty()) {
    const std::string_view part = plain.substr(0, kMost);
    if (SSL_write(impl_->ssl.get(), part.data(), static_cast<int>(part.size())) <= 0) {
      (void)Fail();
      return false;
    }
    plain.remove_prefix(part.size());
    impl_->TakeOut(out);
  }
  return true;
}

void TlsSession::End(std::string& out) {
  if (impl_->failed || SSL_is_init_finished(impl_->ssl.get()) != 1) return;
  ERR_clear_error();
  (void)SSL_shutdown(impl_->ssl.get());
  ERR_clear_error();
  impl_->TakeOut(out);
}

struct TlsContext::Impl {
  Impl(std::string certificate, std::string key, FileReloader::Ticks ticks)
      : certificate_file(std::move(certificate)),
        key_file(std::move(key)),
        reloader(
            {certificate_file, key_file}, [this] { return Take(); }, NotReloaded, std::move(ticks)) {}

  absl::Status Take() {
    absl::StatusOr<PemPair> pair = ReadPair(certificate_file, key_file);
    if (!pair.ok()) return pair.status();
    absl::StatusOr<SslContextPtr> read = ContextOf(*pair, certificate_file, key_file);
    if (!read.ok()) return read.status();
    const std::lock_guard lock(mutex);
    if (context != nullptr) {
      LogInfo("certificate_reloaded", "{path} was read again, for connections that begin from now on",
              {{"path", certificate_file}});
    }
    context = *std::move(read);
    now.pem = *std::move(pair);
    ++now.version;
    return absl::OkStatus();
  }
  static void NotReloaded(const absl::Status& why) {
    LogWarning("certificate_not_reloaded", "the certificate that was there stays in use: {reason}",
               {{"reason", why.message()}});
  }

  const std::string certificate_file, key_file;
  std::mutex mutex;
  SslContextPtr context;
  Pair now;
  FileReloader reloader;
};

TlsContext::TlsContext(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
TlsContext::~TlsContext() = default;

absl::StatusOr<std::unique_ptr<TlsContext>> TlsContext::Open(const std::string& certificate_file,
                                                             const std::string& key_file,
                                                             FileReloader::Ticks ticks) {
  auto impl = std::make_unique<Impl>(certificate_file, key_file, std::move(ticks));
  if (absl::Status s = impl->reloader.Open(); !s.ok()) return s;
  return std::unique_ptr<TlsContext>(new TlsContext(std::move(impl)));
}

TlsContext::Pair TlsContext::Now() {
  impl_->reloader.Look();
  const std::lock_guard lock(impl_->mutex);
  return impl_->now;
}

std::unique_ptr<TlsSession> TlsContext::Begin() {
  impl_->reloader.Look();
  auto session = std::make_unique<TlsSession::Impl>();
  {
    const std::lock_guard lock(impl_->mutex);
    session->ssl.reset(SSL_new(impl_->context.get()));
  }
  BioPtr in(BIO_new(BIO_s_mem())), out(BIO_new(BIO_s_mem()));
  if (session->ssl == nullptr || in == nullptr || out == nullptr) {
    ERR_clear_error();
    return nullptr;
  }
  session->in = in.get();
  session->out = out.get();
  SSL_set_bio(session->ssl.get(), in.release(), out.release());
  SSL_set_accept_state(session->ssl.get());
  return std::unique_ptr<TlsSession>(new TlsSession(std::move(session)));
}

}  // namespace omni
