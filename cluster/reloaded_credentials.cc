// TLS of a gRPC server whose certificate may change: what cluster/channel_credentials.h says of a PemSource.
// gRPC asks for certificates at each handshake through its C interface alone, so that its keys are asked for
// there too.
#include <mutex>
#include <string>
#include <string_view>
#include <utility>

#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpc/slice.h>
#include <grpcpp/security/server_credentials.h>

#include "cluster/channel_credentials.h"
#include "cluster/grpc_access.h"

namespace omni {
namespace {

// Goes with gRPC's own of the credentials, which connections that begin may outlive the server with.
struct Shown {
  PemSource source;
  std::shared_ptr<Access> access;
  std::mutex mutex;
  uint64_t version = 0;  // that was told last

  static grpc_ssl_certificate_config_reload_status Fetch(void* state,
                                                         grpc_ssl_server_certificate_config** config) {
    auto& self = *static_cast<Shown*>(state);
    const ServerPems pems = self.source();
    const std::lock_guard lock(self.mutex);
    if (pems.version == self.version) return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
    const grpc_ssl_pem_key_cert_pair pair{pems.key.c_str(), pems.certificate.c_str()};
    // It wants roots even where no client is asked for a certificate, and then nobody is judged by them.
    const std::string& roots = pems.authority.empty() ? pems.certificate : pems.authority;
    *config = grpc_ssl_server_certificate_config_create(roots.c_str(), &pair, 1);
    self.version = pems.version;
    return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_NEW;
  }

  static void Process(void* state, grpc_auth_context* peer, const grpc_metadata* metadata, size_t count,
                      grpc_process_auth_metadata_done_cb done, void* call) {
    const auto& self = *static_cast<Shown*>(state);
    absl::Status status;
    if (self.access != nullptr && !IsNode(peer)) {
      status =
          CheckCall(*self.access, Only(metadata, count, ":path"), Only(metadata, count, "authorization"));
    }
    done(call, nullptr, 0, nullptr, 0, static_cast<grpc_status_code>(status.code()),
         std::string(status.message()).c_str());
  }
  static void Destroy(void* state) { delete static_cast<Shown*>(state); }

 private:
  static std::string_view View(const grpc_slice& slice) {
    return {reinterpret_cast<const char*>(GRPC_SLICE_START_PTR(slice)), GRPC_SLICE_LENGTH(slice)};
  }
  // The one value of the key; empty: there is none, or there are several.
  static std::string_view Only(const grpc_metadata* metadata, size_t count, std::string_view key) {
    const grpc_metadata* found = nullptr;
    for (const grpc_metadata* m = metadata; m != metadata + count; ++m) {
      if (View(m->key) != key) continue;
      if (found != nullptr) return {};
      found = m;
    }
    return found == nullptr ? std::string_view() : View(found->value);
  }
  // As PeerNode says it.
  static bool IsNode(grpc_auth_context* peer) {
    if (peer == nullptr || grpc_auth_context_peer_is_authenticated(peer) == 0) return false;
    grpc_auth_property_iterator names =
        grpc_auth_context_find_properties_by_name(peer, GRPC_X509_CN_PROPERTY_NAME);
    const grpc_auth_property* name = grpc_auth_property_iterator_next(&names);
    return name != nullptr && name->value_length > 0 && grpc_auth_property_iterator_next(&names) == nullptr;
  }
};

class ReloadedCredentials final : public grpc::ServerCredentials {
 public:
  explicit ReloadedCredentials(grpc_server_credentials* made) : made_(made) {}
  ~ReloadedCredentials() override { grpc_server_credentials_release(made_); }
  ReloadedCredentials(const ReloadedCredentials&) = delete;
  ReloadedCredentials& operator=(const ReloadedCredentials&) = delete;

  // It has one already, which stays.
  void SetAuthMetadataProcessor(const std::shared_ptr<grpc::AuthMetadataProcessor>&) override {}

 private:
  int AddPortToServer(const std::string& address, grpc_server* server) override {
    return grpc_server_add_http2_port(server, address.c_str(), made_);
  }

  grpc_server_credentials* const made_;
};

}  // namespace

std::shared_ptr<grpc::ServerCredentials> MakeReloadedCredentials(PemSource source, bool must,
                                                                 std::shared_ptr<Access> access) {
  const grpc_ssl_client_certificate_request_type request =
      must                         ? GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY
      : source().authority.empty() ? GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE
                                   : GRPC_SSL_REQUEST_CLIENT_CERTIFICATE_AND_VERIFY;
  grpc_init();  // until the credentials count for themselves
  auto* shown = new Shown{std::move(source), std::move(access), {}, 0};
  grpc_server_credentials* made = grpc_ssl_server_credentials_create_with_options(
      grpc_ssl_server_credentials_create_options_using_config_fetcher(request, Shown::Fetch, shown));
  grpc_server_credentials_set_auth_metadata_processor(made, {Shown::Process, Shown::Destroy, shown});
  auto credentials = std::make_shared<ReloadedCredentials>(made);
  grpc_shutdown();
  return credentials;
}

}  // namespace omni
