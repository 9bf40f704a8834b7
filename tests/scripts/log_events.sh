#!/usr/bin/env bash
# Every event that the source logs stands in docs/operations.md with its level and fields, and every event there is
# logged somewhere. usage: log_events.sh ROOT. Prints one line per difference; exit 1 if there is any.
set -euo pipefail
cd "$1"
page=docs/operations.md

folders=()
for folder in engine store actors cluster cli; do
  if [[ -d $folder ]]; then folders+=("$folder"); fi
done
((${#folders[@]} > 0)) || { echo "no source folders in $1" >&2; exit 2; }
[[ -f $page ]] || { echo "there is no $page in $1" >&2; exit 2; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

# Both lists have the lines "EVENT LEVEL FIELD,FIELD,..." with the fields in the order of the alphabet, - for none. The
# log's own events, which are not written by a call, have the level and fields "* *".
find "${folders[@]}" -type f -regex '.*\.\(h\|cc\)' -print0 | sort -z | xargs -0 awk '
  function sorted(list,   words, n, i, j, word, joined) {
    n = split(list, words, " ")
    for (i = 2; i <= n; ++i) {
      word = words[i]
      for (j = i - 1; j >= 1 && words[j] > word; --j) words[j + 1] = words[j]
      words[j + 1] = word
    }
    for (i = 1; i <= n; ++i) joined = joined (i > 1 ? "," : "") words[i]
    return n > 0 ? joined : "-"
  }
  # The length of the call whose text begins behind its opening bracket.
  function call_length(rest,   i, depth, quoted, c) {
    depth = 1
    for (i = 1; i <= length(rest) && depth > 0; ++i) {
      c = substr(rest, i, 1)
      if (quoted && c == "\\") ++i
      else if (c == "\"") quoted = !quoted
      else if (!quoted && c == "(") ++depth
      else if (!quoted && c == ")") --depth
    }
    return i - 1
  }
  function take(text,   level, call, event, keys, key, before) {
    while (match(text, /Log(Error|Warning|Info|Debug)\([ ]*"[^"]*"/)) {
      before = substr(text, RSTART - 1, 1)
      level = tolower(substr(text, RSTART + 3, index(substr(text, RSTART), "(") - 4))
      text = substr(text, RSTART + index(substr(text, RSTART), "("))
      if (before ~ /[A-Za-z0-9_]/) continue
      call = substr(text, 1, call_length(text))
      match(call, /"[^"]*"/)
      event = substr(call, RSTART + 1, RLENGTH - 2)
      keys = ""
      while (match(call, /\{[ ]*"[a-z_]+"[ ]*,/)) {
        key = substr(call, RSTART, RLENGTH)
        gsub(/[^a-z_]/, "", key)
        keys = keys " " key
        call = substr(call, RSTART + RLENGTH)
      }
      print event, level, sorted(keys)
    }
  }
  function take_own(text,   event) {
    while (match(text, /[.]event = "[^"]*"/)) {
      event = substr(text, RSTART + 10, RLENGTH - 11)
      text = substr(text, RSTART + RLENGTH)
      print event, "*", "*"
    }
  }
  FNR == 1 { take(text); take_own(text); text = "" }
  !/^[ \t]*\/\// { sub(/^[ \t]+/, " "); text = text $0 }
  END { take(text); take_own(text) }' | sort -u >"$dir/source"

# The rows of the table in the section "Log": | `event` | level | `field`, `field` | ... |
awk -F ' *[|] *' '
  /^## / { inside = $0 == "## Log" }
  inside && $2 ~ /^`[a-z_]+`$/ {
    event = $2; fields = $4
    gsub(/`/, "", event); gsub(/[`,]/, "", fields)
    n = split(fields, words, " ")
    for (i = 2; i <= n; ++i) {
      word = words[i]
      for (j = i - 1; j >= 1 && words[j] > word; --j) words[j + 1] = words[j]
      words[j + 1] = word
    }
    joined = ""
    for (i = 1; i <= n; ++i) joined = joined (i > 1 ? "," : "") words[i]
    print event, $3, (n > 0 ? joined : "-")
  }' "$page" | sort >"$dir/page"

awk -v page="$page" '
  FILENAME ~ /page$/ {
    if ($1 in documented) { print page ": " $1 " has two rows"; bad = 1 }
    documented[$1] = $2 " " $3
    next
  }
  {
    logged[$1] = 1
    if (!($1 in documented)) { print page ": lacks the event " $1 " (" $2 ", fields " $3 ")"; bad = 1 }
    else if ($2 != "*" && documented[$1] != $2 " " $3) {
      print page ": says " documented[$1] " of " $1 ", the source " $2 " " $3; bad = 1
    }
  }
  END {
    for (event in documented) if (!(event in logged)) { print page ": nothing logs " event; bad = 1 }
    exit bad
  }' "$dir/page" "$dir/source"
