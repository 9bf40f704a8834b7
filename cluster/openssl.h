// OpenSSL's objects, owned. Sees OpenSSL; for the few cluster/*.cc that do.
#pragma once

#include <memory>
#include <string>

#include <absl/status/status.h>
#include <openssl/bio.h>
#include <openssl/bn.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

namespace omni {

template <auto kFree>
struct OpenSslFree {
  template <typename T>
  void operator()(T* p) const {
    kFree(p);
  }
};
template <typename T, auto kFree>
using OpenSslPtr = std::unique_ptr<T, OpenSslFree<kFree>>;

using BioPtr = OpenSslPtr<BIO, BIO_free_all>;
using BignumPtr = OpenSslPtr<BIGNUM, BN_free>;
using KeyPtr = OpenSslPtr<EVP_PKEY, EVP_PKEY_free>;
using X509Ptr = OpenSslPtr<X509, X509_free>;
using ExtensionPtr = OpenSslPtr<X509_EXTENSION, X509_EXTENSION_free>;
using GeneralNamesPtr = OpenSslPtr<GENERAL_NAMES, GENERAL_NAMES_free>;
using X509StorePtr = OpenSslPtr<X509_STORE, X509_STORE_free>;
using X509StoreContextPtr = OpenSslPtr<X509_STORE_CTX, X509_STORE_CTX_free>;
using SslContextPtr = OpenSslPtr<SSL_CTX, SSL_CTX_free>;
using SslPtr = OpenSslPtr<SSL, SSL_free>;

// "WHAT: <the library's reason>", and no reasons are left for the next.
absl::Status OpenSslError(const std::string& what);

// From PEM text; null: it is none, or one that wants a password, which nobody is asked for.
X509Ptr ParseCertificate(const std::string& pem);
KeyPtr ParseKey(const std::string& pem);

// "2027-01-31 12:34:56 UTC"; empty: no time that the library understands.
std::string TimeText(const ASN1_TIME* time);
std::string CommonNameOf(X509* certificate);  // of its subject; empty: it has none

}  // namespace omni
