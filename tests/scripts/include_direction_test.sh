#!/usr/bin/env bash
# include_direction.sh must find every planted wrong include, and nothing in a tree without one.
set -euo pipefail
check=$(cd "$(dirname "$0")" && pwd)/include_direction.sh
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT

file() { # file PATH INCLUDE...
  mkdir -p "$tree/$(dirname "$1")"
  printf '#include %s\n' "${@:2}" >"$tree/$1"
}

file kernels/op.cc '"kernels/op.h"' '<cmath>' '<immintrin.h>' '<cstdint>'
file engine/base/ids.h '<compare>' '<absl/status/status.h>'
file engine/decoder.cc '"engine/decoder.h"' '"engine/base/ids.h"' '"kernels/op.h"' '<absl/status/status.h>'
file engine/train/model.cc '<torch/torch.h>' '"engine/config.h"' '"engine/train/model.h"'
file store/pack.cc '<rocksdb/db.h>' '<liburing.h>' '"engine/weights.h"' '"engine/tokenizer.h"' '"store/pack.h"'
file actors/region.cc '<caf/all.hpp>' '"store/model_dir.h"' '"engine/decoder.h"'
file cluster/node.cc '<caf/io/all.hpp>' '<grpcpp/grpcpp.h>' '"actors/region.h"' '"proto/omni/v1/omni.pb.h"'
file cli/run.cc '<CLI/CLI.hpp>' '"cluster/node.h"' '"actors/coordinator.h"' '"store/model_dir.h"'
if ! out=$(bash "$check" "$tree"); then
  printf 'FAIL: a correct tree was rejected:\n%s\n' "$out"
  exit 1
fi

failures=0
expect() { # expect PATH INCLUDE: this include must be reported, alone
  local out
  file "$1" "$2"
  if out=$(bash "$check" "$tree"); then
    echo "FAIL: not reported: $1 with #include $2"
    failures=$((failures + 1))
  elif [[ $out != "$1:1: "* || $out == *$'\n'* ]]; then
    printf 'FAIL: %s with #include %s gave:\n%s\n' "$1" "$2" "$out"
    failures=$((failures + 1))
  fi
  rm "$tree/$1"
}

expect kernels/bad.cc '"engine/config.h"'
expect kernels/bad.h '"engine/base/ids.h"'
expect kernels/bad.cc '<absl/status/status.h>'
expect kernels/bad.cuh '"store/model_dir.h"'
expect kernels/bad.inc '"store/model_dir.h"'
expect engine/base/bad.h '"engine/config.h"'
expect engine/base/bad.h '"kernels/op.h"'
expect engine/bad.cc '"actors/messages.h"'
expect engine/bad.cc '"store/model_dir.h"'
expect engine/bad.cc '<store/model_dir.h>'
expect engine/bad.cc '"engine/train/model.h"'
expect engine/bad.cc '<grpcpp/grpcpp.h>'
expect engine/bad.cc '<rocksdb/db.h>'
expect engine/bad.cc '<caf/all.hpp>'
expect engine/bad.cc '<torch/torch.h>'
expect engine/bad.cc '  <ATen/ATen.h>'
expect engine/train/bad.cc '"store/model_dir.h"'
expect store/bad.cc '"engine/decoder.h"'
expect store/bad.cc '"engine/sampler.h"'
expect store/bad.cc '"actors/region.h"'
expect store/bad.cc '<caf/all.hpp>'
expect actors/bad.cc '"cluster/node.h"'
expect actors/bad.cc '<rocksdb/db.h>'
expect actors/bad.cc '<grpc/grpc.h>'
expect actors/bad.cc '<liburing.h>'
expect engine/bad.cc '<linux/io_uring.h>'
expect cluster/bad.cc '"cli/run.h"'
expect cluster/bad.cc '<rocksdb/db.h>'
expect cli/bad.cc '<caf/all.hpp>'
expect cli/bad.cc '"tests/testing/tiny_model.h"'
expect cli/bad.cc '"engine/train/model.h"'
expect cli/bad.cc '"run.h"'
expect cli/bad.cc '<engine/config.h>'

((failures == 0)) && echo "every planted include was reported"
exit $((failures > 0))
