#!/usr/bin/env bash
# What scripts/figures records of benchmarks' JSON, and what scripts/lib/pair.py makes of two builds, with programs
# that print fixed figures. usage: bench_records_test.sh ROOT
set -euo pipefail
root=$1
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
failures=0
check() { # check WHAT COMMAND...: the command must succeed
  if ! "${@:2}"; then
    echo "FAIL: $1"
    failures=$((failures + 1))
  fi
}
has() { grep -qF -- "$1" "$2"; }

# A tree of its own, with a commit, as a record names one.
git -C "$dir" init -q tree
tree=$dir/tree
mkdir -p "$tree/docs/measured"
echo "Decoding: [][decode.tok_per_s]." >"$tree/README.md"
git -C "$tree" add -A
git -C "$tree" -c user.name=t -c user.email=t@example.org commit -qm first
for rate in 9000.4 10213.7 12000; do
  printf '{"tok_per_s": %s, "hop_us": 0.512, "threads": 2, "isa": "avx2"}\n' "$rate" >"$dir/$rate.json"
done
figures() { "$root/scripts/figures" --root "$tree" "$@" >"$dir/out" 2>&1; }
check "three runs are recorded" figures --record decode --group decode --command "scripts/bench decode" --note quiet \
  "$dir"/*.json
file=$tree/docs/measured/decode.json
check "their median is" has '"name": "decode.tok_per_s", "value": 10200, "unit": "tok/s"' "$file"
check "and the ends between which they lie" has 'median of 3 runs, 9000 to 12000; quiet' "$file"
check "the commit is named" has "\"commit\": \"$(git -C "$tree" rev-parse --short=9 HEAD)\"" "$file"
check "digits are kept as they are meant" has '"value": 0.51,' "$file"
check "what is no figure is left out" test -z "$(grep threads "$file")"
check "the page prints it" has "[10 200 tok/s][decode.tok_per_s]" "$tree/README.md"
check "nothing is left over" test -z "$(ls "$tree/docs/measured" | grep -v '^decode.json$')"
check "and the tree is as it should be" figures --check

cat >"$dir/stream.json" <<END
{"cases": [{"case": "mixed", "tok_per_s": 2.8912, "disk_bytes_per_token": 264900000, "output_xxh3": "ab"}],
 "delta_same_output": true, "prediction_accuracy_1": null}
END
check "cases of a stream are recorded" figures --record stream --group stream --command c "$dir/stream.json"
check "by their names, in the pages' units" \
  has '"stream.mixed.disk_per_token", "value": 265, "unit": "MB"' "$tree/docs/measured/stream.json"
part() { # part FORMAT RATE: what is measured of a model of that format
  printf '{"format": %s, "model": "m%s", "seed": 1, "parameters_nominal": 9, "ram_bytes": 5, "own_tok_per_s": %s, ' \
    "$1" "$1" "$2"
  printf '"own_share": 0.5, "own_best_tok_per_s": 9, "disk_bytes": 7, "parameters_unique": 8, '
  printf '"cases": [{"case": "own", "tok_per_s": %s, "hit_rate": 0.5}]}' "$2"
}
part 2 7.5 >"$dir/known.part"
part 1 2.5 >"$dir/format1.part"
echo '{"format": 2, "delta_speedup": 2.6, "shared_form": {"tok_per_s": 26}, "hot_share": 1}' >"$dir/forms.part"
parts() { python3 "$root/scripts/lib/stream_parts.py" "$@" >"$dir/parts.json" 2>"$dir/err"; }
check "the parts of a stream are made one" parts "$dir"/{known,format1,forms}.part
check "and recorded" figures --record stream --group stream --command c "$dir/parts.json"
check "with how much faster known routes are" \
  has '"stream.own_speedup", "value": 3, "unit": "×"' "$tree/docs/measured/stream.json"
check "what format 1 gives" has '"stream.format1.own.tok_per_s", "value": 2.50' "$tree/docs/measured/stream.json"
check "and what sharing gives" has '"stream.delta_speedup", "value": 2.60' "$tree/docs/measured/stream.json"
check "of another case of the last part nothing is taken" eval '! has hot_share "$dir/parts.json"'
check "parts in another order are refused" eval '! parts "$dir"/{format1,known,forms}.part'
check "with a reason" has "is of format 1, and not 2" "$dir/err"
sed -i 's/"seed": 1/"seed": 2/' "$dir/format1.part"
check "so are other weights" eval '! parts "$dir"/{known,format1,forms}.part'
check "with what differs" has "their seed are 1 and 2" "$dir/err"
echo '{"results": [{"model": "walk", "policy": "lru", "cache_share": 0.08, "hit_rate": 0.5584}]}' >"$dir/cache.json"
check "so are results of a cache" figures --record cache --group cache --command c "$dir/cache.json"
check "by model, size and policy" has '"cache.walk_08.lru.hits", "value": 0.558' "$tree/docs/measured/cache.json"
echo '{"fmea_gain": 0.0279, "books.shirley.fmea_gain": 0.00859, "books.shirley.fmea_other_loss": 0.00444}' \
  >"$dir/mind.json"
check "so is what each book gives" figures --record mind --group mind --command c "$dir/mind.json"
check "by its name" has '"mind.shirley.gain", "value": 0.86, "unit": "%"' "$tree/docs/measured/mind.json"
check "beside their mean" has '"mind.fmea_gain", "value": 2.8, "unit": "%"' "$tree/docs/measured/mind.json"
cp "$file" "$dir/before"
echo '{"nothing": 1}' >"$dir/nothing.json"
check "JSON without a figure is refused" eval '! figures --record decode --group decode --command c "$dir/nothing.json"'
check "and leaves the records alone" cmp "$file" "$dir/before"
echo "int x;" >"$tree/a.cc"
check "code that is not committed is not measured" eval '! figures --committed'
check "which is said" has "a.cc is not committed" "$dir/out"

# pair: rates of the new are half as much again, but for one round that disturbs it.
program() { # program FOLDER RATE...: decode_bench of that folder, one rate a run, the first not counted
  mkdir -p "$dir/$1"
  printf '%s\n' "${@:2}" >"$dir/$1/rates"
  cat >"$dir/$1/decode_bench" <<'END'
#!/bin/sh
rates=$(dirname "$0")/rates
rate=$(head -n 1 "$rates")
sed -i 1d "$rates"
echo "{\"tok_per_s\": $rate, \"hop_us\": $rate, \"plain_tok_per_s\": 1, \"prefill_tok_per_s\": 1}"
END
  chmod +x "$dir/$1/decode_bench"
}
program old 1 100 200 400
program new 9 150 300 100
pair() { python3 "$root/scripts/lib/pair.py" "$dir/old" "$dir/new" --rounds 3 "$@" >"$dir/out" 2>"$dir/err"; }
check "two builds are compared" pair --only decode_tok_per_s --only hop_us --json
check "within rounds" has '"ratios": [1.5, 1.5, 0.25], "median_ratio": 1.5' "$dir/out"
check "less time is faster" grep -q '"median_ratio": 0.666' "$dir/out"
program old 1 100 100 100
program new 1 97 97 97
check "a slower build fails" eval '! pair --only decode_tok_per_s --least 0.98'
check "and is named" has "decode_tok_per_s is below 0.98" "$dir/err"
program old 1
check "a program that prints no JSON is an error" eval '! pair --only decode_tok_per_s'
check "in words" has "pair: error:" "$dir/err"

((failures == 0)) && echo "all figures were as expected"
exit $((failures > 0))
