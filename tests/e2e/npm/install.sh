#!/usr/bin/env bash
# install.sh FOLDER: installs the npm packages of FOLDER's lock file there, once; exits with 77, and says why, where
# npm or the network is missing.
set -euo pipefail
cd "$1"
skip() {
  echo "SKIPPED: $1"
  exit 77
}
command -v npm >/dev/null || skip "npm is not installed"
want=$(sha256sum package-lock.json)
if [[ -f node_modules/.installed && $(<node_modules/.installed) == "$want" ]]; then exit 0; fi
rm -rf node_modules
status=0
log=$(npm ci --ignore-scripts --no-audit --no-fund --fetch-retries=1 --fetch-timeout=60000 2>&1) || status=$?
echo "$log"
if ((status != 0)); then
  # What is wrong in this folder fails; all else is the network, or whoever is asked over it.
  if grep -qE 'EUSAGE|EINTEGRITY|EJSONPARSE' <<<"$log"; then exit "$status"; fi
  skip "npm gets no packages from here"
fi
echo "$want" >node_modules/.installed
