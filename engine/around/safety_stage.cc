#include "engine/around/safety_stage.h"

#include <new>
#include <vector>

#include "engine/around/safety_projection.h"

namespace omni {
namespace {

void Project(TokenRow& row, const kernels::Ops& ops) {
  try {
    const absl::StatusOr<Projection> projection = row.polytope->Project(row.hidden, ops);
    if (projection.ok()) {
      row.notes.safety = SafetyNote{static_cast<float>(projection->distance),
                                    static_cast<int32_t>(projection->active.size())};
    }
    row.status = projection.status();
  } catch (const std::bad_alloc&) {
    row.status = absl::ResourceExhaustedError("no memory to project onto the polytope");
  }
}

}  // namespace

bool SafetyStage::Run(std::span<TokenRow> rows, const Done&) {
  std::vector<TokenRow*> asked;
  for (TokenRow& row : rows) {
    if (row.polytope != nullptr && row.status.ok()) asked.push_back(&row);
  }
  if (asked.empty()) return true;
  const auto project = [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) Project(*asked[static_cast<size_t>(i)], ops_);
  };
  if (pool_ == nullptr) {
    project(0, std::ssize(asked));
  } else {
    pool_->Run(std::ssize(asked), 1, project);
  }
  return true;
}

}  // namespace omni
