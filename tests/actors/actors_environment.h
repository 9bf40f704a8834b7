// One actor system for all tests of a program, as in the product. It ends before main does: CAF's own
// thread-local objects are gone when static ones are destroyed.
#pragma once

#include <memory>

#include <gtest/gtest.h>

#include "actors/actor_system.h"

namespace omni::testing {

class ActorsEnvironment : public ::testing::Environment {
 public:
  static ActorSystem& Actors() { return *system_; }

  void SetUp() override {
    auto started = ActorSystem::Start();
    ASSERT_TRUE(started.ok()) << started.status();
    system_ = *std::move(started);
  }
  void TearDown() override { system_ = nullptr; }

 private:
  static inline std::unique_ptr<ActorSystem> system_;
};

inline ::testing::Environment* const kActorsEnvironment =
    ::testing::AddGlobalTestEnvironment(new ActorsEnvironment);

}  // namespace omni::testing
