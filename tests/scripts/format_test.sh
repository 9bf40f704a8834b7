#!/usr/bin/env bash
# format.sh must find each line that is too long, and where there is clang-format, what is not as it wants it.
set -euo pipefail
check=$(cd "$(dirname "$0")" && pwd)/format.sh
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
failures=0
fail() {
  echo "FAIL: $1"
  failures=$((failures + 1))
}
plant() { # plant PATH TEXT
  mkdir -p "$tree/$(dirname "$1")"
  printf '%s\n' "$2" >"$tree/$1"
}
check() { # leaves the output in $out and the exit status in $status
  status=0
  out=$(bash "$check" "$tree" 2>&1) || status=$?
}
expect() { # expect PATH TEXT: must be reported
  plant "$1" "$2"
  check
  if ((status == 0 || status == 77)) || [[ $out != *"$1:1:"* ]]; then fail "not reported: $1, $out"; fi
  rm "$tree/$1"
}
letters() { printf '%*s' "$1" '' | tr ' ' "${2:-x}"; }

printf 'BasedOnStyle: Google\nColumnLimit: 110\nReflowComments: false\n' >"$tree/.clang-format"
plant engine/a.cc "// $(letters 107)"
plant engine/b.h "// $(letters 107 | sed 's/x/µ/g')"
plant scripts/a "# $(letters 118)"
plant docs/a.md "$(letters 200)"
check
((status == 0 || status == 77)) || fail "a correct tree was rejected: $out"
if ((status == 77)); then
  grep -q "^SKIPPED: " <<<"$out" || fail "a check that was skipped does not say so"
fi
expect engine/c.cc "// $(letters 108)"
expect tests/c.h "int x;  // $(letters 103)"
expect kernels/c.inc "// $(letters 108)"
expect scripts/b "# $(letters 119)"
expect tests/scripts/b.sh "# $(letters 119)"
expect cmake/b.cmake "# $(letters 119)"
expect store/CMakeLists.txt "# $(letters 119)"
expect .ci/run "# $(letters 119)"
if ((status != 77)); then
  check
  if ((status == 0)); then expect engine/d.cc "int  x ;"; fi
fi

((failures == 0)) && echo "every planted fault was reported"
exit $((failures > 0))
