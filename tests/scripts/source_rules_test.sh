#!/usr/bin/env bash
# source_rules.sh must find each planted fault, and nothing in a tree without one.
set -euo pipefail
check=$(cd "$(dirname "$0")" && pwd)/source_rules.sh
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
failures=0

plant() { # plant PATH TEXT
  mkdir -p "$tree/$(dirname "$1")"
  printf '%s\n' "$2" >"$tree/$1"
}
expect() { # expect PATH TEXT: must be reported under its path
  local out
  plant "$1" "$2"
  if out=$(bash "$check" "$tree") || [[ $out != "$1:"* ]]; then
    printf 'FAIL: not reported: %s (%.60s)\n%s\n' "$1" "$2" "$out"
    failures=$((failures + 1))
  fi
  rm "$tree/$1"
}

plant README.md "Models go to models/, state to \$XDG_STATE_HOME; see https://example.org/home/index.html"
plant scripts/setup "log=/tmp/x.log; cd build/work/x"
plant engine/a.cc "$(yes 'int x;' | head -n 600)"
if ! out=$(bash "$check" "$tree"); then
  printf 'FAIL: a correct tree was rejected:\n%s\n' "$out"
  failures=$((failures + 1))
fi

slash=/
expect engine/long.cc "$(yes 'int x;' | head -n 601)"
expect scripts/long "$(yes 'true' | head -n 601)"
expect docs/a.md "the data lies in ${slash}work/data"
expect cli/a.cc "Open(\"${slash}home/jane/model\")"
expect models/mini/model.json "{\"source\": \"${slash}root/ckpt\"}"
expect deploy/Dockerfile "FROM ghcr${slash:0:0}.io/x/y"
expect .ci/run "curl https://pypi""."org/simple
expect deploy/sources.list "deb http://deb.""debian."org/debian bookworm main

((failures == 0)) && echo "every planted fault was reported"
exit $((failures > 0))
