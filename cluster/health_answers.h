// What a node's health checks (grpc.health.v1) are told. For the few files that see gRPC.
#pragma once

#include <mutex>
#include <string>
#include <vector>

#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>

namespace omni {

inline constexpr char kA2aService[] = "lf.a2a.v1.A2AService";
inline constexpr char kInferenceService[] = "omni.inference.v1.Inference";
inline constexpr char kMemoryService[] = "omni.memory.v1.Memory";
inline constexpr char kTasksService[] = "omni.tasks.v1.SwarmTasks";
inline constexpr char kAdminService[] = "omni.cluster.v1.Admin";
inline constexpr char kRegionsService[] = "omni.cluster.v1.Regions";
inline constexpr char kTilesService[] = "omni.cluster.v1.Tiles";
std::vector<std::string> NodeServices();  // all of them

// Thread-safe.
class HealthAnswers {
 public:
  HealthAnswers();  // servers that are made from now on answer health checks

  void Attach(grpc::Server& server);
  void Detach();  // before the server goes

  struct State {
    bool leading = false;      // answers are given here
    bool stopping = false;     // but no new ones
    bool coordinates = false;  // it may lead; else it serves regions to others
  };
  void Tell(const State& state);  // after every change

 private:
  std::mutex mutex_;
  grpc::HealthCheckServiceInterface* health_ = nullptr;  // the server's
};

}  // namespace omni
