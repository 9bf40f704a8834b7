#!/usr/bin/env bash
# The check for GPUs, its device code on fibers and everything small: it ends, finds the CPU's bytes, and measures.
# usage: device_check_test.sh ROOT WRITE_FLAT_MODEL DEVICE_CHECK
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$2" "$1/models/mini" "$1/docs/training.md" "$folder/mini.flat"
"$3" "$folder/mini.flat" --small >"$folder/out" || { cat "$folder/out"; exit 1; }
for want in '"logits_relative_error": 0,' '"logits_rows_of_the_same_bytes": 8,' '"resident_share": ' \
  '"streamed_share": ' '"layer_share": ' '"expert_down_share": '; do
  grep -qF -- "$want" "$folder/out" || { echo "not there: $want"; cat "$folder/out"; exit 1; }
done
if head -c 100000 "$folder/mini.flat" >"$folder/cut.flat" && "$3" "$folder/cut.flat" --small >"$folder/out"; then
  echo "a model that is cut was taken"
  exit 1
fi
grep -q 'it ends early' "$folder/out" || { echo "the cut model's message is another:"; cat "$folder/out"; exit 1; }
