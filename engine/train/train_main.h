#pragma once

namespace omni {

// The `omni-train` program; argv as main's. Exit codes: 0 done, 1 failed, 2 wrong usage.
int TrainMain(int argc, char** argv);

}  // namespace omni
