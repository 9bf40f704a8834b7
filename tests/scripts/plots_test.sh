#!/usr/bin/env bash
# A plot that is another than its records give is found, and drawn anew. usage: plots_test.sh ROOT
set -euo pipefail
root=$1
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
mkdir -p "$dir"/docs/{measured,plots}
cp "$root"/docs/measured/mind-books-*.json "$dir/docs/measured"
plot=$root/scripts/lib/adaptation_plot.py
fail() {
  echo "FAIL: $1"
  exit 1
}
! "$plot" --check --root "$dir" 2>"$dir/err" || fail "a plot that is not there is none"
grep -q "adaptation.svg is not what the records give" "$dir/err" || fail "which is said"
"$plot" --root "$dir"
"$plot" --check --root "$dir" || fail "what was drawn is what the records give"
cmp "$dir/docs/plots/adaptation.svg" "$root/docs/plots/adaptation.svg" || fail "and the page's"
sed -i '/moon_pool.gain/s/"value": [0-9.]*/"value": 7.7/' "$dir/docs/measured/mind-books-tried.json"
! "$plot" --check --root "$dir" 2>"$dir/err" || fail "another figure gives another plot"
"$plot" --root "$dir"
grep -q '>7.7<' "$dir/docs/plots/adaptation.svg" || fail "in which it stands"
