// The SHA-256 of bytes that come one after another.
#pragma once

#include <openssl/evp.h>

#include <memory>
#include <string>

#include <absl/strings/escaping.h>

namespace omni {

class Sha256 {
 public:
  Sha256() : context_(EVP_MD_CTX_new()) { EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr); }
  void Update(const void* data, size_t bytes) { EVP_DigestUpdate(context_.get(), data, bytes); }
  std::string Hex() {  // once, at the end
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int bytes = 0;
    EVP_DigestFinal_ex(context_.get(), digest, &bytes);
    return absl::BytesToHexString({reinterpret_cast<const char*>(digest), bytes});
  }

 private:
  struct Free {
    void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
  };
  std::unique_ptr<EVP_MD_CTX, Free> context_;
};

}  // namespace omni
