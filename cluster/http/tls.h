// TLS 1.2 and 1.3 for HTTP's connections, between their sockets and what is said over them. Nothing here
// waits or knows of sockets: bytes that came go in, bytes to be sent come out. (A stream around the socket,
// as Asio's, has buffers of its own for every connection and reads ahead of whoever does not want more; a
// client that listens to a stream keeps nothing here but what OpenSSL itself needs.)
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include <absl/status/statusor.h>

#include "cluster/certificates.h"
#include "cluster/file_reloader.h"

namespace omni {

// The server's side of one connection. One thread.
class TlsSession {
 public:
  enum class State {
    kHandshake,  // nothing can be said yet
    kOpen,
    kEnded,  // the client has said that no more comes; it can still be answered
    kPlain,  // what came first is a request of HTTP without TLS
    kFailed  // broken; `out` may have what the client is to be told of it
  };
  ~TlsSession();

  // Takes what came, all of it. Appends what it says to `plain`, and what TLS itself has to send to `out`.
  State Receive(std::string_view bytes, std::string& plain, std::string& out);
  // Appends what says `plain`; once the session is open. False: it is broken.
  bool Send(std::string_view plain, std::string& out);
  void End(std::string& out);  // no more will be said
  const std::string& failure() const { return failure_; }

  struct Impl;

 private:
  friend class TlsContext;
  explicit TlsSession(std::unique_ptr<Impl> impl);
  State Fail();
  std::unique_ptr<Impl> impl_;
  std::string failure_;
};

// A certificate, with those that lead to its authority after it, and its key, from PEM files. Thread-safe.
class TlsContext {
 public:
  // Errors name the file and the cure: NotFound, it is missing; InvalidArgument, it is no PEM of its kind, or
  // the key is not that of the certificate; FailedPrecondition, the certificate is over or not valid yet.
  static absl::StatusOr<std::unique_ptr<TlsContext>> Open(
      const std::string& certificate_file, const std::string& key_file,
      FileReloader::Ticks ticks = std::chrono::steady_clock::now);
  ~TlsContext();

  // Of a connection that begins. If nobody looked within the last second, looks first whether the files are
  // others (FileReloader), for connections that begin from now on. A pair that cannot be used leaves the old
  // one as it is, and the log says so. Null: there is no memory.
  std::unique_ptr<TlsSession> Begin();

  struct Pair {
    PemPair pem;
    uint64_t version = 0;  // counts the pairs that were taken
  };
  // What a connection that begins is shown, for who shows it elsewhere; looks as Begin does.
  Pair Now();

 private:
  struct Impl;
  explicit TlsContext(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace omni
