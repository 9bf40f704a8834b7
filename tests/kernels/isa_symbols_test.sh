#!/usr/bin/env bash
# No file that is compiled for a special instruction set defines a function that the linker may take for
# everybody's: an inline function or a template's instance would bring its instructions to CPUs that lack them.
# usage: isa_symbols_test.sh COMPILER OBJECT...
set -euo pipefail
compiler=$1
shift
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

# Weak and unique functions; data may be shared.
shared_functions() { nm -C --defined-only "$1" | grep -E '^[0-9a-f]+ [Ww] ' || true; }

printf 'inline int Shared(int x) { return x * 3; }\nint (*user)(int) = Shared;\n' >"$dir/planted.cc"
"$compiler" -std=c++20 -O2 -c "$dir/planted.cc" -o "$dir/planted.o"
if [[ $(shared_functions "$dir/planted.o") != *"Shared(int)"* ]]; then
  echo "FAIL: a planted inline function was not found"
  exit 1
fi

failed=0
for object in "$@"; do
  found=$(shared_functions "$object")
  [[ -z $found ]] && continue
  printf 'FAIL: %s defines functions that others may be given:\n%s\n' "$object" "$found"
  failed=1
done
((failed == 0)) && echo "$# objects keep their instructions to themselves"
exit "$failed"
