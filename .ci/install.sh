#!/usr/bin/env bash
# Installs the project into a virtual environment, and makes that: quiet on success, one sentence on failure.
#
#     PYTHON=python3.12 bash .ci/install.sh .venv '.[preprocess]'
#
# uv takes a fifth of pip's time. pip takes over where uv cannot be had or fails: uv does not read pip's settings.
set -uo pipefail

venv=$1 wanted=$2 python=${PYTHON:-python3}
output=""

quietly() {
  output+=$("$@" 2>&1)$'\n'
}

with_pip() {
  quietly "$venv/bin/python" -m pip install --constraint constraints.txt "$@"
}

with_uv() {
  with_pip uv && quietly "$venv/bin/uv" pip install --python "$venv/bin/python" --constraint constraints.txt "$@"
}

likely_cause() {
  case $output in
    *"No space left"*) echo "the disk is full: .venv takes 8 GB" ;;
    *"from versions: none"* | *"error sending request"*) echo "the package index cannot be reached: is there a network?" ;;
    *ensurepip*) echo "$python makes no environment: is the disk full, or python3-venv of Debian and Ubuntu missing?" ;;
    *) grep . <<<"$output" | tail -n 1 ;;
  esac
}

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
  echo "mmdiff needs Python 3.11 or newer, which $python is not: make PYTHON=python3.12 ..." >&2
  exit 1
fi
if "$venv/bin/python" -m pip --version >/dev/null 2>&1 || quietly "$python" -m venv "$venv"; then
  if with_uv --editable "$wanted" || with_pip --editable "$wanted"; then
    exit 0
  fi
fi
(echo "$output" >"$venv/install.log") 2>/dev/null
echo "$wanted was not installed into $venv: $(likely_cause) (more in $venv/install.log)" >&2
exit 1
