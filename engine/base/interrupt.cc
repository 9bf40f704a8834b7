#include "engine/base/interrupt.h"

#include <unistd.h>

#include <csignal>

namespace omni {
namespace {

// A signal handler can reach nothing but static storage, and signals are the process's: so is what they
// replaced.
volatile std::sig_atomic_t interrupted = 0;

// The second one does what the signal does by default. To the first process of a container that is nothing:
// it ends itself.
void OnSignal(int signal) {
  if (interrupted == 0) {
    interrupted = 1;
    return;
  }
  std::signal(signal, SIG_DFL);
  sigset_t one;
  sigemptyset(&one);
  sigaddset(&one, signal);
  sigprocmask(SIG_UNBLOCK, &one, nullptr);
  std::raise(signal);
  _exit(128 + signal);
}

struct sigaction old_int, old_term;

// A signal that whoever started the program had ignored stays ignored (nohup, shell background jobs).
void Install(int signal, struct sigaction* old) {
  sigaction(signal, nullptr, old);
  if (old->sa_handler == SIG_IGN) return;
  struct sigaction action = {};
  action.sa_handler = OnSignal;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  sigaction(signal, &action, nullptr);
}

}  // namespace

InterruptGuard::InterruptGuard() {
  interrupted = 0;
  Install(SIGINT, &old_int);
  Install(SIGTERM, &old_term);
}

InterruptGuard::~InterruptGuard() {
  sigaction(SIGINT, &old_int, nullptr);
  sigaction(SIGTERM, &old_term, nullptr);
}

bool InterruptGuard::Requested() { return interrupted != 0; }

}  // namespace omni
