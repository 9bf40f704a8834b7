#include "engine/base/interrupt.h"

#include <csignal>

namespace omni {
namespace {

// A signal handler can reach nothing but static storage, and signals are the process's: so is what they
// replaced.
volatile std::sig_atomic_t interrupted = 0;

void OnSignal(int) { interrupted = 1; }

struct sigaction old_int, old_term;

// A signal that whoever started the program had ignored stays ignored (nohup, shell background jobs).
void Install(int signal, struct sigaction* old) {
  sigaction(signal, nullptr, old);
  if (old->sa_handler == SIG_IGN) return;
  struct sigaction action = {};
  action.sa_handler = OnSignal;
  sigemptyset(&action.sa_mask);
  action.sa_flags = static_cast<int>(SA_RESETHAND) | SA_RESTART;
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
