#include "cluster/health_answers.h"

namespace omni {

std::vector<std::string> NodeServices() {
  return {kA2aService,     kAdminService, kInferenceService, kMemoryService,
          kRegionsService, kTasksService, kTilesService};
}

HealthAnswers::HealthAnswers() {
  static std::once_flag once;
  std::call_once(once, [] { grpc::EnableDefaultHealthCheckService(true); });
}

void HealthAnswers::Attach(grpc::Server& server) {
  const std::lock_guard lock(mutex_);
  health_ = server.GetHealthCheckService();
}

void HealthAnswers::Detach() {
  const std::lock_guard lock(mutex_);
  health_ = nullptr;
}

void HealthAnswers::Tell(const State& state) {
  const std::lock_guard lock(mutex_);
  if (health_ == nullptr) return;
  const bool answers = state.leading && !state.stopping;
  health_->SetServingStatus("", !state.stopping && (state.leading || !state.coordinates));
  health_->SetServingStatus(kInferenceService, answers);
  for (const char* service : {kA2aService, kMemoryService, kTasksService})
    health_->SetServingStatus(service, answers);
  health_->SetServingStatus(kAdminService, state.leading);
  for (const char* service : {kRegionsService, kTilesService}) health_->SetServingStatus(service, true);
}

}  // namespace omni
