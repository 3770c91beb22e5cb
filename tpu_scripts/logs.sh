#!/usr/bin/env bash
# Copies what the run wrote on every host, stdout and stderr, to TPU_LOGS/NAME/host-N.log.
#
#     tpu_scripts/logs.sh [--follow] [--variables FILE] [--dry-run]
#
#     --follow           show the log of the first host instead, and what is added to it, until Ctrl-C
#     --variables FILE   settings that differ from tpu_scripts/variables.sh
#     --dry-run          print every command, run none
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=gcloud.sh
source "$(dirname "${BASH_SOURCE[0]}")/gcloud.sh"
options --follow "$@"
logged_in
ready_vm_or_die

if given --follow; then
  tpu ssh "$TPU_NAME" --worker=0 "--command=tail -n 50 -F mmdiff-run/output.log" "${SSH_FLAGS[@]}"
  exit
fi

run mkdir -p "$TPU_LOGS/$TPU_NAME"
missing=0
for ((host = 0; host < HOSTS; host++)); do
  log=$TPU_LOGS/$TPU_NAME/host-$host.log
  # A connection that breaks leaves the copy of before.
  if tpu scp "$TPU_NAME:mmdiff-run/output.log" "$log.new" "--worker=$host" "${SSH_FLAGS[@]}"; then
    run mv "$log.new" "$log"
  else
    missing=$((missing + 1))
  fi
done
((HOSTS == 1)) || note "and so on, one for each host"
((missing == 0)) || die "$missing of $HOSTS host(s) gave no log: was a run started there?"
tell "logs are in $TPU_LOGS/$TPU_NAME"
