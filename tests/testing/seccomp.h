// Makes single system calls fail, in one thread and those it starts.
#pragma once

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>

#include <functional>
#include <thread>

namespace omni::testing {

struct RefusedCall {
  int call;             // SYS_...
  int error;            // the errno it fails with
  int64_t second = -1;  // only where the call's second argument is this; -1: always
};

// Runs `body` in a thread in which the call is refused. False: this system has no seccomp, `body` was not
// run.
inline bool RunWithout(const RefusedCall& refused, const std::function<void()>& body) {
  bool allowed = false;
  std::thread([&] {
    const auto number = static_cast<uint32_t>(refused.call), second = static_cast<uint32_t>(refused.second);
    const bool any = refused.second < 0;
    sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, args) + 8),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, second, 0, static_cast<uint8_t>(any ? 0 : 1)),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<uint32_t>(refused.error)),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const sock_fprog program = {.len = sizeof(code) / sizeof(code[0]), .filter = code};
    allowed = ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
              ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
    if (allowed) body();
  }).join();
  return allowed;
}

}  // namespace omni::testing
