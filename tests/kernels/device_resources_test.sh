#!/usr/bin/env bash
# device_resources.sh finds what is over its table. usage: device_resources_test.sh DEVICE_RESOURCES
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for arch in 75 90; do
  cat <<LOG
ptxas info    : Compiling entry function '_ZN4omni7kernels6device12TwoBitKernelILi8EEEvPKf' for 'sm_$arch'
ptxas info    : Function properties for _ZN4omni7kernels6device12TwoBitKernelILi8EEEvPKf
    8 bytes stack frame, 4 bytes spill stores, 2 bytes spill loads
ptxas info    : Used 1$((arch + 7)) registers, used 1 barriers, 512 bytes smem
ptxas info    : Compiling entry function '_ZN4omni7kernels6device11EmbedKernelEvPKf' for 'sm_$arch'
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 16 registers, used 0 barriers
LOG
done >"$folder/log"
bash "$1" --print "$folder/log" >"$folder/table"
printf 'EmbedKernel 2 16 0 0 0\nTwoBitKernel<8> 2 197 4 512 8\n' | diff - <(grep -v '^#' "$folder/table")
head -n 1 "$folder/table" | grep -q '^# .*registers'
bash "$1" "$folder/log" "$folder/table"

# refused WHAT SED: the table changed so must be refused with this word.
refused() {
  sed "$2" "$folder/table" >"$folder/other"
  if bash "$1" "$folder/log" "$folder/other" >"$folder/out"; then echo "not refused: $2"; exit 1; fi
  grep -qF -- "$3" "$folder/out" || { echo "no '$3' in:"; cat "$folder/out"; exit 1; }
}
refused "$1" 's/197/196/' "197 registers"
refused "$1" 's/ 4 512/ 3 512/' "4 spilled"
refused "$1" 's/512/511/' "512 shared"
refused "$1" 's/ 8$/ 7/' "8 stack"
refused "$1" 's/EmbedKernel 2/EmbedKernel 4/' "2 architectures"
refused "$1" '/EmbedKernel/d' "not in the table"
refused "$1" '$aGoneKernel 2 1 0 0 0' "not compiled"
: >"$folder/log"
refused "$1" '' "no kernel"
