#!/usr/bin/env bash
# What ptxas says of every kernel against a stated table: registers, bytes spilled, bytes of shared memory and of
# stack, the most over all architectures that were compiled.
# usage: device_resources.sh PTXAS_LOG TABLE           exit 1 if anything is over the table, missing or new
#        device_resources.sh --print PTXAS_LOG         the table as it would be now
set -euo pipefail

# NAME ARCHITECTURES REGISTERS SPILLED SHARED STACK, one line a kernel
seen() {
  awk '
    /Compiling entry function/ {
      match($0, /_Z[A-Za-z0-9_]+/); name = substr($0, RSTART, RLENGTH)
      match(name, /device[0-9]+[A-Za-z0-9]*Kernel(ILi[0-9]+E)?/); kernel = substr(name, RSTART, RLENGTH)
      sub(/^device[0-9]+/, "", kernel)
      if (match(kernel, /ILi[0-9]+E/))
        kernel = substr(kernel, 1, RSTART - 1) "<" substr(kernel, RSTART + 3, RLENGTH - 4) ">"
      ++archs[kernel]
    }
    /bytes stack frame/ { stack = $1; most(stacks, stack); most(spills, $5 > $9 ? $5 : $9) }
    /Used [0-9]+ registers/ {
      match($0, /Used [0-9]+/); most(registers, substr($0, RSTART + 5, RLENGTH - 5))
      shared = 0
      if (match($0, /[0-9]+ bytes smem/)) shared = substr($0, RSTART, RLENGTH - 11)
      most(shareds, shared)
    }
    function most(of, value) { if (!(kernel in of) || value + 0 > of[kernel]) of[kernel] = value + 0 }
    END { for (k in archs) print k, archs[k], registers[k], spills[k], shareds[k], stacks[k] }' "$1" | LC_ALL=C sort
}

if [[ ${1-} == --print ]]; then
  cat <<'HEAD'
# Of each kernel the most over the architectures: how many those are, registers, bytes spilled, shared memory, stack.
# device_resources.sh --print LOG makes this; a kernel that needs more than it says fails the test.
HEAD
  seen "$2"
  exit 0
fi
[[ $# == 2 && -r $1 && -r $2 ]] || { echo "usage: device_resources.sh PTXAS_LOG TABLE" >&2; exit 2; }
seen "$1" | awk -v table="$2" '
  BEGIN {
    while ((getline line < table) > 0) {
      if (line ~ /^#/ || line == "") continue
      split(line, f, " ")
      for (i = 2; i <= 6; ++i) limit[f[1], i] = f[i]
      stated[f[1]] = 1
    }
    split("kernel architectures registers spilled shared stack", what, " ")
  }
  !($1 in stated) { print $1 ": not in the table: " $0; bad = 1; next }
  {
    delete stated[$1]
    ++kernels
    if ($2 != limit[$1, 2]) { print $1 ": compiled for " $2 " architectures, not " limit[$1, 2]; bad = 1 }
    for (i = 3; i <= 6; ++i) {
      if ($i > limit[$1, i] + 0) { print $1 ": " $i " " what[i] ", the table allows " limit[$1, i]; bad = 1 }
    }
  }
  END {
    for (k in stated) { print k ": in the table, and not compiled"; bad = 1 }
    if (!kernels) { print "no kernel in the log"; bad = 1 }
    exit bad
  }'
