#!/usr/bin/env bash
# scripts/figures --check must find every planted fault, and nothing in a tree without one; without --check it mends
# what it can. usage: figures_test.sh ROOT
set -euo pipefail
figures=$1/scripts/figures
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
failures=0
fail() {
  echo "FAIL: $1"
  failures=$((failures + 1))
}
record() { # record NAME VALUE UNIT
  printf '{"name": "%s", "value": %s, "unit": "%s", "command": "scripts/bench decode", "machine": "M", ' "$1" "$2" "$3"
  printf '"date": "2026-01-31", "commit": "abc"}'
}
plant() { # a tree without a fault
  rm -rf "$tree"/*
  mkdir -p "$tree/docs/measured" "$tree/docs/decisions"
  printf '[\n%s,\n%s,\n%s\n]\n' "$(record decode.rate 10500 tok/s)" "$(record decode.hop '[0.50, 0.62]' µs)" \
    "$(record decode.share 0.90 '')" >"$tree/docs/measured/decode.json"
  {
    echo "Rate [10 500 tok/s][decode.rate], [10 500][decode.rate] on [M][decode.rate@machine]; a hop"
    echo "[0.50 – 0.62 µs][decode.hop]. Not measured: \`-t 3 s\`, v1.2, 5 tokens."
  } >"$tree/README.md"
  echo "It waits for 50 µs and no longer; [0.90][decode.share]." >"$tree/docs/decisions/0001.md"
  echo "docs/decisions/0001.md: waits for 50 µs" >"$tree/docs/measured/allowed.txt"
  "$figures" --root "$tree" 2>/dev/null
}
check() { out=$("$figures" --root "$tree" --check 2>&1); }
expect() { # expect TEXT: the check must fail and say TEXT
  if check; then fail "not reported: $1"; elif [[ $out != *"$1"* ]]; then fail "wanted '$1', got: $out"; fi
}

plant
check || fail "a correct tree was rejected: $out"
cp -r "$tree" "$tree.before"
"$figures" --root "$tree" 2>/dev/null
diff -r "$tree" "$tree.before" >/dev/null || fail "a correct tree was changed"
rm -rf "$tree.before"

plant && sed -i 's/10 500 tok/10 600 tok/' "$tree/README.md"
expect "README.md:1: decode.rate prints '10 600 tok/s'; its record says '10 500 tok/s'"
"$figures" --root "$tree" 2>/dev/null && check || fail "a wrong figure was not mended: $out"
plant && echo "A last word." >>"$tree/README.md"
expect "README.md: the list of links is not that of its figures"
"$figures" --root "$tree" 2>/dev/null && check || fail "the list was not put at the end: $out"
grep -q "A last word" "$tree/README.md" || fail "a text after the list was lost"
plant && sed -i 's/10500/10700/' "$tree/docs/measured/decode.json"
expect "README.md:1: decode.rate prints '10 500 tok/s'; its record says '10 700 tok/s'"
plant && sed -i 's/decode.rate@machine/decode.rate@owner/' "$tree/README.md"
expect "a record has command, machine, date and commit"
plant && sed -i '1s/decode.rate/decode.gone/' "$tree/README.md"
expect "README.md: decode.gone has no record"
plant && echo "And 9 700 tok/s." >>"$tree/docs/decisions/0001.md"
expect "'9 700 tok/s' is a measured figure without a record"
plant && echo "It took 3 to 4 minutes." >>"$tree/docs/decisions/0001.md"
expect "'4 minutes' is a measured figure without a record"
plant && echo "It is 2.5 times as fast, at 900 tokens a second." >>"$tree/README.md"
expect "'2.5 times as' is a measured figure without a record"
expect "'900 tokens a second' is a measured figure without a record"
plant && echo "Hits: 0.75" >"$tree/docs/performance.md"
expect "docs/performance.md:1: '0.75' is a measured figure without a record"
plant && echo "Share: 75 % of it" >"$tree/docs/performance.md"
expect "docs/performance.md:1: '75 %' is a measured figure without a record"
plant && sed -i 's/waits for 50 µs/waits/' "$tree/docs/decisions/0001.md"
expect "'waits for 50 µs' is not in docs/decisions/0001.md"
plant && sed -i 's/^\[decode.hop\]: .*/[decode.hop]: elsewhere.json/' "$tree/README.md"
expect "README.md: the list of links is not that of its figures"
plant && sed -i 's/"unit": "µs", //' "$tree/docs/measured/decode.json"
expect "decode.hop has no unit"
plant && sed -i 's/\[0.50, 0.62\]/[0.62, 0.50]/' "$tree/docs/measured/decode.json"
expect "decode.hop: the value is neither a number nor [lowest, highest]"
plant && sed -i 's/"decode.share"/"stream.share"/' "$tree/docs/measured/decode.json"
expect "stream.share is no name of a figure in this file"
plant && sed -i 's/"decode.share"/"decode.hop"/' "$tree/docs/measured/decode.json"
expect "decode.hop is there twice"
plant && sed -i 's/2026-01-31/yesterday/' "$tree/docs/measured/decode.json"
expect "the date is not written as"
plant && echo '[' >"$tree/docs/measured/decode.json"
expect "not JSON"

((failures == 0)) && echo "every planted fault was reported"
exit $((failures > 0))
