#!/usr/bin/env bash
# Include direction: cli -> cluster -> actors -> {engine, store} -> kernels / engine/base, the same between
# the rooms of engine, store and cli, and which part may see which library. usage: include_direction.sh ROOT.
# Prints one line per offending include; exit 1 if there is any.
set -euo pipefail
cd "$1"

folders=()
for folder in kernels engine store actors cluster cli; do
  if [[ -d $folder ]]; then folders+=("$folder"); fi
done
((${#folders[@]} > 0)) || { echo "no source folders in $1" >&2; exit 2; }

find "${folders[@]}" -type f -regex '.*\.\(h\|cc\|cu\|cuh\|inc\)' -print0 | sort -z |
  xargs -0 awk '
  BEGIN {
    # Project parts each part may include, itself apart.
    base = "engine/base kernels"
    may["kernels"] = ""
    may["engine/base"] = ""
    may["engine/text"] = base
    may["engine/model"] = base " engine/text"
    may["engine/decode"] = base " engine/text engine/model"
    may["engine/around"] = may["engine/decode"] " engine/decode"
    may["engine/train"] = may["engine/around"] " engine/around"
    may["store/file"] = base
    may["store/read"] = base " store/file"
    may["store/format"] = base " engine/text engine/model store/file store/read"
    may["store/cache"] = may["store/format"] " store/format"
    may["store/pack"] = may["store/cache"]
    may["store/verify"] = may["store/cache"]
    may["store/partial"] = may["store/cache"]
    may["store/state"] = base " engine/text engine/model store/file"
    may["store/plan"] = may["store/cache"] " store/state"
    may["store/model"] = may["store/plan"] " store/cache store/pack store/verify store/plan"
    engine = base " engine/text engine/model engine/decode engine/around"
    store = "store/file store/read store/format store/cache store/pack store/verify store/partial store/state"
    store = store " store/plan store/model"
    may["actors"] = engine " " store
    may["cluster"] = may["actors"] " actors proto"
    may["cli"] = may["actors"] " actors cluster"
    may["cli/bench"] = may["cli"] " cli"
    may["cli/chat"] = may["cli/bench"]
    may["cli/verbs"] = may["cli/bench"] " cli/bench cli/chat"

    # The store knows bytes and tiles, not the mathematics of layers.
    store_sees = "^engine/(base/.*|text/tokenizer|"
    store_sees = store_sees "model/(config|neuron_groups|expert_source|weights|checkpoint|quantize|session_state))[.]h$"

    # Libraries that only these parts may see.
    only["torch"] = "engine/train"
    only["spdlog"] = "engine/base"
    only["lzma"] = "engine/text"
    only["rocksdb"] = "store/file store/format store/state"
    only["liburing"] = "store/read"
    only["io_uring"] = "store/read store/plan"  # of the kernel: the plan asks whether it may be used
    only["caf"] = "actors cluster"
    only["grpc"] = "cluster"
    only["protobuf"] = "cluster"
    only["boost"] = "cluster"  # Beast and Asio, for HTTP
    only["openssl"] = "cluster"
    only["prometheus"] = "cluster"
    only["libedit"] = "cli/chat"
    only["cli11"] = "cli cli/verbs engine/train"
    # kernels/ gets the standard library, the compiler and CPU headers below, and CUDA.
    kernel_system = "^([a-z_0-9]+|(immintrin|cpuid|stdint|sys/syscall|unistd)[.]h|(cuda|cublas|mma)[a-z_0-9]*[.]h)$"
  }
  # A file belongs to its room (engine/text, store/read, cli/verbs, ...) or, where a folder has none, to the
  # folder.
  function part_of(path,   parts, n) {
    n = split(path, parts, "/")
    if (n > 2 && (parts[1] == "engine" || parts[1] == "store" || parts[1] == "cli")) return parts[1] "/" parts[2]
    return parts[1]
  }
  function folder_of(part) { return index(part, "/") ? substr(part, 1, index(part, "/") - 1) : part }
  function has(list, word) { return index(" " list " ", " " word " ") > 0 }
  function library_of(header) {
    if (header ~ /^(torch|ATen|c10|caffe2)\//) return "torch"
    if (header ~ /^(spdlog|fmt)\//) return "spdlog"
    if (header == "lzma.h") return "lzma"
    if (header ~ /^rocksdb\//) return "rocksdb"
    if (header ~ /^(liburing[.]h$|liburing\/)/) return "liburing"
    if (header == "linux/io_uring.h") return "io_uring"
    if (header ~ /^caf\//) return "caf"
    if (header ~ /^(grpc|grpcpp|grpc\+\+)\// || header ~ /^omni\/.*[.]pb[.]h$/) return "grpc"
    if (header ~ /^google\/(protobuf|rpc)\//) return "protobuf"
    if (header ~ /^boost\//) return "boost"
    if (header ~ /^openssl\//) return "openssl"
    if (header ~ /^prometheus\//) return "prometheus"
    if (header == "histedit.h") return "libedit"
    if (header ~ /^CLI\//) return "cli11"
    return ""
  }
  function report(why) { printf "%s:%d: %s\n", FILENAME, FNR, why; bad = 1 }

  /^[ \t]*#[ \t]*include[ \t]*["<]/ {
    match($0, /["<][^">]*[">]/)
    quoted = substr($0, RSTART, 1) == "\""
    header = substr($0, RSTART + 1, RLENGTH - 2)
    part = part_of(FILENAME)
    if (!(part in may)) { report("no such room: " part "; its files belong in one of the rooms"); next }
    target = header ~ /\// ? part_of(header) : ""
    if (target in may || folder_of(target) ~ /^(kernels|engine|store|actors|cluster|cli|proto|tests)$/) {
      if (folder_of(target) == "tests") report("a product file includes test code: " header)
      else if (target != part && !has(may[part], target)) report(part " may not include " target ": " header)
      else if (folder_of(part) == "store" && folder_of(target) == "engine" && header !~ store_sees)
        report("store may not include this part of engine: " header)
      else if (!quoted) report("write project includes with quotes: " header)
      next
    }
    generated = header ~ /^omni\/.*[.]pb[.]h$/  # from proto/
    if (quoted && !generated) { report("project includes start at the repository root: " header); next }
    library = library_of(header)
    if (library != "" && !has(only[library], part)) report(part " may not include " library ": " header)
    else if (part == "kernels" && header !~ kernel_system)
      report("kernels may only include its own folder and the standard library: " header)
  }
  END { exit bad }' || { status=$?; ((status == 123)) && exit 1; exit "$status"; }
