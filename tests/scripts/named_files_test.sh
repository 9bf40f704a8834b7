#!/usr/bin/env bash
# named_files.sh must find each name of a file that is not there, and nothing in a tree without one.
set -euo pipefail
check=$(cd "$(dirname "$0")" && pwd)/named_files.sh
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
failures=0
plant() { # plant PATH TEXT
  mkdir -p "$tree/$(dirname "$1")"
  printf '%s\n' "$2" >"$tree/$1"
}
expect() { # expect PATH TEXT NAME: must be reported, with its line, and nothing else
  local out
  plant "$1" "$2"
  if out=$(bash "$check" "$tree") || [[ $out != "$1:1: $3 is not in the tree" ]]; then
    printf 'FAIL: wanted %s in %s, got:\n%s\n' "$3" "$1" "$out"
    failures=$((failures + 1))
  fi
  rm "$tree/$1"
}

plant store/cache/tile_cache.h "// See store/format/tile.h, and engine/base/."
plant store/format/tile.h "#pragma once"
plant engine/base/ids.h "#pragma once"
plant docs/a.md "store/cache/tile_cache decides; cli/verbs/NAME.cc, \$root/scripts/x, tests/x_*.cc, docs/a.md."
plant docs/c.md "omni pack CHECKPOINT models/mine"
plant scripts/x "echo \"\$root/scripts/y\" build/store/none.o"
if ! out=$(bash "$check" "$tree"); then
  printf 'FAIL: a correct tree was rejected:\n%s\n' "$out"
  failures=$((failures + 1))
fi
expect docs/b.md "see store/tile.h." store/tile.h
expect engine/base/b.h "// as in (engine/base/gone.h)" engine/base/gone.h
expect scripts/z "cat tests/none.txt" tests/none.txt
expect README.md "[page](docs/none.md)" docs/none.md
expect tests/scripts/a.sh "# store/tile_cache" store/tile_cache
expect docs/measured.md "\`models/mini/none.json\`" models/mini/none.json

((failures == 0)) && echo "every missing file was reported"
exit $((failures > 0))
