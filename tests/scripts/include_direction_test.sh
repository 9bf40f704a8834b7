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
file engine/base/log.cc '"engine/base/log.h"' '<spdlog/logger.h>' '<atomic>'
file engine/text/text_file.cc '"engine/base/ids.h"' '<lzma.h>'
file engine/model/weights.cc '"engine/text/tokenizer.h"' '"kernels/op.h"'
file engine/decode/decoder.cc '"engine/decode/decoder.h"' '"engine/base/ids.h"' '"engine/model/config.h"' \
  '"kernels/op.h"'
file engine/around/polytope.cc '"engine/decode/decoder.h"'
file engine/train/model.cc '<torch/torch.h>' '"engine/model/config.h"' '"engine/train/model.h"' '"engine/decode/eval.h"'
file store/file/files.cc '"store/file/hash.h"' '"engine/base/splitmix.h"'
file store/read/read_queue.cc '"store/file/files.h"' '<liburing.h>' '<linux/io_uring.h>'
file store/format/delta_db.cc '<rocksdb/db.h>' '"engine/model/weights.h"' '"engine/text/tokenizer.h"' \
  '"store/read/read_queue.h"'
file store/cache/tile_cache.cc '"store/format/tile.h"' '"store/read/read_queue.h"'
file store/pack/pack.cc '"store/format/tile.h"' '"engine/model/quantize.h"'
file store/state/state_dir.cc '"store/file/files.h"' '<rocksdb/db.h>'
file store/plan/machine.cc '"store/format/model_files.h"' '"store/state/state_dir.h"' '<linux/io_uring.h>'
file store/model/model.cc '"store/cache/tile_cache.h"' '"store/plan/memory_plan.h"' '"store/pack/pack.h"'
file actors/region.cc '<caf/all.hpp>' '"store/model/model.h"' '"engine/decode/decoder.h"'
file cluster/node.cc '<caf/io/all.hpp>' '<grpcpp/grpcpp.h>' '<boost/beast.hpp>' '<openssl/ssl.h>' \
  '<prometheus/registry.h>' \
  '<google/rpc/status.pb.h>' '"actors/region.h"' '"proto/omni/v1/omni.pb.h"' \
  '"omni/cluster/v1/tiles.grpc.pb.h"'
file cli/main.cc '<CLI/CLI.hpp>' '"cli/verb.h"' '"cluster/node.h"'
file cli/bench/stream.cc '"cli/terminal.h"' '"actors/swarm.h"'
file cli/verbs/run.cc '<CLI/CLI.hpp>' '"cli/verb.h"' '"cli/bench/stream.h"' '"cluster/node.h"' \
  '"actors/coordinator.h"' \
  '"store/model/model.h"'
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

expect kernels/bad.cc '"engine/model/config.h"'
expect kernels/bad.h '"engine/base/ids.h"'
expect kernels/bad.cc '<absl/status/status.h>'
expect kernels/bad.cuh '"store/model/model.h"'
expect kernels/bad.inc '"store/model/model.h"'
expect engine/base/bad.h '"engine/model/config.h"'
expect engine/base/bad.h '"kernels/op.h"'
expect engine/text/bad.h '<spdlog/spdlog.h>'
expect engine/text/bad.h '"engine/model/config.h"'
expect engine/model/bad.h '"engine/decode/decoder.h"'
expect engine/model/bad.h '<lzma.h>'
expect engine/decode/bad.cc '"engine/around/polytope.h"'
expect engine/decode/bad.cc '"actors/messages.h"'
expect engine/decode/bad.cc '"store/model/model.h"'
expect engine/decode/bad.cc '<store/model/model.h>'
expect engine/decode/bad.cc '"engine/train/model.h"'
expect engine/decode/bad.cc '<grpcpp/grpcpp.h>'
expect engine/decode/bad.cc '<rocksdb/db.h>'
expect engine/decode/bad.cc '<caf/all.hpp>'
expect engine/decode/bad.cc '<torch/torch.h>'
expect engine/decode/bad.cc '  <ATen/ATen.h>'
expect engine/decode/bad.cc '<linux/io_uring.h>'
expect engine/train/bad.cc '"store/model/model.h"'
expect engine/bad.cc '"engine/base/ids.h"'
expect store/bad.cc '"store/file/files.h"'
expect store/attic/bad.cc '<string>'
expect store/file/bad.cc '"store/read/read_queue.h"'
expect store/read/bad.cc '"store/format/tile.h"'
expect store/format/bad.cc '"store/cache/tile_cache.h"'
expect store/format/bad.cc '<liburing.h>'
expect store/format/bad.cc '"engine/decode/decoder.h"'
expect store/format/bad.cc '"engine/text/sampler.h"'
expect store/format/bad.cc '"actors/region.h"'
expect store/format/bad.cc '<caf/all.hpp>'
expect store/cache/bad.cc '"store/pack/pack.h"'
expect store/cache/bad.cc '<rocksdb/db.h>'
expect store/pack/bad.cc '"store/model/model.h"'
expect store/verify/bad.cc '"store/cache/tile_cache.h"'
expect store/state/bad.cc '"store/format/tile.h"'
expect store/plan/bad.cc '"store/model/model.h"'
expect store/model/bad.cc '<rocksdb/db.h>'
expect actors/bad.cc '"cluster/node.h"'
expect actors/bad.cc '<rocksdb/db.h>'
expect actors/bad.cc '<grpc/grpc.h>'
expect actors/bad.cc '"omni/cluster/v1/tiles.pb.h"'
expect actors/bad.cc '<boost/asio.hpp>'
expect actors/bad.cc '<prometheus/counter.h>'
expect actors/bad.cc '<openssl/evp.h>'
expect actors/bad.cc '<google/protobuf/message.h>'
expect actors/bad.cc '<CLI/CLI.hpp>'
expect actors/bad.cc '<liburing.h>'
expect cluster/bad.cc '"cli/verb.h"'
expect cluster/bad.cc '<rocksdb/db.h>'
expect cli/bad.cc '<caf/all.hpp>'
expect cli/bad.cc '"cli/verbs/run.h"'
expect cli/bench/bad.cc '"cli/verbs/run.h"'
expect cli/verbs/bad.cc '<grpcpp/grpcpp.h>'
expect cli/bad.cc '"tests/testing/tiny_model.h"'
expect cli/bad.cc '"engine/train/model.h"'
expect cli/bad.cc '"run.h"'
expect cli/bad.cc '<engine/model/config.h>'

((failures == 0)) && echo "every planted include was reported"
exit $((failures > 0))
