#include "cluster/openssl.h"

#include <ctime>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <openssl/err.h>
#include <openssl/pem.h>

namespace omni {
namespace {

int NoPassword(char*, int, int, void*) { return -1; }

BioPtr Reader(const std::string& text) {
  return BioPtr(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

}  // namespace

absl::Status OpenSslError(const std::string& what) {
  std::string reason = "no reason is given";
  while (const unsigned long code = ERR_get_error()) {
    const char* text = ERR_reason_error_string(code);
    reason = text != nullptr ? text : absl::StrCat("error ", code);
  }
  return absl::InternalError(absl::StrCat(what, ": ", reason));
}

X509Ptr ParseCertificate(const std::string& pem) {
  X509Ptr certificate(PEM_read_bio_X509(Reader(pem).get(), nullptr, NoPassword, nullptr));
  ERR_clear_error();
  return certificate;
}

KeyPtr ParseKey(const std::string& pem) {
  KeyPtr key(PEM_read_bio_PrivateKey(Reader(pem).get(), nullptr, NoPassword, nullptr));
  ERR_clear_error();
  return key;
}

std::string TimeText(const ASN1_TIME* time) {
  std::tm tm{};
  if (ASN1_TIME_to_tm(time, &tm) != 1) return "";
  return absl::StrFormat("%04d-%02d-%02d %02d:%02d:%02d UTC", tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday,
                         tm.tm_hour, tm.tm_min, tm.tm_sec);
}

std::string CommonNameOf(X509* certificate) {
  X509_NAME* subject = X509_get_subject_name(certificate);
  const int at = X509_NAME_get_index_by_NID(subject, NID_commonName, -1);
  if (at < 0) return "";
  const ASN1_STRING* name = X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at));
  return {reinterpret_cast<const char*>(ASN1_STRING_get0_data(name)),
          static_cast<size_t>(ASN1_STRING_length(name))};
}

}  // namespace omni
