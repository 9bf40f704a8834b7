// Ctrl-C as a question the work asks, not as a sudden death.
#pragma once

namespace omni {

// While alive, the first SIGINT or SIGTERM sets a flag; a second one, of either, ends the program,
// also where it is the first process of a container. One at a
// time.
class InterruptGuard {
 public:
  InterruptGuard();
  ~InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;

  static bool Requested();
};

}  // namespace omni
