#!/usr/bin/env bash
# This checkout in, one archive out: `pack_code.sh ARCHIVE`. What is not committed comes along, what git ignores does not.
set -euo pipefail
[[ $# == 1 && $1 == /* ]] || {
  echo "pack_code.sh: give the archive to write, as a path from / on" >&2
  exit 1
}
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if git rev-parse --git-dir >/dev/null 2>&1; then
  list=(git ls-files -z --cached --others --exclude-standard)
else # an unpacked release
  list=(find . -path ./.venv -prune -o -type f -print0)
fi
"${list[@]}" | while IFS= read -r -d '' file; do
  [[ ! -e $file ]] || printf '%s\0' "$file" # git also lists what was deleted and not committed
done | tar -czf "$1" --null -T -
