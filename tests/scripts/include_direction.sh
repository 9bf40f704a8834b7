#!/usr/bin/env bash
# Include direction: cli -> cluster -> actors -> {engine, store} -> kernels / engine/base, and which folder may see
# which library. usage: include_direction.sh ROOT. Prints one line per offending include; exit 1 if there is any.
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
    may["kernels"] = ""
    may["engine/base"] = ""
    may["engine"] = "engine/base kernels"
    may["engine/train"] = "engine engine/base kernels"
    may["store"] = "engine engine/base kernels"
    may["actors"] = "engine store engine/base kernels"
    may["cluster"] = "actors engine store engine/base kernels proto"
    may["cli"] = "cluster actors engine store engine/base kernels"

    # The store knows bytes and tiles, not the mathematics of layers.
    store_sees = "^engine/(config|weights|checkpoint|tokenizer|quantize|session_state)[.]h$"

    # Libraries that only these parts may see.
    only["torch"] = "engine/train"
    only["rocksdb"] = "store"
    only["liburing"] = "store"
    only["io_uring"] = "store cli"  # of the kernel: the program asks whether it may be used
    only["caf"] = "actors cluster"
    only["grpc"] = "cluster"
    # kernels/ gets the standard library, the compiler and CPU headers below, and CUDA.
    kernel_system = "^([a-z_0-9]+|(immintrin|cpuid|stdint|sys/syscall|unistd)[.]h|(cuda|cublas|mma)[a-z_0-9]*[.]h)$"
  }
  function part_of(path) {
    if (path ~ /^engine\/base\//) return "engine/base"
    if (path ~ /^engine\/train\//) return "engine/train"
    return substr(path, 1, index(path, "/") - 1)
  }
  function has(list, word) { return index(" " list " ", " " word " ") > 0 }
  function library_of(header) {
    if (header ~ /^(torch|ATen|c10|caffe2)\//) return "torch"
    if (header ~ /^rocksdb\//) return "rocksdb"
    if (header ~ /^(liburing[.]h$|liburing\/)/) return "liburing"
    if (header == "linux/io_uring.h") return "io_uring"
    if (header ~ /^caf\//) return "caf"
    if (header ~ /^(grpc|grpcpp|grpc\+\+)\//) return "grpc"
    return ""
  }
  function report(why) { printf "%s:%d: %s\n", FILENAME, FNR, why; bad = 1 }

  /^[ \t]*#[ \t]*include[ \t]*["<]/ {
    match($0, /["<][^">]*[">]/)
    quoted = substr($0, RSTART, 1) == "\""
    header = substr($0, RSTART + 1, RLENGTH - 2)
    part = part_of(FILENAME)
    target = header ~ /\// ? part_of(header) : ""
    if (target in may || target == "proto" || target == "tests") {
      if (target == "tests") report("a product file includes test code: " header)
      else if (target != part && !has(may[part], target)) report(part " may not include " target ": " header)
      else if (part == "store" && target == "engine" && header !~ store_sees)
        report("store may not include this part of engine: " header)
      else if (!quoted) report("write project includes with quotes: " header)
      next
    }
    if (quoted) { report("project includes start at the repository root: " header); next }
    library = library_of(header)
    if (library != "" && !has(only[library], part)) report(part " may not include " library ": " header)
    else if (part == "kernels" && header !~ kernel_system)
      report("kernels may only include its own folder and the standard library: " header)
  }
  END { exit bad }' || { status=$?; ((status == 123)) && exit 1; exit "$status"; }
