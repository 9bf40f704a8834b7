#include "cluster/certificates.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <memory>
#include <string_view>
#include <utility>

#include <absl/strings/str_cat.h>
#include <openssl/pem.h>

#include "cluster/openssl.h"
#include "engine/base/open_file.h"
#include "engine/base/quoted.h"
#include "engine/base/system_error.h"
#include "engine/base/write_all.h"
#include "store/file/atomic_dir.h"
#include "store/file/files.h"

namespace omni {
namespace {

constexpr const char* kAuthorityPem = "authority.pem";
constexpr const char* kAuthorityKey = "authority.key";
constexpr const char* kNodePem = "node.pem";
constexpr const char* kNodeKey = "node.key";
constexpr const char* kAuthorityOver = "make a new authority, and new certificates for all nodes";
constexpr const char* kAuthorityName = "Omni cluster authority";
constexpr auto kYear = std::chrono::hours(24 * 365);
constexpr auto kMaxValid = 50 * kYear;
constexpr auto kBefore = std::chrono::minutes(5);
constexpr int64_t kMaxPemBytes = 64 << 10;
constexpr size_t kMaxHosts = 100, kMaxHostBytes = 253, kMaxNodeBytes = 64;
constexpr int kSerialBits = 126;

std::string Join(const std::string& dir, const char* name) { return absl::StrCat(dir, "/", name); }

absl::Status WritePrivate(const std::string& path, const std::string& bytes) {
  const FileDescriptor file(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (file.get() < 0) return SystemError(path, "create it", errno);
  if (absl::Status s = WriteAll(file.get(), path, bytes.data(), std::ssize(bytes)); !s.ok()) return s;
  if (::fsync(file.get()) != 0) return SystemError(path, "write it", errno);
  return absl::OkStatus();
}

std::string TextOf(BIO* bio) {
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio, &data);
  return {data, static_cast<size_t>(std::max(size, 0L))};
}

absl::StatusOr<std::string> ToPem(X509* certificate) {
  const BioPtr bio(BIO_new(BIO_s_mem()));
  if (bio == nullptr || PEM_write_bio_X509(bio.get(), certificate) != 1)
    return OpenSslError("cannot write a certificate");
  return TextOf(bio.get());
}

absl::StatusOr<std::string> ToPem(EVP_PKEY* key) {
  const BioPtr bio(BIO_new(BIO_s_mem()));
  if (bio == nullptr ||
      PEM_write_bio_PKCS8PrivateKey(bio.get(), key, nullptr, nullptr, 0, nullptr, nullptr) != 1)
    return OpenSslError("cannot write a key");
  return TextOf(bio.get());
}

absl::Status AddExtension(X509* certificate, X509* issuer, int nid, const char* value) {
  X509V3_CTX context;
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  const ExtensionPtr extension(X509V3_EXT_conf_nid(nullptr, &context, nid, value));
  if (extension == nullptr || X509_add_ext(certificate, extension.get(), -1) != 1)
    return OpenSslError(absl::StrCat("cannot say ", value, " in a certificate"));
  return absl::OkStatus();
}

// All that an authority's and a node's certificate have in common, but for their extensions and signature.
absl::StatusOr<X509Ptr> BeginCertificate(const std::string& subject, EVP_PKEY* key,
                                         const CertificateOptions& options, std::chrono::hours usual) {
  const std::chrono::hours valid = options.valid.count() == 0 ? usual : options.valid;
  if (valid < std::chrono::hours(1) || valid > kMaxValid) {
    return absl::InvalidArgumentError(absl::StrCat("a certificate may be valid for 1 … ", kMaxValid.count(),
                                                   " hours, not for ", valid.count()));
  }
  const auto from = options.from - kBefore;
  X509Ptr certificate(X509_new());
  const BignumPtr serial(BN_new());
  X509_NAME* name = certificate == nullptr ? nullptr : X509_get_subject_name(certificate.get());
  const bool made =
      name != nullptr && serial != nullptr && X509_set_version(certificate.get(), X509_VERSION_3) == 1 &&
      BN_rand(serial.get(), kSerialBits, BN_RAND_TOP_ONE, BN_RAND_BOTTOM_ANY) == 1 &&
      BN_to_ASN1_INTEGER(serial.get(), X509_get_serialNumber(certificate.get())) != nullptr &&
      ASN1_TIME_set(X509_getm_notBefore(certificate.get()), std::chrono::system_clock::to_time_t(from)) !=
          nullptr &&
      ASN1_TIME_set(X509_getm_notAfter(certificate.get()),
                    std::chrono::system_clock::to_time_t(options.from + valid)) != nullptr &&
      X509_NAME_add_entry_by_NID(name, NID_commonName, MBSTRING_UTF8,
                                 reinterpret_cast<const unsigned char*>(subject.data()),
                                 static_cast<int>(subject.size()), -1, 0) == 1 &&
      X509_set_pubkey(certificate.get(), key) == 1;
  if (!made) return OpenSslError("cannot make a certificate");
  return certificate;
}

absl::Status Sign(X509* certificate, EVP_PKEY* key) {
  if (X509_sign(certificate, key, EVP_sha256()) == 0) return OpenSslError("cannot sign a certificate");
  return absl::OkStatus();
}

absl::StatusOr<KeyPtr> NewKey() {
  KeyPtr key(EVP_EC_gen("P-256"));
  if (key == nullptr) return OpenSslError("cannot make a P-256 key");
  return key;
}

// "*.NAME" stands for any one label before NAME, which has two at least: others are not believed.
bool IsDnsName(const std::string& name) {
  const bool any = name.starts_with("*.");
  const std::string host = any ? name.substr(2) : name;
  if (any && host.find('.') == std::string::npos) return false;
  if (host.empty() || host.size() > kMaxHostBytes || host.front() == '.' || host.front() == '-') return false;
  return std::all_of(host.begin(), host.end(), [](unsigned char c) {
    return c < 0x80 && (std::isalnum(c) != 0 || c == '.' || c == '-');
  });
}

// Adds one subject alternative name.
absl::Status AddHost(GENERAL_NAMES* names, const std::string& host) {
  GENERAL_NAME* name = GENERAL_NAME_new();
  if (name == nullptr || sk_GENERAL_NAME_push(names, name) == 0) {
    GENERAL_NAME_free(name);
    return OpenSslError("cannot name a host");
  }
  if (ASN1_OCTET_STRING* ip = a2i_IPADDRESS(host.c_str()); ip != nullptr) {
    GENERAL_NAME_set0_value(name, GEN_IPADD, ip);
    return absl::OkStatus();
  }
  const bool looks_like_ip = host.find_first_not_of("0123456789.") == std::string::npos;
  ASN1_IA5STRING* dns = ASN1_IA5STRING_new();
  GENERAL_NAME_set0_value(name, GEN_DNS, dns);
  if (looks_like_ip || !IsDnsName(host)) {
    return absl::InvalidArgumentError(
        absl::StrCat(Quoted(host), " is neither a DNS name nor an IP address; give one without a port"));
  }
  if (ASN1_STRING_set(dns, host.data(), static_cast<int>(host.size())) != 1)
    return OpenSslError("cannot name a host");
  return absl::OkStatus();
}

absl::Status AddHosts(X509* certificate, const std::vector<std::string>& hosts) {
  const GeneralNamesPtr names(GENERAL_NAMES_new());
  if (names == nullptr) return OpenSslError("cannot name hosts");
  for (const std::string& host : hosts) {
    if (absl::Status s = AddHost(names.get(), host); !s.ok()) return s;
  }
  if (X509_add1_ext_i2d(certificate, NID_subject_alt_name, names.get(), 0, X509V3_ADD_DEFAULT) != 1)
    return OpenSslError("cannot name hosts");
  return absl::OkStatus();
}

absl::Status CheckNode(const std::string& node, const std::vector<std::string>& hosts) {
  const bool fits = !node.empty() && node.size() <= kMaxNodeBytes &&
                    std::all_of(node.begin(), node.end(), [](unsigned char c) {
                      return c < 0x80 && (std::isalnum(c) != 0 || c == '.' || c == '_' || c == '-');
                    });
  if (!fits) {
    return absl::InvalidArgumentError(absl::StrCat(Quoted(node), " is no node's name; take 1 … ",
                                                   kMaxNodeBytes, " letters, digits, dots, - and _"));
  }
  if (hosts.empty() || hosts.size() > kMaxHosts) {
    return absl::InvalidArgumentError(absl::StrCat("a node's certificate names 1 … ", kMaxHosts,
                                                   " hosts at which the node is reached, not ",
                                                   hosts.size()));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReadPem(const std::string& path, const char* cure) {
  absl::StatusOr<std::string> text = ReadText(path, kMaxPemBytes);
  if (absl::IsNotFound(text.status())) return absl::NotFoundError(absl::StrCat(path, ": is missing; ", cure));
  return text;
}

absl::StatusOr<X509Ptr> CertificateIn(const std::string& path, const std::string& pem) {
  X509Ptr certificate = ParseCertificate(pem);
  if (certificate == nullptr)
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": is not a certificate in PEM format; make it anew"));
  return certificate;
}

absl::StatusOr<KeyPtr> KeyIn(const std::string& path, const std::string& pem) {
  KeyPtr key = ParseKey(pem);
  if (key == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": is not a private key in PEM format without a password; make it anew"));
  }
  return key;
}

absl::Status CheckMatch(const std::string& key_path, EVP_PKEY* key, const std::string& path,
                        X509* certificate) {
  if (X509_check_private_key(certificate, key) == 1) return absl::OkStatus();
  (void)OpenSslError("");  // its reasons are not the next call's
  return absl::InvalidArgumentError(
      absl::StrCat(key_path, ": is not the key of ", path, "; bring back the pair, or make both anew"));
}

absl::Status CheckDates(const std::string& path, X509* certificate, std::chrono::system_clock::time_point now,
                        const char* cure) {
  std::time_t time = std::chrono::system_clock::to_time_t(now);
  const ASN1_TIME *from = X509_get0_notBefore(certificate), *until = X509_get0_notAfter(certificate);
  const auto text = [&](const char* what, const char* fix) {
    const std::unique_ptr<ASN1_TIME, OpenSslFree<ASN1_STRING_free>> here(ASN1_TIME_set(nullptr, time));
    return absl::FailedPreconditionError(absl::StrCat(path, ": the certificate ", what, ": it is valid from ",
                                                      TimeText(from), " until ", TimeText(until),
                                                      ", and here it is ", TimeText(here.get()), "; ", fix));
  };
  if (X509_cmp_time(from, &time) > 0) return text("is not valid yet", "set the clocks of both machines");
  if (X509_cmp_time(until, &time) < 0) return text("is over", cure);
  return absl::OkStatus();
}

// Whether `authority` signed `certificate`, dates apart.
absl::Status CheckSigned(const std::string& dir, X509* authority, X509* certificate) {
  const X509StorePtr store(X509_STORE_new());
  const X509StoreContextPtr context(X509_STORE_CTX_new());
  if (store == nullptr || context == nullptr || X509_STORE_add_cert(store.get(), authority) != 1 ||
      X509_STORE_CTX_init(context.get(), store.get(), certificate, nullptr) != 1) {
    return OpenSslError("cannot check a certificate");
  }
  X509_STORE_CTX_set_flags(context.get(), X509_V_FLAG_NO_CHECK_TIME);
  if (X509_verify_cert(context.get()) == 1) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      Join(dir, kNodePem), ": was not signed by ", Join(dir, kAuthorityPem), " (",
      X509_verify_cert_error_string(X509_STORE_CTX_get_error(context.get())),
      "); all nodes of a cluster get their certificates from one authority: make this one anew there"));
}

}  // namespace

absl::Status MakeAuthority(const std::string& dir, const CertificateOptions& options) {
  absl::StatusOr<KeyPtr> key = NewKey();
  if (!key.ok()) return key.status();
  absl::StatusOr<X509Ptr> made = BeginCertificate(kAuthorityName, key->get(), options, 10 * kYear);
  if (!made.ok()) return made.status();
  X509* const certificate = made->get();
  if (X509_set_issuer_name(certificate, X509_get_subject_name(certificate)) != 1)
    return OpenSslError("cannot make a certificate");
  for (const auto& [nid, value] : {std::pair(NID_basic_constraints, "critical,CA:TRUE,pathlen:0"),
                                   {NID_key_usage, "critical,keyCertSign,cRLSign"},
                                   {NID_subject_key_identifier, "hash"}}) {
    if (absl::Status s = AddExtension(certificate, certificate, nid, value); !s.ok()) return s;
  }
  if (absl::Status s = Sign(certificate, key->get()); !s.ok()) return s;
  const absl::StatusOr<std::string> certificate_pem = ToPem(certificate), key_pem = ToPem(key->get());
  if (!certificate_pem.ok()) return certificate_pem.status();
  if (!key_pem.ok()) return key_pem.status();
  absl::StatusOr<std::unique_ptr<AtomicDir>> out = AtomicDir::Begin(dir);
  if (!out.ok()) return out.status();
  if (absl::Status s = WritePrivate(Join((*out)->path(), kAuthorityKey), *key_pem); !s.ok()) return s;
  if (absl::Status s = WriteFileSynced(Join((*out)->path(), kAuthorityPem), *certificate_pem); !s.ok())
    return s;
  return (*out)->Commit();
}

absl::Status MakeNodeCertificate(const std::string& authority_dir, const std::string& node,
                                 const std::vector<std::string>& hosts, const std::string& out_dir,
                                 const CertificateOptions& options) {
  if (absl::Status s = CheckNode(node, hosts); !s.ok()) return s;
  const std::string authority_path = Join(authority_dir, kAuthorityPem),
                    authority_key_path = Join(authority_dir, kAuthorityKey);
  const char* const cure = "give the folder of an authority, or make one";
  const absl::StatusOr<std::string> authority_pem = ReadPem(authority_path, cure),
                                    authority_key_pem = ReadPem(authority_key_path, cure);
  if (!authority_pem.ok()) return authority_pem.status();
  if (!authority_key_pem.ok()) return authority_key_pem.status();
  const absl::StatusOr<X509Ptr> authority = CertificateIn(authority_path, *authority_pem);
  if (!authority.ok()) return authority.status();
  const absl::StatusOr<KeyPtr> authority_key = KeyIn(authority_key_path, *authority_key_pem);
  if (!authority_key.ok()) return authority_key.status();
  if (absl::Status s = CheckMatch(authority_key_path, authority_key->get(), authority_path, authority->get());
      !s.ok()) {
    return s;
  }
  if (absl::Status s = CheckDates(authority_path, authority->get(), options.from, kAuthorityOver); !s.ok())
    return s;
  absl::StatusOr<KeyPtr> key = NewKey();
  if (!key.ok()) return key.status();
  absl::StatusOr<X509Ptr> made = BeginCertificate(node, key->get(), options, 2 * kYear);
  if (!made.ok()) return made.status();
  X509* const certificate = made->get();
  if (X509_set_issuer_name(certificate, X509_get_subject_name(authority->get())) != 1)
    return OpenSslError("cannot make a certificate");
  for (const auto& [nid, value] : {std::pair(NID_basic_constraints, "critical,CA:FALSE"),
                                   {NID_key_usage, "critical,digitalSignature"},
                                   {NID_ext_key_usage, "serverAuth,clientAuth"},
                                   {NID_subject_key_identifier, "hash"},
                                   {NID_authority_key_identifier, "keyid:always"}}) {
    if (absl::Status s = AddExtension(certificate, authority->get(), nid, value); !s.ok()) return s;
  }
  if (absl::Status s = AddHosts(certificate, hosts); !s.ok()) return s;
  if (absl::Status s = Sign(certificate, authority_key->get()); !s.ok()) return s;
  const absl::StatusOr<std::string> certificate_pem = ToPem(certificate), key_pem = ToPem(key->get());
  if (!certificate_pem.ok()) return certificate_pem.status();
  if (!key_pem.ok()) return key_pem.status();
  absl::StatusOr<std::unique_ptr<AtomicDir>> out = AtomicDir::Begin(out_dir);
  if (!out.ok()) return out.status();
  if (absl::Status s = WritePrivate(Join((*out)->path(), kNodeKey), *key_pem); !s.ok()) return s;
  for (const auto& [name, pem] : {std::pair(kAuthorityPem, &*authority_pem), {kNodePem, &*certificate_pem}}) {
    if (absl::Status s = WriteFileSynced(Join((*out)->path(), name), *pem); !s.ok()) return s;
  }
  return (*out)->Commit();
}

absl::StatusOr<NodeCertificate> LoadCredentials(const std::string& dir,
                                                std::chrono::system_clock::time_point now) {
  const char* const cure =
      "make a certificate for this node with the cluster's authority, and give its folder";
  const std::string authority_path = Join(dir, kAuthorityPem), path = Join(dir, kNodePem),
                    key_path = Join(dir, kNodeKey);
  NodeCertificate credentials;
  for (const auto& [name, into] : {std::pair(&authority_path, &credentials.authority),
                                   {&path, &credentials.certificate},
                                   {&key_path, &credentials.key}}) {
    absl::StatusOr<std::string> pem = ReadPem(*name, cure);
    if (!pem.ok()) return pem.status();
    *into = *std::move(pem);
  }
  const absl::StatusOr<X509Ptr> authority = CertificateIn(authority_path, credentials.authority),
                                certificate = CertificateIn(path, credentials.certificate);
  if (!authority.ok()) return authority.status();
  if (!certificate.ok()) return certificate.status();
  const absl::StatusOr<KeyPtr> key = KeyIn(key_path, credentials.key);
  if (!key.ok()) return key.status();
  if (absl::Status s = CheckMatch(key_path, key->get(), path, certificate->get()); !s.ok()) return s;
  if (absl::Status s = CheckSigned(dir, authority->get(), certificate->get()); !s.ok()) return s;
  if (absl::Status s = CheckDates(authority_path, authority->get(), now, kAuthorityOver); !s.ok()) {
    return s;
  }
  if (absl::Status s = CheckDates(path, certificate->get(), now, "make a new certificate with the authority");
      !s.ok()) {
    return s;
  }
  credentials.node = CommonNameOf(certificate->get());
  if (credentials.node.empty())
    return absl::InvalidArgumentError(absl::StrCat(path, ": names no node; make the certificate anew"));
  std::tm until{};
  if (ASN1_TIME_to_tm(X509_get0_notAfter(certificate->get()), &until) != 1)
    return absl::InvalidArgumentError(absl::StrCat(path, ": has no date that is understood; make it anew"));
  credentials.expires = std::chrono::system_clock::from_time_t(::timegm(&until));
  return credentials;
}

}  // namespace omni
