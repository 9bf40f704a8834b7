#!/usr/bin/env bash
# scripts/device_check where the GPU would be, with programs that only pretend: what a sanitizer finds and what it does
# not end in time are told apart, and the object is whole in either case.
# usage: device_check_script_test.sh ROOT
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cp "$1/scripts/device_check" "$folder/"
mkdir "$folder/bin"
printf '#!/bin/sh\necho "[  PASSED  ] 3 tests."\n' >"$folder/device_suite"
printf '#!/bin/sh\necho "{\\"device\\": \\"none\\"}"\n' >"$folder/device_check_program"
cat >"$folder/bin/compute-sanitizer" <<'FAKE'
#!/bin/sh
case "$2" in
  memcheck) echo '[  PASSED  ] 3 tests.'; echo '========= ERROR SUMMARY: 0 errors' ;;
  racecheck) echo '[       OK ] One (1 ms)'; exec sleep 60 ;;
esac
FAKE
chmod +x "$folder"/device_* "$folder/bin/compute-sanitizer"
run() { PATH="$folder/bin:$PATH" DEVICE_CHECK_SECONDS=12 "$folder/device_check" >"$folder/out" 2>"$folder/err"; }
want() {
  python3 -B - "$folder/out" "$@" <<'PYTHON' || { cat "$folder/out" "$folder/err"; exit 1; }
import json, sys
said = json.load(open(sys.argv[1]))
for key, part in zip(sys.argv[2::2], sys.argv[3::2]):
    if part not in str(said[key]):
        sys.exit(f"{key} is {said[key]!r}, without {part!r}")
PYTHON
}
run || { echo "it failed"; cat "$folder/out" "$folder/err"; exit 1; }
want suite_tests_passed 3 memcheck 'clean, 3 tests' racecheck 'stopped after 8 s, 1 tests, 0 findings' \
  synccheck 'no time left' check "{'device': 'none'}"
printf '#!/bin/sh\necho "========= RACECHECK SUMMARY: 2 hazards"\nexit 9\n' >"$folder/bin/compute-sanitizer"
if run; then echo "a sanitizer's finding passed"; cat "$folder/out"; exit 1; fi
want racecheck 'exit code 9, RACECHECK SUMMARY: 2 hazards'
