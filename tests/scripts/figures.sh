#!/usr/bin/env bash
# Every measured figure in the pages has a record and is printed as recorded. usage: figures.sh ROOT
set -euo pipefail
exec "$1/scripts/figures" --check --root "$1"
