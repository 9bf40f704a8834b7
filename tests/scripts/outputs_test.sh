#!/usr/bin/env bash
# scripts/outputs with programs that give little: equal lists for equal programs, and every difference found.
# usage: outputs_test.sh ROOT
set -euo pipefail
outputs=$1/scripts/outputs
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
failures=0
check() { # check WHAT COMMAND...: the command must succeed
  if ! "${@:2}"; then
    echo "FAIL: $1"
    failures=$((failures + 1))
  fi
}
run() { # leaves the output in $dir/out and $dir/err and the exit status in $status
  status=0
  "$@" >"$dir/out" 2>"$dir/err" </dev/null || status=$?
}
# program NAME TEXT RATE: answers `omni run ... --json`.
program() {
  cat >"$dir/$1" <<END
#!/bin/sh
echo '{"text": "$2", "tokens": [1], "timings": {"decode_tok_per_s": $3}}'
echo "model from disk (pread)" >&2
END
  chmod +x "$dir/$1"
}
some=(--only run.greedy.json --only stream.auto)

program old " of the" 10
program faster " of the" 20
program other " at the" 10
run "$outputs" --omni "$dir/old" "${some[@]}"
cp "$dir/out" "$dir/list"
check "a list is made" test "$status" -eq 0 -a "$(wc -l <"$dir/list")" -ge 2
run "$outputs" --omni "$dir/faster" --check "$dir/list"
check "another speed is no difference" test "$status" -eq 0
run "$outputs" --omni "$dir/other" --check "$dir/list"
check "another text is one" test "$status" -eq 1
check "it is named" grep -q '^run.greedy.json: expected' "$dir/out"
check "so is that of a streamed run" grep -q '^stream.auto: expected' "$dir/out"

sed 's/model from disk/all resident/' "$dir/old" >"$dir/resident"
chmod +x "$dir/resident"
run "$outputs" --omni "$dir/resident" --check "$dir/list"
check "a streamed run must have been streamed" grep -q "stream.auto: was to be streamed" "$dir/err"
check "and fails otherwise" test "$status" -eq 1
printf '#!/bin/sh\necho trouble >&2\nexit 1\n' >"$dir/broken"
chmod +x "$dir/broken"
run "$outputs" --omni "$dir/broken" "${some[@]}"
check "a program that fails fails the list" test "$status" -eq 1
check "its error is shown" grep -q trouble "$dir/err"

printf '%s\n' "no.such.run 00" >>"$dir/list"
run "$outputs" --omni "$dir/old" --check "$dir/list"
check "a run that is gone is a difference" grep -q '^no.such.run: expected 00, got no such run' "$dir/out"
printf '%s\n' "train.config.json 00" >>"$dir/list"
run "$outputs" --omni "$dir/old" --check "$dir/list"
check "without a trainer its runs are left out" test -z "$(grep train "$dir/out")"
check "which is said" grep -q "1 runs of the trainer are left out" "$dir/err"
: >"$dir/empty"
run "$outputs" --omni "$dir/old" --check "$dir/empty"
check "an empty list proves nothing" test "$status" -eq 1

((failures == 0)) && echo "every difference was found"
exit $((failures > 0))
