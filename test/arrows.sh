#!/usr/bin/env bash
# arrows.sh - includes go down only: layers see public headers and their own folder; the library knows no command or test.
# SPDX-License-Identifier: Apache-2.0
set -uo pipefail
cd "${1:-$(dirname "${BASH_SOURCE[0]}")/..}"
bad=0
complain() { echo "$1: includes $2: $3" >&2; bad=1; }

# layer_of FILE: lib/<layer> or collectives: the folder whose files may include each other.
layer_of() {
  case $1 in
    lib/*) echo "lib/$(cut -d/ -f2 <<<"$1")" ;;
    *) cut -d/ -f1 <<<"$1" ;;
  esac
}

while IFS=: read -r file include; do
  layer=$(layer_of "$file")
  case $include in
    seqccl/*)
      [ -f "include/$include" ] || complain "$file" "$include" "there is no such public header"
      continue
      ;;
  esac
  # What is quoted and not public must lie in the layer's own folder.
  found=
  for base in "$(dirname "$file")" "$layer" lib .; do
    [ -f "$base/$include" ] && { found=$(realpath -m --relative-to=. "$base/$include"); break; }
  done
  if [ -z "$found" ]; then
    case $layer in include) ;; *) continue ;; esac  # a generated or re-included file: the compiler judges
    complain "$file" "$include" "public headers include public headers only"
  elif [ "$(layer_of "$found")" != "$layer" ]; then
    complain "$file" "$include" "it belongs to $(layer_of "$found"), and $layer may include public headers and its own files only"
  fi
done < <(grep -rnoHE '^[[:space:]]*#[[:space:]]*include[[:space:]]*"[^"]+"' --include='*.hpp' --include='*.cpp' include lib collectives |
  sed -E 's/^([^:]+):[0-9]+:.*"([^"]+)"/\1:\2/')

# Schedules are pure: a collective knows no executor, transport, thread or clock.
while IFS=: read -r file include; do
  complain "$file" "$include" "a collective only records; it must not know executors, transports, threads or clocks"
done < <(grep -rnoHE '#[[:space:]]*include[[:space:]]*[<"](seqccl/(execute|transport)\.hpp|thread|mutex|atomic|condition_variable|chrono|future)[>"]' collectives |
  sed -E 's/^([^:]+):[0-9]+:.*[<"]([^>"]+)[>"]/\1:\2/')

# Text is made with fmt inside the library, and public headers do not need it.
while IFS=: read -r file include; do
  complain "$file" "$include" "public headers do not depend on it"
done < <(grep -rnoHE '#[[:space:]]*include[[:space:]]*[<"](fmt|hwy|CLI|nlohmann)/[^>"]+[>"]' include | sed -E 's/^([^:]+):[0-9]+:.*[<"]([^>"]+)[>"]/\1:\2/')

exit $bad
