#!/usr/bin/env bash
# Plots that are drawn from records are what the records give. usage: plots.sh ROOT
set -euo pipefail
exec "$1/scripts/lib/adaptation_plot.py" --check --root "$1"
