#!/usr/bin/env bash
# No source file is longer than 600 lines, and none names a directory of one machine or a package registry's
# host. usage: source_rules.sh ROOT. Prints one line per finding; exit 1 if there is any.
set -euo pipefail
cd "$1"

# Files that git keeps or would keep; in a tree without git, everything but build folders.
files() {
  if git ls-files -z --cached --others --exclude-standard 2>/dev/null; then return; fi
  find . -type d \( -name build -o -name .git -o -name .cache \) -prune -o -type f -printf '%P\0'
}
mapfile -d '' -t all < <(files)
((${#all[@]} > 0)) || { echo "no files in $1" >&2; exit 2; }

failed=0
code='\.(h|cc|cu|cuh|inc|c|sh|py|cmake|proto)$|(^|/)CMakeLists\.txt$|^scripts/[^./]*$'
for file in "${all[@]}"; do
  [[ -f $file && $file =~ $code ]] || continue
  lines=$(wc -l <"$file")
  if ((lines > 600)); then
    echo "$file: $lines lines, more than 600; split it by concept"
    failed=1
  fi
done

# Brackets keep these patterns from matching themselves.
machine='(^|[^[:alnum:]_./-])/[w]ork/|(^|[^[:alnum:]_./-])/[h]ome/[a-z]|(^|[^[:alnum:]_./-])/[r]oot/|/[U]sers/[a-z]'
registry='(pypi|pythonhosted|npmjs|crates|conda|anaconda)[.](org|io|com)|proxy[.]golang[.]org'
registry+='|(deb|security)[.]debian[.]org'
registry+='|(docker|quay|ghcr|gcr)[.]io|archive[.]ubuntu[.]com|huggingface[.]co'
search() {
  printf '%s\0' "${all[@]}" | { xargs -0 grep -InE -e "$1" -- 2>/dev/null || true; } | cut -c 1-200 |
    sed "s|\$|    <- $2|"
}
found=$(
  search "$machine" "a path of one machine"
  search "$registry" "a package registry's host"
)
if [[ -n $found ]]; then
  echo "$found"
  failed=1
fi
exit "$failed"
