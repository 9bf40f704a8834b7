#!/usr/bin/env bash
# What scripts/ promise without building anything. usage: build_scripts_test.sh ROOT
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
# run COMMAND...: leaves its output in $dir/out and $dir/err and its exit status in $status
run() {
  status=0
  "$@" >"$dir/out" 2>"$dir/err" </dev/null || status=$?
}

for script in "$root"/scripts/* "$root"/scripts/lib/*.{sh,py} "$root"/.ci/run; do
  [[ -f $script ]] || continue
  if [[ $script == *.py || $(head -n 1 "$script") == *python3 ]]; then
    check "$script parses" python3 -c 'import ast, sys; ast.parse(open(sys.argv[1]).read())' "$script"
  else
    check "$script parses" bash -n "$script"
  fi
done
for script in setup demo test bench fuzz outputs figures package; do
  run "$root/scripts/$script" --help
  check "$script --help explains itself on stdout" grep -q "^usage: scripts/$script" "$dir/out"
done

run "$root/scripts/setup" --list
check "setup lists the trainer's library" grep -qx libtorch-dev "$dir/out"
check "setup lists no package twice" test -z "$(sort "$dir/out" | uniq -d)"
run "$root/scripts/setup" --no-trainer --list
check "setup --no-trainer leaves the trainer's library out" test -z "$(grep -E 'torch|openblas' "$dir/out")"
check "setup --no-trainer lists the compiler" grep -qx g++ "$dir/out"
check "setup leaves the browser out" test -z "$(grep -x chromium "$dir/out")"
run "$root/scripts/setup" --no-trainer --e2e --list
check "setup --e2e lists the browser" grep -qx chromium "$dir/out"
check "setup --no-trainer --e2e leaves the trainer's library out" test -z "$(grep torch "$dir/out")"
run "$root/scripts/setup" --no-such-flag
check "setup refuses an unknown flag" test "$status" -ne 0

run "$root/scripts/bench" no-such-group --json
check "bench refuses an unknown group" test "$status" -ne 0
check "bench says so in one line" test "$(wc -l <"$dir/err")" -eq 1
check "bench names its groups" grep -q 'groups are: .*decode.*kernels' "$dir/err"
check "bench --json prints nothing but results on stdout" test ! -s "$dir/out"

run "$root/scripts/bench" decode surplus
check "bench refuses what a group does not take" test "$status" -ne 0
check "and says so in one line" test "$(wc -l <"$dir/err")" -eq 1
run "$root/scripts/bench" decode --note x
check "bench refuses a note without a record" test "$status" -ne 0

run "$root/scripts/test" no-such-room
check "test refuses a room that has no tests" test "$status" -ne 0
check "and says so in one line" test "$(wc -l <"$dir/err")" -eq 1
run "$root/scripts/test" --sanitizers engine/decode
check "test --sanitizers takes no room" test "$status" -ne 0

run "$root/scripts/fuzz" no-such-target
check "fuzz refuses an unknown target" test "$status" -ne 0
check "fuzz names its targets" grep -q 'targets are: all .*tokenizer' "$dir/err"
run "$root/scripts/fuzz" tokenizer soon
check "fuzz refuses a time that is no number" test "$status" -ne 0

run "$root/scripts/faults" --seed none
check "faults refuses a seed that is no number" test "$status" -ne 0
run "$root/scripts/faults" --plant kNothing
check "faults refuses a planted fault that there is not" test "$status" -ne 0

run "$root/scripts/package" rpm
check "package refuses a kind that it does not make" test "$status" -ne 0
run "$root/scripts/package" deb --version next
check "package refuses a version that is none" grep -q "'next' is no version" "$dir/err"
run "$root/scripts/package" deb --to
check "package wants a value for a flag" grep -q -- '--to wants a value' "$dir/err"

source "$root/scripts/lib/common.sh"
jobs=$(OMNI_JOBS='' build_jobs)
check "the number of jobs is between 1 and the cores" test "$jobs" -ge 1 -a "$jobs" -le "$(nproc)"
printf 'OMNI_TRAINER:BOOL=ON\nOMNI_TRAINER_X:BOOL=OFF\n' >"$dir/CMakeCache.txt"
check "a cache variable is read by its whole name" test "$(cached "$dir" OMNI_TRAINER)" = ON
check "a missing cache variable is empty" test -z "$(cached "$dir" OMNI_TESTS)"

((failures == 0)) && echo "all promises kept"
exit $((failures > 0))
