// A private certificate authority and the certificates of a cluster's nodes, as PEM files in folders: P-256
// keys, X.509 v3, SHA-256.
//
//   authority's folder   authority.pem   its certificate, which every node gets
//                        authority.key   its private key, mode 0600: it stays where it is
//   a node's folder      authority.pem, node.pem, node.key (0600)
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

namespace omni {

struct CertificateOptions {
  std::chrono::hours valid{0};  // 0: ten years for an authority, two for a node
  // From five minutes before, since clocks differ; tests make what is over, or not yet valid.
  std::chrono::system_clock::time_point from = std::chrono::system_clock::now();
};

// Makes `dir`, whole or not at all; AlreadyExists or the like: there is something in it.
absl::Status MakeAuthority(const std::string& dir, const CertificateOptions& options = {});

// A certificate for `node` (1 … 64 of A-Z a-z 0-9 . _ -), with which it serves at `hosts`, DNS names or
// IP addresses without a port, and calls other nodes. Makes `out_dir`, whole or not at all; it must not
// be there. To renew a certificate, make it elsewhere and exchange the folders.
absl::Status MakeNodeCertificate(const std::string& authority_dir, const std::string& node,
                                 const std::vector<std::string>& hosts, const std::string& out_dir,
                                 const CertificateOptions& options = {});

// What a node shows others and checks them by.
struct NodeCertificate {
  std::string authority, certificate, key;  // PEM
  std::string node;                         // the name in the certificate
  std::chrono::system_clock::time_point expires;
};

// Any certificate, with those that lead to its authority after it, and its key (PEM).
struct PemPair {
  std::string certificate, key;
};

// Reads a node's folder. An error names the file and the cure: NotFound, a file is missing;
// InvalidArgument, it is no PEM of its kind, or the key is not that of the certificate, or the authority
// did not sign that; FailedPrecondition, a certificate is over or not valid yet at `now`.
absl::StatusOr<NodeCertificate> LoadCredentials(
    const std::string& dir, std::chrono::system_clock::time_point now = std::chrono::system_clock::now());

}  // namespace omni
