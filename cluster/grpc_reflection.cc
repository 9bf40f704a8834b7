#include "cluster/grpc_reflection.h"

#include <set>
#include <utility>

#include <google/protobuf/descriptor.h>
#include <google/protobuf/descriptor.pb.h>
#include <grpcpp/grpcpp.h>
#include <third_party/health.pb.h>
#include <third_party/reflection_v1.grpc.pb.h>
#include <third_party/reflection_v1alpha.grpc.pb.h>

namespace omni {
namespace {

namespace protobuf = ::google::protobuf;

struct VersionOne {
  using Service = ::grpc::reflection::v1::ServerReflection;
  using Request = ::grpc::reflection::v1::ServerReflectionRequest;
  using Response = ::grpc::reflection::v1::ServerReflectionResponse;
};
struct VersionOneAlpha {
  using Service = ::grpc::reflection::v1alpha::ServerReflection;
  using Request = ::grpc::reflection::v1alpha::ServerReflectionRequest;
  using Response = ::grpc::reflection::v1alpha::ServerReflectionResponse;
};

const protobuf::DescriptorPool& Pool() { return *protobuf::DescriptorPool::generated_pool(); }

// The file and those that it needs, but none that the client has been given before.
template <typename Response>
void AddFile(const protobuf::FileDescriptor* file, std::set<std::string>& given, Response& response) {
  if (!given.insert(file->name()).second) return;
  protobuf::FileDescriptorProto proto;
  file->CopyTo(&proto);
  response.mutable_file_descriptor_response()->add_file_descriptor_proto(proto.SerializeAsString());
  for (int i = 0; i < file->dependency_count(); ++i) AddFile(file->dependency(i), given, response);
}

template <typename Response>
void Refuse(grpc::StatusCode code, const std::string& message, Response& response) {
  response.mutable_error_response()->set_error_code(code);
  response.mutable_error_response()->set_error_message(message);
}

// What a client is given again if it asks for it by name.
template <typename Response>
void GiveFile(const protobuf::FileDescriptor* file, const std::string& what, std::set<std::string>& given,
              Response& response) {
  if (file == nullptr) return Refuse(grpc::StatusCode::NOT_FOUND, what + " is not known here", response);
  given.erase(file->name());
  AddFile(file, given, response);
}

template <typename Request, typename Response>
void Answer(const Request& request, const std::vector<std::string>& services, std::set<std::string>& given,
            Response& response) {
  response.set_valid_host(request.host());
  *response.mutable_original_request() = request;
  switch (request.message_request_case()) {
    case Request::kFileByFilename:
      return GiveFile(Pool().FindFileByName(request.file_by_filename()), "this file", given, response);
    case Request::kFileContainingSymbol:
      return GiveFile(Pool().FindFileContainingSymbol(request.file_containing_symbol()), "this symbol", given,
                      response);
    case Request::kFileContainingExtension: {
      const auto& asked = request.file_containing_extension();
      const protobuf::Descriptor* type = Pool().FindMessageTypeByName(asked.containing_type());
      const protobuf::FieldDescriptor* extension =
          type == nullptr ? nullptr : Pool().FindExtensionByNumber(type, asked.extension_number());
      return GiveFile(extension == nullptr ? nullptr : extension->file(), "this extension", given, response);
    }
    case Request::kAllExtensionNumbersOfType: {
      const protobuf::Descriptor* type =
          Pool().FindMessageTypeByName(request.all_extension_numbers_of_type());
      if (type == nullptr)
        return Refuse(grpc::StatusCode::NOT_FOUND, "this type is not known here", response);
      std::vector<const protobuf::FieldDescriptor*> extensions;
      Pool().FindAllExtensions(type, &extensions);
      response.mutable_all_extension_numbers_response()->set_base_type_name(type->full_name());
      for (const protobuf::FieldDescriptor* extension : extensions)
        response.mutable_all_extension_numbers_response()->add_extension_number(extension->number());
      return;
    }
    case Request::kListServices:
      for (const std::string& service : services)
        response.mutable_list_services_response()->add_service()->set_name(service);
      return;
    default:
      return Refuse(grpc::StatusCode::INVALID_ARGUMENT, "nothing is asked for", response);
  }
}

template <typename Version>
class Reflection final : public Version::Service::CallbackService {
 public:
  using Request = typename Version::Request;
  using Response = typename Version::Response;
  explicit Reflection(const std::vector<std::string>& services) : services_(services) {}

  grpc::ServerBidiReactor<Request, Response>* ServerReflectionInfo(grpc::CallbackServerContext*) override {
    return new Reactor(services_);
  }

 private:
  // One question after another.
  class Reactor final : public grpc::ServerBidiReactor<Request, Response> {
   public:
    explicit Reactor(const std::vector<std::string>& services) : services_(services) {
      this->StartRead(&request_);
    }
    void OnReadDone(bool ok) override {
      if (!ok) return this->Finish(grpc::Status::OK);
      response_.Clear();
      Answer(request_, services_, given_, response_);
      this->StartWrite(&response_);
    }
    void OnWriteDone(bool ok) override {
      if (!ok) return this->Finish(grpc::Status::CANCELLED);
      this->StartRead(&request_);
    }
    void OnDone() override { delete this; }

   private:
    const std::vector<std::string>& services_;
    std::set<std::string> given_;
    Request request_;
    Response response_;
  };

  const std::vector<std::string>& services_;
};

}  // namespace

struct ReflectionServices::Impl {
  explicit Impl(std::vector<std::string> names) : services(std::move(names)) {
    // gRPC answers for this one without its descriptor.
    services.push_back(::grpc::health::v1::HealthCheckRequest::descriptor()->file()->service(0)->full_name());
    services.emplace_back(VersionOne::Service::service_full_name());
    services.emplace_back(VersionOneAlpha::Service::service_full_name());
  }
  std::vector<std::string> services;
  Reflection<VersionOne> one{services};
  Reflection<VersionOneAlpha> alpha{services};
};

ReflectionServices::ReflectionServices(std::vector<std::string> services)
    : impl_(std::make_unique<Impl>(std::move(services))) {}
ReflectionServices::~ReflectionServices() = default;
std::vector<grpc::Service*> ReflectionServices::services() { return {&impl_->one, &impl_->alpha}; }

}  // namespace omni
