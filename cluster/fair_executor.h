// One thread that does the deeds of many callers, one of each in turn, so that whoever brings many keeps
// nobody waiting but themselves.
#pragma once

#include <functional>
#include <memory>
#include <string>

namespace omni {

// Thread-safe.
class FairExecutor {
 public:
  FairExecutor();
  // Waits for the deed under way; those that wait are dropped. Not from its own thread.
  ~FairExecutor();
  FairExecutor(const FairExecutor&) = delete;
  FairExecutor& operator=(const FairExecutor&) = delete;

  // A deed that was posted: with its ticket goes the deed, and all that it holds, unless it has begun. May
  // outlive the executor.
  class Ticket {
   public:
    Ticket() = default;
    Ticket(Ticket&&) = default;
    Ticket& operator=(Ticket&& other);
    ~Ticket() { Drop(); }

   private:
    friend class FairExecutor;
    struct Deed;
    void Drop();
    std::shared_ptr<Deed> deed_;
  };
  // `deed` throws nothing. Deeds of one caller are done in order.
  [[nodiscard]] Ticket Post(const std::string& caller, std::function<void()> deed);

 private:
  struct Impl;
  const std::unique_ptr<Impl> impl_;
};

}  // namespace omni
