// What the thread that runs a process's actors does when none of them has anything to do.
#pragma once

namespace omni {

// Where the actors' thread waits for what comes from outside, such as frames of other nodes: whoever would
// wait for them on a thread of its own would have to wake the actors' for each.
class ActorLoop {
 public:
  virtual ~ActorLoop() = default;

  // On the actors' thread. Poll takes what has come and does not wait; Wait takes what comes next, or returns
  // after Wake.
  virtual void Poll() = 0;
  virtual void Wait() = 0;
  // From any thread: the Wait that goes on, or the next one, returns.
  virtual void Wake() = 0;
};

}  // namespace omni
