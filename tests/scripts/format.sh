#!/usr/bin/env bash
# Every C++ file is as .clang-format wants it. usage: format.sh ROOT. Exit 77 (skipped) without clang-format
# 14, the version that the rules are written for.
set -euo pipefail
cd "$1"
for program in clang-format-14 clang-format; do
  if version=$("$program" --version 2>/dev/null) && [[ $version == *"version 14."* ]]; then break; fi
  program=
done
if [[ -z $program ]]; then
  echo "SKIPPED: formatting was not checked, there is no clang-format 14 here (apt-get install clang-format-14)"
  exit 77
fi
folders=()
for folder in kernels engine store actors cluster cli tests; do
  if [[ -d $folder ]]; then folders+=("$folder"); fi
done
find "${folders[@]}" -type f -regex '.*\.\(h\|cc\|cu\|cuh\|inc\)' -print0 |
  xargs -0 "$program" --dry-run -Werror
