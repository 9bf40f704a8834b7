#pragma once

namespace omni {

// The `omni-train` program; argv as main's. Returns its exit code: 0 done, 1 failed, 2 wrong usage,
// 130 interrupted. Throws nothing.
int TrainMain(int argc, char** argv);

}  // namespace omni
