// The services by which clients ask what there is to call, versions 1 and 1alpha.
#pragma once

#include <memory>
#include <string>
#include <vector>

namespace grpc {
class Service;
}

namespace omni {

// Tells of these services, whose descriptors are linked into the program, and of itself. No thread waits for
// a client. Outlives the server that it is registered with.
class ReflectionServices {
 public:
  explicit ReflectionServices(std::vector<std::string> services);
  ~ReflectionServices();
  std::vector<grpc::Service*> services();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace omni
