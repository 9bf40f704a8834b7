#!/usr/bin/env bash
# A file or folder of this tree that a page, a comment or a script names is there. usage: named_files.sh ROOT. Prints
# FILE:LINE and the name, a line each; exit 1 if there is any. `store/cache/tile_cache` may name a header or a source.
set -euo pipefail
cd "$1"

files() {
  if git ls-files -z --cached --others --exclude-standard 2>/dev/null; then return; fi
  find . -type d \( -name build -o -name .git -o -name .cache \) -prune -o -type f -printf '%P\0'
}
# Tests of checks plant names of their own, the check of includes knows rooms to come, and a benchmark's text is only
# text. A name with $, *, { or < after it is a pattern, a part in capitals stands for any name.
skipped='^(tests/scripts/(.*_test|include_direction)\.sh|tests/bench/.*\.txt|docs/measured/.*|models/.*\.(json|jsonl))$'
folders='kernels|engine|store|actors|cluster|cli|tests|scripts|docs|cmake|models'
name="(?<![A-Za-z0-9_./\${}-])($folders)/[A-Za-z0-9_./-]++"
found=$(files | { grep -zvE "$skipped" || true; } |
  { xargs -0 grep -noIP "$name(?![*\$\{<])" -- 2>/dev/null || true; } |
  sed -E 's#[./-]+$##; s#^([^:]*:[0-9]+):#\1 #' |
  while read -r where path; do
    [[ ! $path =~ /[A-Z]{2,} || $path == *README* || $path == *CMakeLists* ]] || continue
    [[ $path != models/* || $path == *.* ]] || continue
    [[ -e $path || -e $path.h || -e $path.cc || -e ${where%/*}/$path ]] || echo "$where: $path is not in the tree"
  done)
[[ -z $found ]] || {
  echo "$found"
  exit 1
}
