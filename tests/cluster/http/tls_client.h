// A client that speaks TLS.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>
#include <openssl/err.h>

#include "cluster/openssl.h"
#include "tests/cluster/http/raw_client.h"

namespace omni::testing {

struct TlsClientOptions {
  std::string authority;  // PEM; empty: whatever certificate is shown will do
  int version = 0;        // the only one; 0: as usual
  std::vector<std::string> protocols = {"http/1.1"};
};

class TlsClient : public RawClient {
 public:
  explicit TlsClient(const std::string& address, const TlsClientOptions& options = {}) : RawClient(address) {
    context_.reset(SSL_CTX_new(TLS_client_method()));
    if (options.version != 0) {
      SSL_CTX_set_min_proto_version(context_.get(), options.version);
      SSL_CTX_set_max_proto_version(context_.get(), options.version);
      SSL_CTX_set_security_level(context_.get(), 0);  // old versions may be offered
    }
    if (!options.authority.empty()) {
      const X509Ptr authority = ParseCertificate(options.authority);
      X509_STORE_add_cert(SSL_CTX_get_cert_store(context_.get()), authority.get());
      SSL_CTX_set_verify(context_.get(), SSL_VERIFY_PEER, nullptr);
    }
    std::string list;
    for (const std::string& protocol : options.protocols) {
      list += static_cast<char>(protocol.size());
      list += protocol;
    }
    SSL_CTX_set_alpn_protos(context_.get(), reinterpret_cast<const unsigned char*>(list.data()),
                            static_cast<unsigned>(list.size()));
    ssl_.reset(SSL_new(context_.get()));
    SSL_set_fd(ssl_.get(), fd());
    connected_ = SSL_connect(ssl_.get()) == 1;
    ERR_clear_error();
  }

  bool connected() const { return connected_; }
  std::string protocol() const {
    const unsigned char* name = nullptr;
    unsigned size = 0;
    SSL_get0_alpn_selected(ssl_.get(), &name, &size);
    return {reinterpret_cast<const char*>(name), size};
  }
  std::string version() const { return SSL_get_version(ssl_.get()); }
  std::string server() const {  // by its certificate
    const X509Ptr certificate(SSL_get1_peer_certificate(ssl_.get()));
    return certificate == nullptr ? "" : CommonNameOf(certificate.get());
  }
  void SayEnd() { SSL_shutdown(ssl_.get()); }

 protected:
  ssize_t Put(std::string_view bytes) override {
    return SSL_write(ssl_.get(), bytes.data(), static_cast<int>(bytes.size()));
  }
  ssize_t Take(char* buffer, size_t size) override {
    return SSL_read(ssl_.get(), buffer, static_cast<int>(size));
  }
  bool HasMore() override { return SSL_pending(ssl_.get()) > 0; }

 private:
  SslContextPtr context_;
  SslPtr ssl_;
  bool connected_ = false;
};

}  // namespace omni::testing
