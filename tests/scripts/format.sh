#!/usr/bin/env bash
# Every C++ file is as .clang-format wants it. Lines of C++, comments included, have at most 110 characters, of scripts
# and CMake files 120. usage: format.sh ROOT. Without clang-format 14, the version that the rules are written for, only
# lengths are checked, and the exit code is 77 (skipped).
set -euo pipefail
cd "$1"

files() {
  if git ls-files -z --cached --others --exclude-standard 2>/dev/null; then return; fi
  find . -type d \( -name build -o -name .git -o -name .cache \) -prune -o -type f -printf '%P\0'
}
# longer LIMIT PATTERN: lines of the files that fit PATTERN and have more than LIMIT characters
longer() {
  files | { grep -zE "$2" || true; } | { LC_ALL=C.UTF-8 xargs -0 grep -HnE "^.{$1}." -- 2>/dev/null || true; } |
    sed -E "s#^([^:]*:[0-9]+):.*#\1: more than $1 characters#"
}
cpp='\.(h|cc|cu|cuh|inc)$'
long=$(
  longer 110 "$cpp"
  longer 120 '\.(sh|py|cmake)$|(^|/)CMakeLists\.txt$|^scripts/[^./]*$|^\.ci/'
)
if [[ -n $long ]]; then
  echo "$long"
  exit 1
fi

for program in clang-format-14 clang-format; do
  if version=$("$program" --version 2>/dev/null) && [[ $version == *"version 14."* ]]; then break; fi
  program=
done
if [[ -z $program ]]; then
  echo "SKIPPED: formatting was not checked, there is no clang-format 14 here (apt-get install clang-format-14)"
  exit 77
fi
files | { grep -zE "$cpp" || true; } | xargs -0r "$program" --dry-run -Werror
